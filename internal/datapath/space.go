// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
)

// The row of slots in which the lookup tables lie, and its parts (PART of maps.h, in slots).
const (
	allSlots  = 1 << 32
	partSlots = 4096 * slotsEach
	partBytes = uint64(4 * partSlots)
)

// lineSlots is how many slots a cache line has.
const lineSlots = 16

// extent is some slots in a row: from start on, before end.
type extent struct{ start, end uint64 }

// extents are the tables that a service has.
func (s *xdplbService) extents() []extent {
	var list []extent
	for _, table := range []struct{ at, slots uint32 }{
		{s.Table, s.tableSlots()}, {s.Previous, s.Slots}, {s.Members, memberSlots(s.MemberCount)},
	} {
		if table.at != noTable {
			list = append(list, extent{uint64(table.at), uint64(table.at) + uint64(table.slots)})
		}
	}
	return list
}

// tableSlots is how long the lookup table is, with what is for floods alone.
func (s *xdplbService) tableSlots() uint32 {
	if s.FloodBits == 0 {
		return s.Slots
	}
	return s.Slots + 1<<s.FloodBits
}

// wholeValues rounds up to values of the map.
func wholeValues(slots uint32) uint32 { return (slots + slotsEach - 1) &^ (slotsEach - 1) }

// memberSlots is how many slots a table of members takes. What follows the last pair in its value is empty: there packets
// end their search.
func memberSlots(members uint32) uint32 { return wholeValues(2 * members) }

// tablesOf lists the tables of some services by their place, and, as if it were a table, the slots that belong to none.
func tablesOf(services []xdplbService) []extent {
	used := []extent{{0, uint64(slotsEach)}}
	for i := range services {
		used = append(used, services[i].extents()...)
	}
	byStart := func(a, b extent) int { return cmp.Compare(a.start, b.start) }
	if !slices.IsSortedFunc(used, byStart) {
		slices.SortFunc(used, byStart)
	}
	return used
}

// space gives away slots that no table has. What is in use is written down nowhere but in the services, so that nobody who
// dies leaves anything to be put right.
type space struct {
	gaps []extent
	// The gaps before these were too short for a table, by the power of two that is not less than its length. For a shorter
	// one of the same power one of them might do; it is left for the next change.
	first [33]int
}

// newSpace finds the gaps between tables, which are sorted.
func newSpace(used []extent) *space {
	s, at := new(space), uint64(0)
	for _, table := range used {
		if table.start > at {
			s.gaps = append(s.gaps, extent{at, table.start})
		}
		at = max(at, table.end)
	}
	s.gaps = append(s.gaps, extent{at, allSlots})
	return s
}

// take gives away the first slots in a row that are free, beginning at a multiple of align, a power of two.
func (s *space) take(slots uint32, align uint64) (uint32, error) {
	class := bits.Len32(slots - 1)
	for i := s.first[class]; i < len(s.gaps); i++ {
		gap := &s.gaps[i]
		start := (gap.start + align - 1) &^ (align - 1)
		if start+uint64(slots) > gap.end {
			continue
		}
		s.first[class] = i
		before := extent{gap.start, start}
		gap.start = start + uint64(slots)
		if before.start < before.end {
			s.gaps = slices.Insert(s.gaps, i, before)
		}
		return uint32(start), nil
	}
	return 0, fmt.Errorf("no room is left for a lookup table of %d slots", slots)
}

// alignment keeps a table of a cache line or less in one line, and lets a longer one begin with one.
func alignment(slots uint32) uint64 {
	return min(uint64(1)<<bits.Len32(slots-1), lineSlots)
}
