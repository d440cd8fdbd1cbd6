// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lb"
)

func TestPartsAreTheProgramsSize(t *testing.T) {
	t.Parallel()
	spec, err := loadXdplb()
	if err != nil {
		t.Fatal(err)
	}
	tables := spec.Maps[xdplbMapTables]
	if have := tables.InnerMap.MaxEntries * tables.InnerMap.ValueSize; uint64(have) != partBytes {
		t.Errorf("a part has %d bytes, want %d", have, partBytes)
	}
	if have := uint64(tables.MaxEntries) * uint64(partSlots); have != allSlots {
		t.Errorf("all parts have %d slots, want %d", have, uint64(allSlots))
	}
	if tables.MaxEntries != spec.Maps[xdplbMapTableIds].MaxEntries {
		t.Errorf("%d parts have %d ids", tables.MaxEntries, spec.Maps[xdplbMapTableIds].MaxEntries)
	}
}

// TestSpaceFillsGaps: the first gap that is long enough is taken, and no table shares a cache line for nothing.
func TestSpaceFillsGaps(t *testing.T) {
	t.Parallel()
	s := newSpace(tablesOf([]xdplbService{
		{Table: 64, Slots: 10}, {Table: 96, Slots: 4, Previous: 128, Members: 192, MemberCount: 33}, {},
	}))
	var got []uint32
	for _, slots := range []uint32{33, 17, 16, 16, 3, 4, 1, 1, 2, 6, 5} {
		at, err := s.take(slots, alignment(slots))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, at)
	}
	want := []uint32{144, 320, 80, 112, 76, 100, 74, 75, 104, 136, 184}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
}

func TestSpaceIsFull(t *testing.T) {
	t.Parallel()
	s := newSpace([]extent{{0, allSlots - 20}})
	for _, c := range []struct {
		slots uint32
		at    uint32
	}{{8, allSlots - 16}, {16, 0}, {8, allSlots - 8}, {4, allSlots - 20}, {1, 0}} {
		at, err := s.take(c.slots, alignment(c.slots))
		if at != c.at || (err == nil) != (c.at != 0) {
			t.Errorf("%d slots: place %d, error %v, want place %d", c.slots, at, err, c.at)
		}
	}
}

// TestSpaceOverlapsNothing lets tables come and go at random.
func TestSpaceOverlapsNothing(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	services := make([]xdplbService, 300)
	highest := uint64(0)
	for range 200 {
		s := newSpace(tablesOf(services))
		taken := slices.Clone(services)
		for range 40 {
			value, err := xdplbService{Slots: 1 + 1<<random.IntN(13), MemberCount: 1 + random.Uint32N(100)}, error(nil)
			if value.Table, err = s.take(value.Slots, alignment(value.Slots)); err != nil {
				t.Fatal(err)
			}
			if value.Members, err = s.take(memberSlots(value.MemberCount), uint64(slotsEach)); err != nil {
				t.Fatal(err)
			}
			// The service that had the place goes only after the change, as its packets do.
			i := random.IntN(len(services))
			taken, services[i] = append(taken, value), value
		}
		used := tablesOf(taken)
		for i := range used[1:] {
			if used[i].end > used[i+1].start {
				t.Fatalf("tables overlap: %v", used[i:i+2])
			}
		}
		highest = max(highest, used[len(used)-1].end)
	}
	sum := uint64(0)
	for i := range services {
		for _, table := range services[i].extents() {
			sum += table.end - table.start
		}
	}
	if highest > 2*sum {
		t.Errorf("tables of %d slots took %d", sum, highest)
	}
}

