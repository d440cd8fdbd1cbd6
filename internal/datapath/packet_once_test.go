// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"testing"

	"xdplb/internal/lb"
)

// TestOnePacket: each datagram of one client is scheduled by itself, by every scheduler as if no connection was there; no
// flow is recorded, and each counts as a connection.
func TestOnePacket(t *testing.T) {
	t.Parallel()
	const backends, datagrams = 3, 30
	d := newRig(t)
	reals := d.addReals(backends)
	for _, id := range reals {
		d.setLimit(id, 0, 0)
	}
	for _, scheduler := range lb.Schedulers() {
		for _, limited := range []bool{false, true} {
			t.Run(fmt.Sprint(scheduler, limited), func(t *testing.T) {
				defer d.reportTo(t)()
				service := limitedService(t, scheduler, 0, reals)
				if service.onePacket, service.limited = true, limited; !limited && !looksAtLoads(scheduler) {
					service.members = nil
				}
				d.turn(0)
				d.publish(service)
				before, total := d.connections(t, reals), uint64(0)
				seen := map[macAddr]int{}
				for range datagrams {
					seen[d.destination(t, datagramOf(client4, 2000))]++
				}
				for i, n := range d.connections(t, reals) {
					if got, want := n-before[i], uint64(seen[realMAC(i)]); got != want {
						t.Errorf("backend %d has counted %d connections of %d datagrams", i, got, want)
					}
					total += n - before[i]
				}
				if total != datagrams {
					t.Errorf("%d connections counted, want %d", total, datagrams)
				}
				d.wantFlows(t, "one packet")
				switch scheduler {
				case lb.RR, lb.WRR:
					if seen[realMAC(0)] != 10 || seen[realMAC(1)] != 10 || seen[realMAC(2)] != 10 {
						t.Errorf("turns: %v", seen)
					}
				case lb.TWOS:
					if len(seen) < 2 {
						t.Errorf("drawn: %v", seen)
					}
				default: // nothing tells one datagram from another, and no load is left behind
					if len(seen) != 1 {
						t.Errorf("backends: %v", seen)
					}
				}
			})
		}
	}
}

// connections are the backends' counters.
func (d *rig) connections(t *testing.T, backends []uint32) (list []uint64) {
	t.Helper()
	for _, id := range backends {
		var perCPU []xdplbCounters
		if err := d.maps["backend_counters"].Lookup(id, &perCPU); err != nil {
			t.Fatal(err)
		}
		list = append(list, sum(perCPU).Connections)
	}
	return list
}

// TestOnePacketBelowLimit: as in LVS a datagram counts for its backend's limit, and is gone again at once.
func TestOnePacketBelowLimit(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	reals := d.addReals(2)
	service := limitedService(t, lb.RR, 0, reals)
	service.onePacket = true
	d.publish(service)
	loads := mapMemory(t, d.maps["loads"])
	d.setLimit(reals[0], 1, 0)
	d.setLimit(reals[1], 5, 0)
	loads.store(2*int(reals[1]), joinLoad(5, 0))
	for range 10 {
		if to := d.destination(t, datagramOf(client4, 2000)); to != realMAC(0) {
			t.Errorf("goes to %x", to)
		}
	}
	if got := loads.load(2 * int(reals[0])); got != 0 {
		t.Errorf("load %#x is left", got)
	}
	loads.store(2*int(reals[0]), joinLoad(0, 1))
	if action, _ := d.run(datagramOf(netip.MustParseAddr("10.9.9.9"), 1)); action != xdpPass {
		t.Errorf("verdict %d, both full", action)
	}
}
