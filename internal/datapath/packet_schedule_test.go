// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"xdplb/internal/lb"
)

// addReals adds n real servers on the director's interface and returns their ids.
func (d *rig) addReals(n int) []uint32 {
	const first = 100
	var ids []uint32
	for i := range n {
		id := uint32(first + i)
		d.addBackend(id, xdplbNextHop{Mac: realMAC(i), Egress: egressHere})
		ids = append(ids, id)
	}
	return ids
}

func realMAC(i int) macAddr {
	return macAddr{0x02, 0, 0, 1, byte(i >> 8), byte(i)}
}

// TestTurnsAreExact opens flows on all CPUs at once: each slot of the table gets its share, give or take one.
func TestTurnsAreExact(t *testing.T) {
	for _, c := range []struct {
		name  string
		slots []int // index of the backend
	}{
		{"rr, 1 backend", []int{0}},
		{"rr, 2 backends", []int{0, 1}},
		{"rr, 7 backends", []int{0, 1, 2, 3, 4, 5, 6}},
		{"wrr 4 3 2", []int{0, 0, 1, 0, 1, 2, 0, 1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newRig(t)
			reals := d.addReals(7)
			var slots []uint32
			share := map[uint32]int{}
			for _, i := range c.slots {
				slots = append(slots, reals[i])
				share[reals[i]]++
			}
			d.publish(udpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_RR, slots...))
			const each = 4001
			var flows atomic.Int64
			onEachCPU(t, func(worker, workers int) {
				for i := range each {
					number := worker*each + i
					client := netip.AddrFrom4([4]byte{10, 1, byte(number >> 8), byte(number)})
					// A bucket may be locked for long where the other CPU is a virtual one that does not run: clients try again.
					for action := uint32(xdpDrop); action == xdpDrop; {
						action, _ = d.run(frame(ip4(from4(client)), udp(portPlain)))
					}
					flows.Add(1)
				}
			})
			cycles := int(flows.Load()) / len(slots)
			sum := 0
			for backend, share := range share {
				got := int(d.counters(backend).Connections)
				sum += got
				least, most := cycles*share, (cycles+1)*share
				if int(flows.Load())%len(slots) == 0 {
					most = least
				}
				if got < least || got > most {
					t.Errorf("backend %d with %d of %d slots: %d of %d flows, want %d to %d",
						backend, share, len(slots), got, flows.Load(), least, most)
				}
			}
			if sum != int(flows.Load()) {
				t.Errorf("%d connections counted of %d flows", sum, flows.Load())
			}
		})
	}
}

// TestTurnsFollowTheTable: on one CPU the flows take the slots one after the other, cycle by cycle.
func TestTurnsFollowTheTable(t *testing.T) {
	t.Parallel()
	for _, scheduler := range []xdplbScheduler{xdplbSchedulerSCHEDULER_RR, xdplbSchedulerSCHEDULER_WRR} {
		d := newRig(t)
		reals := d.addReals(3)
		order := []int{0, 0, 1, 0, 1, 2, 0, 1, 2}
		var slots []uint32
		for _, i := range order {
			slots = append(slots, reals[i])
		}
		d.publish(udpService("172.10.0.9:80", scheduler, slots...))
		for i := range 3 * len(order) {
			in := frame(ip4(), udpFrom(uint16(2000+i), portPlain))
			if to, want := d.destination(t, in), realMAC(order[i%len(order)]); to != want {
				t.Errorf("scheduler %d, flow %d: to %x, want %x", scheduler, i, to, want)
			}
		}
	}
}

// TestServicesTakeTurnsApart: the flows of one service do not move another one's turn.
func TestServicesTakeTurnsApart(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	d.publish(
		udpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_RR, real1, real2),
		udpService("[fd00:172::9]:80", xdplbSchedulerSCHEDULER_RR, real1, real2),
	)
	want := []macAddr{real1MAC, real2MAC}
	for i := range 6 {
		port := uint16(2000 + i)
		if to := d.destination(t, frame(ip4(), udpFrom(port, portPlain))); to != want[i%2] {
			t.Errorf("IPv4 flow %d: to %x, want %x", i, to, want[i%2])
		}
		if to := d.destination(t, frame(ip6(), udpFrom(port, portPlain))); to != want[i%2] {
			t.Errorf("IPv6 flow %d: to %x, want %x", i, to, want[i%2])
		}
	}
}

