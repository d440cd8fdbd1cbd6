// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"xdplb/internal/lb"
)

// withFlows attaches, adds the services of crashStates, and opens the maps.
func withFlows(t testing.TB) (*Datapath, lb.State, *configuration) {
	t.Helper()
	state, _ := crashStates(t, director(t, small).Ifindex)
	mustChange(t, to(state))
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	live, err := d.readLive(nil)
	if err != nil {
		t.Fatal(err)
	}
	return d, state, live
}

func TestConnections(t *testing.T) {
	t.Parallel()
	d, state, live := withFlows(t)
	first := live.list[0].backends[0]
	sixth := live.services[state.Services[2].ServiceKey]
	client4, client6 := netip.MustParseAddrPort("192.0.2.1:1234"), netip.MustParseAddrPort("[2001:db8:9::1]:4321")
	d.putConnection(t, 2, 4, first.id, client4, live.list[0], 80)
	d.putConnection(t, int(d.meta.FlowBuckets), 0, sixth.backends[0].id, client6, sixth, 443) // in the second part
	d.putFlow(t, 5, 0, first.id, 0, uint32(xdplbTimeoutTIMEOUT_ESTABLISHED)+5, xdplbFlowStateFLOW_ESTABLISHED)
	d.putFlow(t, 6, 0, first.id, 1, 0, xdplbFlowStateFLOW_ESTABLISHED) // of another life
	left := time.Duration(xdplbTimeoutTIMEOUT_ESTABLISHED-10) << tickShift
	want := []Connection{
		{live.list[0].key(), client4, 80, first.Addr, StateEstablished, left},
		{sixth.key(), client6, 443, sixth.backends[0].Addr, StateEstablished, left},
	}
	list, err := d.Connections()
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	d.Close() // and with it the lock: a change in the middle of the listing is none of its business
	var got []Connection
	list.Walk(func(c Connection) bool {
		if got = append(got, c); len(got) == 1 {
			mustChange(t, to(lb.State{}))
		}
		return true
	})
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}),
		cmp.Comparer(func(a, b time.Duration) bool { return (a - b).Abs() <= 2<<tickShift })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got = nil
	if list.Walk(func(c Connection) bool { got = append(got, c); return false }); len(got) != 1 {
		t.Errorf("told to stop: %d connections", len(got))
	}
}

// TestSlowWalk walks through flows for longer than a tick, while packets follow them.
func TestSlowWalk(t *testing.T) {
	t.Parallel()
	d, _, live := withFlows(t)
	id := live.list[0].backends[0].id
	const flows = 8
	for way := range flows {
		d.putFlow(t, 30*way, 0, id, 0, 0, xdplbFlowStateFLOW_ESTABLISHED)
	}
	table, err := d.openFlows()
	if err != nil {
		t.Fatal(err)
	}
	defer table.close()
	table.opened = table.opened.Add(-5 << tickShift) // the clock says now what it will say after five ticks
	for way := range flows {
		entry := table.buckets.values[30*way].load(0)
		entry.Status += 5 << seenShift
		atomic.StoreUint64(table.buckets.values[30*way].entryAt(0), entry.word())
	}
	met := 0
	table.walk(func(_, _ int, _ xdplbEntry) bool { met++; return true })
	if met != flows {
		t.Errorf("met %d flows, want %d", met, flows)
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	d, _, live := withFlows(t)
	id := live.list[0].backends[0].id
	putFlows(t, d, id)
	spilled := func(age uint32) uint32 {
		now, err := ticks()
		if err != nil {
			t.Fatal(err)
		}
		return (now-age)<<seenShift | uint32(xdplbHeadHEAD_SPILLED)
	}
	heads := map[uint32]uint32{
		100: spilled(5), 101: spilled(uint32(xdplbTimeoutTIMEOUT_ESTABLISHED) + 5),
		102: spilled(uint32(xdplbTimeoutTIMEOUT_ESTABLISHED)+5) | uint32(xdplbHeadHEAD_LOCKED),
	}
	for bucket, head := range heads {
		if err := d.maps.Flows.Put(bucket, xdplbBucket{Head: head}); err != nil {
			t.Fatal(err)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if freed, err := d.Sweep(ended); freed != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("ended: freed %d, error %v", freed, err)
	}
	for _, want := range []int{4, 0} {
		if freed, err := d.Sweep(t.Context()); freed != want || err != nil {
			t.Errorf("freed %d, want %d; error %v", freed, want, err)
		}
	}
	heads[101] = 0
	for bucket, want := range heads {
		if got := d.bucket(t, int(bucket)).Head; got != want {
			t.Errorf("bucket %d: head %#x, want %#x", bucket, got, want)
		}
	}
	counts, err := d.countFlows()
	if err != nil {
		t.Fatal(err)
	}
	if counts[id] != (flowCount{2, 3}) {
		t.Errorf("left: %+v", counts[id])
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		age  int
		want bool
	}{{-1, false}, {0, false}, {839, false}, {840, true}, {30000, true}, {65536, true}, {1<<22 - 2, true}, {1<<22 - 1, false}} {
		entry := newEntry(0, xdplbFlowStateFLOW_ESTABLISHED, 0, uint32(5000000-test.age))
		table := &flowTable{now: 5000000, timeouts: newTimeouts(lb.Timeouts{})}
		if got := table.isExpired(entry); got != test.want {
			t.Errorf("idle for %d ticks: expired is %v", test.age, got)
		}
	}
}

func TestFlowStatus(t *testing.T) {
	t.Parallel()
	d, state, live := withFlows(t)
	putFlows(t, d, live.list[0].backends[0].id)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	for kind := range xdplbEvictionEVICTION_COUNT {
		perCPU := make([]uint64, cpus)
		perCPU[0], perCPU[cpus-1] = 10, perCPU[cpus-1]+uint64(kind)+1
		if cpus == 1 {
			perCPU[0] = 11 + uint64(kind)
		}
		if err := d.maps.Evictions.Put(uint32(kind), perCPU); err != nil {
			t.Fatal(err)
		}
	}
	now, err := ticks()
	if err != nil {
		t.Fatal(err)
	}
	for i, until := range []uint32{now + 1000, now - 3, 0} {
		floods := uint32(0)
		if until != 0 {
			floods = 2
		}
		if err := d.maps.Cursors.Put(live.services[state.Services[i].ServiceKey].Id, xdplbCursor{FloodUntil: until, Floods: floods}); err != nil {
			t.Fatal(err)
		}
	}
	status, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	want := FlowStatus{
		Live: 5, Expired: 4, Evictions: Evictions{Expired: 11, Embryonic: 12, Spilled: 13, Established: 14, Template: 15},
		FloodRate: 1024, Floods: 4, Flooded: []lb.ServiceKey{state.Services[0].ServiceKey},
	}
	if diff := cmp.Diff(want, status.Flows, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	at := slices.IndexFunc(status.Maps, func(m MapStatus) bool { return m.Name == xdplbMapFlows })
	if m := status.Maps[at]; m.Used != 9 || m.Max < small.Flows*3/2 {
		t.Errorf("flow table: %+v", m)
	}
}
