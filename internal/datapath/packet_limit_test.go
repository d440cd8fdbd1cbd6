// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"xdplb/internal/lb"
)

// setLimit gives a backend of the rig thresholds.
func (d *rig) setLimit(backend, upper, lower uint32) {
	mapMemory(d.tb, d.maps["limits"]).store(int(backend), limitOf(upper, lower))
}

// limitedService is a service of backends below limits, as user space lays it out.
func limitedService(t testing.TB, scheduler lb.Scheduler, flags lb.SchedulerFlags, reals []uint32) virtual {
	t.Helper()
	s := &service{}
	s.setKey(lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, portPlain), Protocol: lb.UDP})
	s.Scheduler, s.Flags, s.Limited = uint8(scheduler), uint8(flags), 1
	for i, id := range reals {
		b := &backend{id: id, listed: true}
		b.Addr, b.Weight = netip.AddrFrom4([4]byte{192, 168, 60, byte(i)}), 1
		s.backends = append(s.backends, b)
	}
	list := candidates(s)
	shape, err := slotsOf(s, list)
	if err != nil {
		t.Fatal(err)
	}
	v := udpService(netip.AddrPortFrom(vip4, portPlain).String(), xdplbScheduler(scheduler))
	v.limited, v.flags = true, flags
	for _, i := range shape {
		v.slots = append(v.slots, list[i].id)
	}
	for _, i := range mustMembers(t, s, list) {
		v.members = append(v.members, list[i].id, list[i].weight)
	}
	return v
}

// slotsOf are the slots by which packets go when there is no flood, or which stand for those.
func slotsOf(of *service, list []candidate) ([]int, error) {
	if scheduler := lb.Scheduler(of.Scheduler); scheduler == lb.MH || looksAtLoads(scheduler) {
		return shapes{}.maglev(list, of.maglevSlots())()
	}
	return shapes{}.shape(of, list)
}

func mustMembers(t testing.TB, of *service, list []candidate) []int {
	t.Helper()
	all, err := shapes{}.members(of, list)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLimitOfHashedBackends: whom the client's hash, or dh's bucket, sends to a backend that has reached its limit is
// refused, and with fallback goes to another one; all others stay where they would be.
func TestLimitOfHashedBackends(t *testing.T) {
	t.Parallel()
	const clients, backends = 200, 5
	d := newRig(t)
	reals := d.addReals(backends)
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 4, byte(i >> 8), byte(i)}) }
	for _, tt := range []struct {
		scheduler lb.Scheduler
		flags     lb.SchedulerFlags
		others    bool // take the clients of the full one
	}{
		{lb.SH, 0, false}, {lb.SH, lb.SHFallback, true}, {lb.MH, 0, false}, {lb.MH, lb.MHFallback, true}, {lb.DH, 0, false},
	} {
		t.Run(fmt.Sprint(tt.scheduler, tt.scheduler.FlagNames(tt.flags)), func(t *testing.T) {
			defer d.reportTo(t)()
			d.publish(limitedService(t, tt.scheduler, tt.flags, reals))
			send := func(i int) macAddr {
				action, out := d.run(datagramOf(address(i), 2000))
				if action != xdpTX {
					return macAddr{}
				}
				return macAddr(out[:6])
			}
			var homes []macAddr
			for _, id := range reals {
				d.setLimit(id, 0, 0)
			}
			for i := range clients {
				homes = append(homes, send(i))
			}
			d.forget()
			full := slices.IndexFunc(reals, func(id uint32) bool { return realMAC(int(id-reals[0])) == homes[0] })
			loads := mapMemory(t, d.maps["loads"])
			clear(loads)
			loads.store(2*int(reals[full]), joinLoad(1, 2))
			d.setLimit(reals[full], 3, 0)
			seen := map[macAddr]int{}
			for i, home := range homes {
				switch to := send(i); {
				case home != realMAC(full):
					if to != home {
						t.Fatalf("client %d goes to %x, and to %x before", i, to, home)
					}
				case tt.others == (to == macAddr{}) || to == home:
					t.Fatalf("client %d of the full backend goes to %x", i, to)
				default:
					seen[to]++
				}
			}
			if tt.others && len(seen) != backends-1 {
				t.Errorf("the clients of the full backend go to %v", seen)
			}
			d.setLimit(reals[full], 4, 0)
			if to := send(0); to != homes[0] && !tt.others {
				t.Errorf("with room for it, client 0 goes to %x", to)
			}
			d.forget()
			clear(loads)
		})
	}
}