// TestHashedClients: sh and mh give all flows of a client to one backend, on every director alike, and
// spread clients over all slots.
func TestHashedClients(t *testing.T) {
	t.Parallel()
	const clients, perClient, backends = 2000, 2, 8
	addresses := map[string]func(i int) netip.Addr{
		"IPv4":             func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) },
		"IPv6, low bytes":  func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd10::%x", i+1)) },
		"IPv6, high bytes": func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd10:%x::1", i+1)) },
		"IPv6, 2nd word":   func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd10:0:0:%x::1", i+1)) },
		"IPv6, 3rd word":   func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd10::%x:0:1", i+1)) },
	}
	one, other := newRig(t), newRig(t)
	for _, scheduler := range []xdplbScheduler{xdplbSchedulerSCHEDULER_SH, xdplbSchedulerSCHEDULER_MH} {
		for _, d := range []*rig{one, other} {
			d.publish(everywhere(portPlain, scheduler, d.addReals(backends)...)...)
		}
		for name, address := range addresses {
			t.Run(fmt.Sprintf("scheduler %d, %s", scheduler, name), func(t *testing.T) {
				counts := map[macAddr]int{}
				for i := range clients {
					client := address(i)
					want := one.destination(t, datagramOf(client, 2000))
					counts[want]++
					for port := range uint16(perClient) {
						for _, d := range []*rig{one, other} {
							if to := d.destination(t, datagramOf(client, 3000+port)); to != want {
								t.Fatalf("client %v: to %x and to %x", client, want, to)
							}
						}
					}
				}
				// 250 each, and 5 standard deviations (15) around it
				for i := range backends {
					if n := counts[realMAC(i)]; n < 175 || n > 325 {
						t.Errorf("%d of %d clients to backend %d, want about %d", n, clients, i, clients/backends)
					}
				}
			})
		}
	}
}

// TestHashedPorts: with the flag, sh and mh hash the client's port too, and user space finds the same slot.
func TestHashedPorts(t *testing.T) {
	t.Parallel()
	const backends = 8
	d := newRig(t)
	for _, scheduler := range []xdplbScheduler{xdplbSchedulerSCHEDULER_SH, xdplbSchedulerSCHEDULER_MH} {
		for _, flags := range []lb.SchedulerFlags{0, lb.SHPort, lb.SHFallback} {
			services := everywhere(portPlain, scheduler, d.addReals(backends)...)
			for i := range services {
				services[i].flags = flags
			}
			d.forget()
			d.publish(services...)
			value := xdplbService{Flags: uint8(flags)}
			for _, client := range []netip.Addr{client4, client6} {
				seen := map[macAddr]bool{}
				for port := range uint16(64) {
					at := netip.AddrPortFrom(client, 2000+port)
					want := realMAC(int(uint64(value.hashClient(at)) * backends >> 32))
					to := d.destination(t, datagramOf(client, at.Port()))
					if to != want {
						t.Fatalf("scheduler %d, flags %d: %v to %x, want %x", scheduler, flags, at, to, want)
					}
					seen[to] = true
				}
				if many := len(seen) > 1; many != (flags == lb.SHPort) {
					t.Errorf("scheduler %d, flags %d: the ports of %v are with %d backends", scheduler, flags, client, len(seen))
				}
			}
		}
	}
}

func datagramOf(client netip.Addr, port uint16) []byte {
	if client.Is4() {
		return frame(ip4(from4(client)), udpFrom(port, portPlain))
	}
	return frame(ip6(from6(client)), udpFrom(port, portPlain))
}