// wideStates are a service with a short table, and with it four whose tables go into a second part: they have 65,536 slots
// each.
func wideStates(t testing.TB, ifindex int) (few, all lb.State) {
	t.Helper()
	hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Ifindex: ifindex}
	services := make([]lb.Service, 5)
	for i := range services {
		key := lb.ServiceKey{Addr: addrPort(address(false, 1, i), 80), Protocol: lb.TCP}
		services[i] = lb.Service{ServiceKey: key, Scheduler: lb.WRR, Backends: []lb.Backend{
			{Addr: address(false, 2, 0), Weight: 1, Hop: hop}, {Addr: address(false, 2, 1), Weight: uint32(min(i, 1)<<16 | 1), Hop: hop},
		}}
	}
	all, err := lb.NewState(services)
	if err != nil {
		t.Fatal(err)
	}
	return lb.State{Services: all.Services[:1]}, all
}

func checkParts(t testing.TB, want int) {
	t.Helper()
	d, _ := openLive(t)
	defer d.Close()
	if parts := d.presentParts(); len(parts) != want {
		t.Errorf("tables have parts %v, want %d", parts, want)
	}
}

// TestTablesCrossParts puts a table across the end of a part, and takes the parts away again.
func TestTablesCrossParts(t *testing.T) {
	t.Parallel()
	few, all := wideStates(t, director(t, small).Ifindex)
	for range 2 {
		for _, want := range []struct {
			state lb.State
			parts int
		}{{few, 1}, {all, 2}, {few, 1}} {
			mustChange(t, to(want.state))
			checkTables(t)
			checkTidy(t)
			checkParts(t, want.parts)
		}
	}
}

// TestFailureWithParts lets every step fail of a change that needs another part, and of one that needs it no more.
func TestFailureWithParts(t *testing.T) {
	t.Parallel()
	few, all := wideStates(t, director(t, small).Ifindex)
	for _, c := range []struct {
		before, after lb.State
		parts         int
	}{{few, all, 2}, {all, few, 1}} {
		for n, done := 0, false; !done; n++ {
			mustChange(t, to(c.before))
			left := n
			_, err := change(pinDir, options{LockTimeout, nil, func(string) error {
				if left--; left < 0 {
					return errors.New("injected")
				}
				return nil
			}}, to(c.after))
			done = err == nil
			checkRepair(t, c.before, c.after)
			checkParts(t, c.parts)
		}
	}
}

// TestPartOfADeadWriter: who was killed between noting a part and putting it in leaves the name of a map that is gone.
func TestPartOfADeadWriter(t *testing.T) {
	t.Parallel()
	few, all := wideStates(t, director(t, small).Ifindex)
	mustChange(t, to(few))
	d, err := open(pinDir, exclusive, LockTimeout)
	if err != nil {
		t.Fatal(err)
	}
	d.slots.ids.store(1, 1<<31-2)
	d.config.store(configTidy, 0)
	d.Close()
	mustChange(t, to(all))
	checkTables(t)
	checkTidy(t)
	checkParts(t, 2)
}

// TestMembersEnd: packets look for members up to the first empty one, also where another table was before.
func TestMembersEnd(t *testing.T) {
	t.Parallel()
	_, all := wideStates(t, director(t, small).Ifindex)
	mustChange(t, to(all))
	mustChange(t, to(lb.State{}))
	balanced := lb.State{Services: all.Clone().Services[:2]}
	balanced.Services[0].Scheduler, balanced.Services[1].Scheduler = lb.WLC, lb.OVF
	mustChange(t, to(balanced))
	checkTables(t)
}

// TestTooLittleMemory: a change for which there is no memory names the service, and changes nothing.
func TestTooLittleMemory(t *testing.T) {
	t.Parallel()
	director(t, small)
	d, err := open(pinDir, exclusive, LockTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p := &planner{d: d, live: &configuration{}, layout: &layout{}, available: func() (uint64, error) { return 2 * partBytes, nil }}
	fill := func([]uint32) error { return nil }
	if _, err := p.newTable(2*partSlots, lineSlots, fill); err != nil {
		t.Fatal(err)
	}
	var short *TableMemoryError
	if _, err := p.newTable(partSlots, lineSlots, fill); !errors.As(err, &short) || short.Want != 3*partBytes {
		t.Errorf("error %v, want a TableMemoryError of three parts", err)
	}
}