// TestLimitAtItsBorders: a backend takes flows up to its upper threshold, and then none until it has fewer than the lower
// one, or without that fewer than three quarters of the upper one.
func TestLimitAtItsBorders(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	reals := d.addReals(1)
	loads := mapMemory(t, d.maps["loads"])
	for _, scheduler := range lb.Schedulers() {
		for _, tt := range []struct{ upper, lower, reopens int64 }{
			{1, 0, 0}, {1, 1, 0}, {4, 0, 2}, {8, 0, 5}, {8, 8, 7}, {8, 1, 0}, {1000, 0, 749}, {1001, 0, 750},
		} {
			t.Run(fmt.Sprint(scheduler, tt), func(t *testing.T) {
				defer d.reportTo(t)()
				d.publish(limitedService(t, scheduler, 0, reals))
				d.setLimit(reals[0], uint32(tt.upper), uint32(tt.lower))
				port := uint16(2000)
				takes := func(active, inactive int64) bool {
					loads.store(2*int(reals[0]), joinLoad(active, inactive))
					port++
					action, _ := d.run(datagramOf(client4, port))
					if have, _ := splitLoad(loads.load(2 * int(reals[0]))); have != active {
						t.Fatalf("%d active, %d before", have, active)
					}
					return action == xdpTX
				}
				for _, step := range []struct {
					total int64
					want  bool
				}{
					{tt.upper - 1, true}, {tt.upper, false}, {tt.reopens + 1, false}, {tt.reopens, true}, {tt.reopens + 1, tt.reopens+1 < tt.upper},
					{tt.upper + 1, false},
				} {
					if scheduler == lb.OVF { // whose backends are full with more active ones than their weight anyway
						if got := takes(0, step.total); got != step.want {
							t.Fatalf("%d flows: taken: %v", step.total, got)
						}
					} else if got := takes(step.total/2, step.total-step.total/2); got != step.want {
						t.Fatalf("%d flows: taken: %v", step.total, got)
					}
				}
				d.forget()
			})
		}
	}
}

// TestLimitOfPersistentBackends: as in LVS a client follows its template to a backend that has reached its limit, and
// nobody else gets there.
func TestLimitOfPersistentBackends(t *testing.T) {
	t.Parallel()
	const others = 20
	d := newRig(t)
	reals := d.addReals(3)
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 4, 0, byte(i)}) }
	for _, scheduler := range lb.Schedulers() {
		t.Run(scheduler.String(), func(t *testing.T) {
			defer d.reportTo(t)()
			d.forgetClients()
			clear(mapMemory(t, d.maps["loads"]))
			for _, id := range reals {
				d.setLimit(id, 0, 0)
			}
			d.publish(persistent(sixMinutes, 32, 128, limitedService(t, scheduler, lb.SHFallback, reals))...)
			home := d.destination(t, datagramOf(client4, 2000))
			full := reals[slices.IndexFunc(reals, func(id uint32) bool { return realMAC(int(id-reals[0])) == home })]
			d.setLimit(full, 1, 0)
			shares := map[macAddr]int{}
			for i := range others {
				if action, out := d.run(datagramOf(address(i), 2000)); action == xdpTX {
					shares[macAddr(out[:6])]++
				}
				if to := d.destination(t, datagramOf(client4, uint16(3000+i))); to != home {
					t.Fatalf("the full backend's client goes to %x, and to %x before", to, home)
				}
			}
			if shares[home] > 0 {
				t.Errorf("%d other clients go to the full backend", shares[home])
			}
			if inTurn := scheduler == lb.RR || scheduler == lb.WRR; inTurn && (len(shares) != 2 || shares[realMAC(1)] != others/2) {
				t.Errorf("the other clients are shared as %v, want %d for each other backend", shares, others/2)
			}
		})
	}
}

