// SPDX-License-Identifier: Apache-2.0

package schedule

import "slices"

const (
	minSourceHashSlots = 256 // LVS's IP_VS_SH_TAB_SIZE
	slotsPerWeight     = 32
)

// SourceHash is the table of LVS's sh (kernel: net/netfilter/ipvs/ip_vs_sh.c): the backends in turn, each with slots in
// proportion to its weight. Two equal backends, or four, get LVS's very table.
//
// LVS's table always has 256 slots. It leaves out every backend after the first 256 weights, and ten backends
// already differ by 4 %. Here the length, a power of two, grows until there are 32 slots for each unit of the reduced
// weights, which keeps shares exact to about 3 %, up to MaxSlots, where Weighted's rounding holds.
//
// As in LVS a backend of weight 0 has slots all the same, so that the others keep their clients; one unit of them, which
// is what it had if all weights are equal. Who hashes to one of them goes to the backend of another slot, as with LVS's
// flag sh-fallback: the search for it begins at a slot that a hash of the slot's number tells and goes on from there, so
// that one backend's clients do not all come to the next one.
//
// The error: more than MaxSlots backends.
func SourceHash(weights []uint32) ([]int, error) {
	if _, err := eligible(weights); err != nil {
		return nil, err
	}
	reduced, sum := reduce(weights)
	if sum == 0 {
		return nil, nil
	}
	for i, w := range reduced {
		if w == 0 && len(weights) <= MaxSlots { // or there would be none for another
			reduced[i] = 1
			sum++
		}
	}
	slots := uint32(minSourceHashSlots)
	for slots < MaxSlots && uint64(slots) < slotsPerWeight*sum {
		slots *= 2
	}
	return fallBack(interleave(apportion(reduced, sum, slots)), weights), nil
}

// fallBack gives the slots of backends of weight 0, which are not all, to the others.
func fallBack(table []int, weights []uint32) []int {
	fallen := slices.Clone(table)
	for slot, owner := range table {
		for at := mix(uint64(slot)); weights[owner] == 0; at++ {
			owner = table[at%uint64(len(table))]
		}
		fallen[slot] = owner
	}
	return fallen
}