// TestHashedConnectionOfAnotherDirector: whose flow table is empty finds the same backend from the middle of a
// connection.
func TestHashedConnectionOfAnotherDirector(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_MH, d.addReals(16)...)...)
	for i := range 100 {
		client := netip.AddrFrom4([4]byte{10, 1, 2, byte(i)})
		want := d.destination(t, frame(ip4(from4(client)), syn(portPlain)))
		d.forget()
		if to := d.destination(t, frame(ip4(from4(client)), ack(portPlain))); to != want {
			t.Errorf("client %v: SYN to %x, ACK to %x", client, want, to)
		}
	}
	d.wantFlows(t, "the hash finds it again")
}

// TestConfigurationsChangeAtOnce: one store of the epoch changes IPv4 and IPv6, TCP and UDP together. A packet that
// comes after one that met the new configuration never meets the old one.
func TestConfigurationsChangeAtOnce(t *testing.T) {
	d := newRig(t)
	d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real1)...)
	d.prepare(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real2)...)
	if to := d.destination(t, frame(ip4(), udp(portPlain))); to != real1MAC {
		t.Errorf("prepared, not yet live: to %x, want %x", to, real1MAC)
	}
	d.forget()

	var enough atomic.Bool
	flipped := make(chan struct{})
	go func() {
		defer close(flipped)
		for !enough.Load() {
			time.Sleep(200 * time.Microsecond)
			d.flip() // forth and back
		}
	}()
	defer func() { enough.Store(true); <-flipped }()
	const wantChanges = 50
	deadline := time.Now().Add(10 * time.Second)
	last := macAddr{}
	for port, changes := uint16(0), 0; changes < wantChanges; port++ {
		if time.Now().After(deadline) {
			t.Fatalf("saw %d changes, want %d: this test shows nothing", changes, wantChanges)
		}
		epoch := d.config.load(0)
		var seen []macAddr
		for _, in := range [][]byte{
			frame(ip4(), udpFrom(port, portPlain)), frame(ip6(), udpFrom(port, portPlain)),
			frame(ip4(), tcp(port, portPlain, tcpFlags{syn: true})), frame(ip6(), tcp(port, portPlain, tcpFlags{syn: true})),
		} {
			seen = append(seen, d.destination(t, in))
		}
		want := []macAddr{real2MAC, real1MAC}[epoch&1]
		if same := []macAddr{want, want, want, want}; d.config.load(0) == epoch && !slices.Equal(seen, same) {
			t.Fatalf("epoch %d: to %x, want %x", epoch, seen, want)
		}
		if seen[0] != last {
			changes++
		}
		last = seen[0]
		d.forget()
	}
}

// TestNextHopIsReadWhole changes a backend's next hop, one word, while packets read it: each meets the one or the
// other, never one's address with the other's VLAN.
func TestNextHopIsReadWhole(t *testing.T) {
	d := newWorld(t)
	hops := []xdplbNextHop{{Mac: real1MAC, Egress: egressHere}, {Mac: real2MAC, Egress: egressHereVLAN}}
	in := frame(ip4(), udp(portPlain))
	plain := string(forwarded(in, directorMAC, real1MAC))
	tagged := string(withTag(forwarded(in, directorMAC, real2MAC), vlanHere))

	const wantFrames = 20_000
	var stop atomic.Bool
	onEachCPU(t, func(worker, workers int) {
		if worker == 0 {
			for n := 0; !stop.Load(); n++ {
				d.setHop(real1, hops[n%2])
			}
			return
		}
		seen := map[string]int{}
		for range wantFrames / (workers - 1) {
			_, out := d.run(in)
			seen[string(out)]++
		}
		stop.Store(true)
		if worker == 1 && (seen[plain] == 0 || seen[tagged] == 0) {
			t.Errorf("saw %d and %d of the two next hops: this test shows nothing", seen[plain], seen[tagged])
		}
		delete(seen, plain)
		delete(seen, tagged)
		for out, n := range seen {
			t.Errorf("%d frames of neither next hop: %x", n, out)
		}
	})
}
