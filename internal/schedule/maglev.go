// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"encoding/binary"
	"net/netip"
)

// What bounds the length of an mh service's table. It is about as long as LVS's at least (IP_VS_MH_TAB_SIZE, 4,093). 64
// slots for each backend, up to 1,024 of them, keep equal ones within 1.6 % of one another, and let no more than 3 % of
// the slots of the others change hands when one of a hundred goes. A hundred slots (1 % and 2 %) take twice the memory
// and time.
const (
	minMaglevSlots  = 4096
	slotsPerBackend = 64
)

// MaglevSlots is the length of the table of a service with so many backends, those of weight 0 included: who is quiesced
// changes the length for nobody. All lengths are powers of two, so that a client's slot in a longer table lies within its
// slot in a shorter one.
func MaglevSlots(backends int) int {
	return powerOfTwo(minMaglevSlots, slotsPerBackend*backends)
}

// powerOfTwo is the length of a table that shall have some slots, but not fewer than least nor more than MaxSlots, which are
// powers of two themselves.
func powerOfTwo(least, slots int) int {
	length := least
	for length < MaxSlots && length < slots {
		length *= 2
	}
	return length
}

// What bounds the length of the table by which other schedulers' services place the SYNs of a flood. It may be
// rough, since most of these come to nothing: eight slots for each backend keep equal ones within an eighth of one another.
const (
	minFloodSlots        = 64
	floodSlotsPerBackend = 8
)

// FloodSlots is the length of that table, a power of two, for a service with so many backends, as in MaglevSlots.
func FloodSlots(backends int) int {
	return powerOfTwo(minFloodSlots, floodSlotsPerBackend*backends)
}

// Seeds of the two hashes; part of the tables' definition, since all directors must build the same.
const (
	offsetSeed = 0x6c8e9cf570932bd5
	skipSeed   = 0x2545f4914f6cdd1d
)

// Maglev is a weighted Maglev table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
// NSDI 2016, section 3.4): each backend has an order of preference over the slots, made from its address alone, and the
// backends take turns at claiming the next free slot of their order. When a backend comes or goes, few slots change
// hands besides its own.
//
// A backend of the largest weight has a turn in every round, others in proportion (LVS's mh does it in runs of
// weight / gcd turns). All have one in the first round, so that none starves, however small its weight. When a backend
// has its turns depends on its weight and the largest weight only, and who comes first within a round on the two alone,
// so that other backends' comings and goings do not move it.
//
// addrs and weights are of the same length; slots is MaglevSlots of the service, or FloodSlots.
// The error: more than MaxSlots backends.
func Maglev(addrs []netip.Addr, weights []uint32, slots int) ([]int, error) {
	count, err := eligible(weights)
	if err != nil || count == 0 {
		return nil, err
	}
	reduced, _ := reduce(weights)
	turns := newTurns(reduced, slots)
	preferences := make([]preference, len(addrs))
	for i, addr := range addrs {
		preferences[i] = newPreference(addr, uint32(slots))
	}
	table := make([]int, slots)
	var taken [MaxSlots / 64]uint64 // stays in the first-level cache, as the table would not
	for range table {
		i := turns.next()
		mine := preferences[i]
		slot := mine.next()
		for taken[slot/64]>>(slot%64)&1 != 0 {
			slot = mine.next()
		}
		preferences[i] = mine
		taken[slot/64] |= 1 << (slot % 64)
		table[slot] = i
	}
	return table, nil
}

// preference walks through a backend's order of the slots.
type preference struct {
	slot, skip, last uint32
}

// newPreference takes an odd step width, which visits every slot, as their number is a power of two.
func newPreference(addr netip.Addr, slots uint32) preference {
	return preference{
		slot: uint32(hash(addr, offsetSeed)) & (slots - 1),
		skip: uint32(hash(addr, skipSeed)) | 1,
		last: slots - 1,
	}
}

// next returns the best slot that was not returned yet.
func (p *preference) next() uint32 {
	slot := p.slot
	p.slot = (slot + p.skip) & p.last
	return slot
}

// hash mixes an address (IPv4 in its IPv4-mapped form) into 64 bits. Anybody may know it: it spreads backends, which
// the operator chooses, and no client has a say in it.
func hash(addr netip.Addr, seed uint64) uint64 {
	bytes := addr.As16()
	h := mix(seed ^ binary.BigEndian.Uint64(bytes[:8]))
	return mix(h ^ binary.BigEndian.Uint64(bytes[8:]))
}

// mix is a bijection of 64 bits in which every input bit changes half of the output: one step of SplitMix64
// (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// turns says whose turn it is. Turn n of a backend is in round n * largest weight / weight. The backends of a round
// wait in a queue, into which each is put when its turn before is over: so one turn costs the same for any weights.
type turns struct {
	weights []uint32
	largest uint32
	had     []uint32 // turns that each backend had
	round   int
	first   []int32 // of each round's queue; none: empty
	last    []int32
	after   []int32 // behind each backend in its queue
}

const none = -1

// newTurns prepares the first round, in which all have a turn, in order; one weight at least is not 0.
func newTurns(weights []uint32, slots int) *turns {
	t := &turns{
		weights: weights,
		had:     make([]uint32, len(weights)),
		first:   make([]int32, slots),
		last:    make([]int32, slots),
		after:   make([]int32, len(weights)),
	}
	for i := range t.first {
		t.first[i] = none
	}
	for i, w := range weights {
		t.largest = max(t.largest, w)
		if w > 0 {
			t.enqueue(0, int32(i))
		}
	}
	return t
}

// next returns the backend whose turn it is. It may be called once for each slot: a backend of the largest weight is in
// every round, so there are no more rounds than that.
func (t *turns) next() int {
	for t.first[t.round] == none {
		t.round++
	}
	i := t.first[t.round]
	t.first[t.round] = t.after[i]
	t.had[i]++
	round := uint64(t.had[i])
	if w := t.weights[i]; w != t.largest {
		round = round * uint64(t.largest) / uint64(w)
	}
	if round < uint64(len(t.first)) {
		t.enqueue(int(round), i)
	}
	return int(i)
}

func (t *turns) enqueue(round int, i int32) {
	t.after[i] = none
	if t.first[round] == none {
		t.first[round] = i
	} else {
		t.after[t.last[round]] = i
	}
	t.last[round] = i
}