// TestLimitReachedByTemplates: those who come by their template make a backend reach its limit, and leave it, as others do.
func TestLimitReachedByTemplates(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	reals := d.addReals(2)
	d.publish(persistent(sixMinutes, 32, 128, limitedService(t, lb.RR, 0, reals))...)
	loads := mapMemory(t, d.maps["loads"])
	inactive := func(n int64) { loads.store(2*int(reals[0]), joinLoad(0, n)) }
	next := 0
	two := func() (counts [2]int) { // new clients, who would take turns
		for range 2 {
			next++
			to := d.destination(t, datagramOf(netip.AddrFrom4([4]byte{10, 4, 0, byte(next)}), 2000))
			counts[slices.Index([]macAddr{realMAC(0), realMAC(1)}, to)]++
		}
		return counts
	}
	d.setLimit(reals[0], 3, 1)
	d.setLimit(reals[1], 0, 0)
	for port := range uint16(3) {
		if to := d.destination(t, datagramOf(client4, 2000+port)); to != realMAC(0) {
			t.Fatalf("connection %d: to %x", port, to)
		}
	}
	inactive(1)
	if got := two(); got != [2]int{0, 2} {
		t.Errorf("with 3 connections reached and 1 left: %v, want none for the backend", got)
	}
	inactive(0)
	d.destination(t, datagramOf(client4, 2003))
	if got := two(); got != [2]int{1, 1} {
		t.Errorf("with none left and 1 again: %v, want one each", got)
	}
}

// TestTurnsGoOnWhereAllWereFull: whom all backends refuse takes no turn, and the cycle goes on where it was. LVS's wrr begins
// it anew.
func TestTurnsGoOnWhereAllWereFull(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	reals := d.addReals(2)
	service := limitedService(t, lb.WRR, 0, reals)
	service.slots = []uint32{reals[0], reals[0], reals[1]}
	d.publish(service)
	d.setLimit(reals[0], 3, 0)
	d.setLimit(reals[1], 1, 0)
	for flow, want := range []int{0, 0, 1, 0, -1, -1, 0, 1, 0, 0, 1} {
		if flow == 6 {
			for _, id := range reals {
				d.setLimit(id, 0, 0)
			}
		}
		action, out := d.run(datagramOf(client4, uint16(2000+flow)))
		switch {
		case want < 0 && action != xdpPass:
			t.Errorf("flow %d: verdict %d to %x, want it refused", flow, action, out[:6])
		case want >= 0 && (action != xdpTX || macAddr(out[:6]) != realMAC(want)):
			t.Errorf("flow %d: verdict %d to %x, want %x", flow, action, out[:6], realMAC(want))
		}
	}
}

// TestLimitOnTwoCPUs: the last place is taken once, by whichever scheduler, and nobody is refused while there is one.
func TestLimitOnTwoCPUs(t *testing.T) {
	t.Parallel()
	const backends, upper, clients = 60, 2, 300 // so few places that most are a last one
	d := newRig(t, tableOf(8*flowBuckets, spillBuckets))
	reals := d.addReals(backends)
	loads := mapMemory(t, d.maps["loads"])
	for _, scheduler := range lb.Schedulers() {
		t.Run(scheduler.String(), func(t *testing.T) {
			defer d.reportTo(t)()
			d.forget()
			clear(loads)
			flags := lb.SHFallback // mh-fallback too
			d.publish(limitedService(t, scheduler, flags, reals))
			for _, id := range reals {
				d.setLimit(id, upper, 0)
			}
			var taken [backends]atomic.Int64
			var refused atomic.Int64
			onEachCPU(t, func(worker, workers int) {
				for i := worker; i < clients; i += workers {
					action, out := d.run(datagramOf(netip.AddrFrom4([4]byte{10, 5, byte(i >> 8), byte(i)}), 2000))
					if action != xdpTX {
						refused.Add(1)
						continue
					}
					taken[int(out[4])<<8|int(out[5])].Add(1)
				}
			})
			var want [backends]int64
			for i := range taken {
				if scheduler != lb.DH || taken[i].Load() > 0 { // dh has only one
					want[i] = upper
				}
			}
			total := int64(0)
			for i := range taken {
				if got := taken[i].Load(); got != want[i] {
					t.Errorf("backend %d has %d flows, want %d", i, got, want[i])
				}
				if _, inactive := splitLoad(loads.load(2 * int(reals[i]))); inactive != want[i] {
					t.Errorf("backend %d has counted %d flows, want %d", i, inactive, want[i])
				}
				total += want[i]
			}
			if got := refused.Load(); got != clients-total {
				t.Errorf("%d refused, want %d", got, clients-total)
			}
		})
	}
}
