// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"xdplb/internal/lb"
)

// TestLimitIsGivenAndTaken: a limit holds from the moment on at which it is given, for the connections that are there too;
// lowered, raised and taken away it is what the next connection meets.
func TestLimitIsGivenAndTaken(t *testing.T) {
	t.Parallel()
	attachment, key := loadedService(t, lb.RR)
	next := 0
	send := func() (went int) {
		t.Helper()
		d, err := Open(pinDir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		next++
		client := netip.AddrPortFrom(address(false, 9, next), 1000)
		action, out := d.run(t, attachment.Ifindex, frameTo(t, attachment.MAC, client, key.Addr, layers.TCP{SYN: true}))
		if action != xdpTX {
			return -1
		}
		return int(out[5])
	}
	limit := func(upper, lower uint32, backends ...int) {
		t.Helper()
		for _, n := range backends {
			mustChange(t, func(s *lb.State) error {
				return s.SetBackend(key, address(false, 2, n), func(b *lb.Backend) error { b.Upper, b.Lower = upper, lower; return nil })
			})
		}
		checkTidy(t)
	}
	want := func(when string, want ...int) {
		t.Helper()
		for _, n := range want {
			if got := send(); got != n {
				t.Errorf("%s: the next connection goes to %d, want %d", when, got, n)
			}
		}
	}
	want("no limit", 0, 1, 2, 0, 1, 2)
	checkLoads(t, "no limit", key, flowCount{}, flowCount{}, flowCount{})
	limit(3, 0, 0)
	checkLoads(t, "limit", key, flowCount{0, 2}, flowCount{0, 2}, flowCount{0, 2})
	want("limit of 3", 0, 1, 2, 1, 2)
	limit(2, 0, 1, 2)
	want("all full", -1, -1)
	limit(3, 0, 1) // it has four
	want("raised, and full all the same", -1)
	limit(5, 0, 1)
	want("raised", 1, -1)
	limit(6, 4, 1)
	want("raised again", 1, -1)
	limit(0, 0, 2)
	want("taken away", 2, 2, 2)
	limit(0, 0, 0, 1)
	want("no limit again", 0, 1, 2)
}

// TestLimitOfMaglevIsTakenAway: flows that went elsewhere because their slot's backend was full stay there when there is no
// limit any more and mh looks at slots alone again.
func TestLimitOfMaglevIsTakenAway(t *testing.T) {
	t.Parallel()
	attachment, key := loadedService(t, lb.MH)
	send := func(n int, flags layers.TCP) [6]byte {
		t.Helper()
		d, err := Open(pinDir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		client := netip.AddrPortFrom(address(false, 9, n), 1000)
		return d.send(t, attachment.Ifindex, frameTo(t, attachment.MAC, client, key.Addr, flags))
	}
	limit := func(upper uint32) {
		t.Helper()
		mustChange(t, func(s *lb.State) error {
			return s.SetService(key, func(service *lb.Service) error {
				service.Flags = lb.MHFallback
				for i := range service.Backends[:2] {
					service.Backends[i].Upper = upper
				}
				return nil
			})
		})
	}
	limit(2)
	const clients = 20
	var went [clients][6]byte
	counts := map[byte]int{}
	for n := range went {
		went[n] = send(n, layers.TCP{SYN: true})
		send(n, layers.TCP{ACK: true})
		counts[went[n][5]]++
	}
	if counts[0] != 2 || counts[1] != 2 || counts[2] != clients-4 {
		t.Fatalf("with limits of 2 and 2: %v", counts)
	}
	limit(0)
	for n, want := range went {
		if got := send(n, layers.TCP{ACK: true}); got != want {
			t.Errorf("connection %d went to %x, and without limits to %x", n, want, got)
		}
	}
}
