// SPDX-License-Identifier: Apache-2.0

// Package schedule makes the lookup tables from which the XDP program takes the backend of a new flow: pure functions
// of the backends' weights, and for Maglev of their addresses.
//
// A table is a slice of indexes into the backends as the caller lists them, which is by address, as in lb.Service; the
// same set gives the same table on every director. A backend of weight 0 gets no flows: the caller gives 0 for one that is
// quiesced or whose next hop is not known. Without any other backend the table is empty.
//
//	rr   RoundRobin       slot = connections so far % slots
//	wrr  Weighted         slot = connections so far % slots
//	sh   SourceHash       slot = hash of the client's address % slots
//	mh   Maglev           slot = hash of the client's address % slots
//	fo   Failover         one slot
//	dh   DestinationHash  one slot
//
// ovf looks at the backends in the order of Overflow; twos draws from the slots of Weighted. In flood mode the slot is a
// hash of the connection: of a short Maglev table (FloodSlots) where the scheduler takes turns or looks at loads.
package schedule

import "fmt"

// MaxSlots is the most slots that Weighted and SourceHash use, and with that the most backends that they and Maglev
// can serve. It bounds a service's table to 256 KiB.
const MaxSlots = 65536

// RoundRobin gives every backend of a weight above 0 one slot, in order.
func RoundRobin(weights []uint32) []int {
	table := make([]int, 0, len(weights))
	for i, w := range weights {
		if w > 0 {
			table = append(table, i)
		}
	}
	return table
}

// CheckCount refuses more backends of a weight above 0 than a table can serve.
func CheckCount(backends int) error {
	if backends > MaxSlots {
		return fmt.Errorf("%d backends with a weight above 0: at most %d fit a lookup table", backends, MaxSlots)
	}
	return nil
}

// eligible counts the backends of a weight above 0, which must not be too many.
func eligible(weights []uint32) (int, error) {
	count := 0
	for _, w := range weights {
		if w > 0 {
			count++
		}
	}
	return count, CheckCount(count)
}
