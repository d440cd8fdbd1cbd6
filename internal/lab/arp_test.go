// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"xdplb/internal/lab"
)

// TestARPModes listens on the router's side of the segment to who claims the VIP: in answers to a question for it, and when a
// real server looks for its gateway on behalf of the VIP.
func TestARPModes(t *testing.T) {
	t.Parallel()
	for _, mode := range []lab.ARPMode{lab.ARPStatic, lab.ARPSysctl, lab.ARPFilter, lab.ARPNone} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			l := lab.New(t, lab.Options{ARP: mode})
			router, director := l.Host("router"), l.Host("director")
			all := []string{mac(director), mac(l.Host("real1")), mac(l.Host("real2"))}
			want := all[:1]
			if mode == lab.ARPStatic || mode == lab.ARPNone {
				want = all
			}
			if diff := cmp.Diff(want, claimants(t, l)); diff != "" {
				t.Errorf("who claims the VIP (-want +got):\n%s", diff)
			}
			if mode == lab.ARPNone {
				return
			}
			neighbours, err := router.Neighbours()
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(neighbours, func(n lab.Neighbour) bool { return n.Addr == lab.VIP })
			if i < 0 {
				t.Fatalf("the router does not know the VIP: %v", neighbours)
			}
			if got := neighbours[i]; got.MAC.String() != mac(director) || got.Permanent != (mode == lab.ARPStatic) {
				t.Errorf("the router knows the VIP as %+v, want the director's MAC %s", got, mac(director))
			}
		})
	}
}

func mac(h *lab.Host) string { return h.Interfaces[0].MAC.String() }

// claimants returns the MAC addresses that appear in ARP with the VIP as sender, sorted.
func claimants(t *testing.T, l *lab.Lab) []string {
	t.Helper()
	router := l.Host("router")
	socket := arpSocket(t, router, link(t, router, "eth1").Attrs().Index)
	if _, err := unix.Write(socket, arpRequest(router.Interfaces[1].MAC, router.Interfaces[1].Addresses[0].Addr(), lab.VIP)); err != nil {
		t.Fatal(err)
	}
	// The router's own stack asks as well, and keeps what it learns.
	send(t, router, netip.AddrPort{}, netip.AddrPortFrom(lab.VIP, 9))
	for _, name := range []string{"real1", "real2"} {
		real := l.Host(name)
		if err := real.ForgetNeighbours(); err != nil {
			t.Fatal(err)
		}
		send(t, real, netip.AddrPortFrom(lab.VIP, 0), netip.AddrPortFrom(l.Host("client").Addr(), 9))
	}
	var found []string
	frame := make([]byte, 128)
	for {
		n, err := unix.Read(socket, frame)
		if err == unix.EAGAIN {
			break // SO_RCVTIMEO is over
		}
		if err != nil {
			t.Fatal(err)
		}
		sender, _ := netip.AddrFromSlice(frame[28:32])
		if n >= 42 && sender == lab.VIP {
			found = append(found, net.HardwareAddr(frame[22:28]).String())
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// send sends a datagram from the host.
func send(t *testing.T, h *lab.Host, from, to netip.AddrPort) {
	t.Helper()
	err := h.Do(func() error {
		var local *net.UDPAddr
		if from.IsValid() {
			local = net.UDPAddrFromAddrPort(from)
		}
		conn, err := net.DialUDP("udp4", local, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("x"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// arpSocket opens a packet socket for ARP on an interface of the host. Reading gives up after 200 ms.
func arpSocket(t *testing.T, h *lab.Host, ifindex int) int {
	t.Helper()
	protocol := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ARP >> 8, unix.ETH_P_ARP & 0xff})
	socket := -1
	err := h.Do(func() (err error) {
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol)); err != nil {
			return err
		}
		return unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: ifindex})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(socket) })
	patience := unix.NsecToTimeval((200 * time.Millisecond).Nanoseconds())
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		t.Fatal(err)
	}
	return socket
}

// arpRequest builds a broadcast frame that asks for an address (RFC 826).
func arpRequest(mac net.HardwareAddr, asker, wanted netip.Addr) []byte {
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	frame = append(frame, 0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1)
	frame = append(frame, mac...)
	frame = append(frame, asker.AsSlice()...)
	frame = append(frame, 0, 0, 0, 0, 0, 0)
	return append(frame, wanted.AsSlice()...)
}
