// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"xdplb/internal/lb"
)

// loadedService attaches and adds a service with three backends; the caller closes nothing.
func loadedService(t testing.TB, scheduler lb.Scheduler) (Attachment, lb.ServiceKey) {
	t.Helper()
	attachment := director(t, small)
	service := lb.Service{
		ServiceKey: lb.ServiceKey{Addr: addrPort(address(false, 1, 0), 80), Protocol: lb.TCP}, Scheduler: scheduler,
	}
	for n := range 3 {
		hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 1, byte(n)}, Ifindex: attachment.Ifindex}
		service.Backends = append(service.Backends, lb.Backend{Addr: address(false, 2, n), Weight: 1, Hop: hop})
	}
	mustChange(t, func(s *lb.State) error { return s.AddService(service) })
	return attachment, service.ServiceKey
}

func setScheduler(t testing.TB, key lb.ServiceKey, scheduler lb.Scheduler) {
	t.Helper()
	mustChange(t, func(s *lb.State) error {
		return s.SetService(key, func(service *lb.Service) error { service.Scheduler = scheduler; return nil })
	})
}

// checkLoads compares what the data plane has counted of the service's backends with what is in the flow table.
func checkLoads(t testing.TB, when string, key lb.ServiceKey, want ...flowCount) {
	t.Helper()
	d, live := openLive(t)
	defer d.Close()
	var got []flowCount
	for _, b := range live.services[key].backends {
		active, inactive := splitLoad(atomic.LoadUint64(d.loadWord(b.id)))
		got = append(got, flowCount{uint64(active), uint64(inactive)})
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(flowCount{})); diff != "" {
		t.Errorf("%s: loads (-want +got):\n%s", when, diff)
	}
}

// TestSchedulerChangeCountsConnections: a service whose connections nobody counted gets a scheduler that looks at them. They
// stay where they are, and the next ones go where there are fewest.
func TestSchedulerChangeCountsConnections(t *testing.T) {
	t.Parallel()
	attachment, key := loadedService(t, lb.RR)
	client := func(n int) netip.AddrPort { return addrPort(address(false, 9, n), 1000) }
	send := func(n int, flags layers.TCP) [6]byte {
		t.Helper()
		d, err := Open(pinDir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		return d.send(t, attachment.Ifindex, frameTo(t, attachment.MAC, client(n), key.Addr, flags))
	}
	var went [][6]byte
	for n := range 7 { // 3, 2 and 2, the second backend's only SYNs
		went = append(went, send(n, layers.TCP{SYN: true}))
		if n%3 != 1 {
			send(n, layers.TCP{ACK: true})
		}
	}
	checkLoads(t, "rr", key, flowCount{}, flowCount{}, flowCount{})
	setScheduler(t, key, lb.WLC)
	checkLoads(t, "wlc", key, flowCount{3, 0}, flowCount{0, 2}, flowCount{2, 0})
	for n, want := range went {
		if got := send(n, layers.TCP{ACK: true}); got != want {
			t.Errorf("connection %d went to %x, and with wlc to %x", n, want, got)
		}
	}
	checkLoads(t, "all established", key, flowCount{3, 0}, flowCount{2, 0}, flowCount{2, 0})
	if got := send(7, layers.TCP{SYN: true}); got[5] != 1 {
		t.Errorf("the next connection goes to backend %d, want 1", got[5])
	}
	if got := send(8, layers.TCP{SYN: true}); got[5] != 2 {
		t.Errorf("and the one after it to backend %d, want 2", got[5])
	}
	setScheduler(t, key, lb.RR)
	send(0, layers.TCP{RST: true, ACK: true})
	send(1, layers.TCP{FIN: true, ACK: true})
	setScheduler(t, key, lb.SED)
	checkLoads(t, "rr meanwhile", key, flowCount{2, 1}, flowCount{1, 2}, flowCount{2, 1})

	first := snapshot(t).Services[0].Backends[0]
	mustChange(t, func(s *lb.State) error { return s.DeleteBackend(key, first.Addr) })
	mustChange(t, func(s *lb.State) error { return s.AddBackend(key, first) })
	checkLoads(t, "removed and added", key, flowCount{}, flowCount{1, 2}, flowCount{2, 1})
}

// TestSweepCountsLoads: what a sweep frees is subtracted, what it finds uncounted is counted, and a wrong sum is put right.
func TestSweepCountsLoads(t *testing.T) {
	t.Parallel()
	_, key := loadedService(t, lb.LC)
	d, live := openLive(t)
	defer d.Close()
	backends := live.services[key].backends
	put := func(bucket int, id uint32, age uint32, state xdplbFlowState, check uint32) {
		t.Helper()
		d.putFlow(t, bucket, 0, id, d.backends.get(id).Generation, age, state)
		value := d.bucket(t, bucket)
		value.Entry[0].Status |= check
		if err := d.maps.Flows.Put(uint32(bucket), value); err != nil {
			t.Fatal(err)
		}
	}
	const established, closed = xdplbFlowStateFLOW_ESTABLISHED, xdplbFlowStateFLOW_CLOSED
	put(1, backends[0].id, 0, established, statusCounted)
	put(2, backends[0].id, 2000, closed, statusCounted) // expired
	put(3, backends[1].id, 0, established, 0)           // a packet of the time before
	put(4, backends[1].id, 0, closed, 0)
	put(5, backends[2].id, 0, established, statusCounted)
	atomic.StoreUint64(d.loadWord(backends[0].id), joinLoad(1, 1))
	atomic.StoreUint64(d.loadWord(backends[2].id), joinLoad(7, 9)) // somebody died
	for range 2 {
		if _, err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkLoads(t, "swept", key, flowCount{1, 0}, flowCount{1, 1}, flowCount{1, 0})
	}
	if !d.bucket(t, 3).Entry[0].isCounted() {
		t.Error("the flow that was counted is not marked")
	}
}

// TestCorrection: while packets go on counting, a sweep's sum may be any between the one before and the one after.
func TestCorrection(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ seen, before, after, want int64 }{
		{5, 5, 5, 0}, {5, 3, 7, 0}, {5, 7, 3, 0}, {5, 3, 3, 2}, {5, 8, 9, -3}, {5, 9, 8, -3}, {0, 0, 4, 0}, {5, 1, 3, 2},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			if got := outside(tt.seen, tt.before, tt.after); got != tt.want {
				t.Errorf("got %d", got)
			}
		})
	}
}
