// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"cmp"
	"slices"
)

// Weighted is the sequence of LVS's wrr (kernel: net/netfilter/ipvs/ip_vs_wrr.c) over one whole cycle: with the weights
// divided by their greatest common divisor, the threshold goes from the largest weight down to 1, and at each threshold
// every backend that reaches it gets a slot. A backend so has as many slots as its reduced weight says.
//
// Where the reduced weights add up to more than MaxSlots, the table has MaxSlots slots in the same order, and
// each backend's exact share of them is rounded up or down to a whole slot. Who would go without is rounded up first,
// then by the largest remainder. A backend with less than one MaxSlots-th of all weight can still end without a slot:
// giving it one would take the promised exactness from the others.
//
// The error: more than MaxSlots backends.
func Weighted(weights []uint32) ([]int, error) {
	if _, err := eligible(weights); err != nil {
		return nil, err
	}
	shares, sum := reduce(weights)
	if sum > MaxSlots {
		shares = apportion(shares, sum, MaxSlots)
	}
	return interleave(shares), nil
}

// reduce divides the weights by their greatest common divisor and adds them up.
func reduce(weights []uint32) (reduced []uint32, sum uint64) {
	divisor := uint32(0)
	for _, w := range weights {
		divisor = gcd(divisor, w)
	}
	reduced = make([]uint32, len(weights))
	if divisor == 0 {
		return reduced, 0
	}
	for i, w := range weights {
		reduced[i] = w / divisor
		sum += uint64(reduced[i])
	}
	return reduced, sum
}

// gcd is the greatest common divisor; of 0 and n it is n.
func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// apportion deals out slots in proportion to the weights, which add up to sum (not 0): each gets its exact share
// rounded down, and those with no slot, then those with the largest remainder, then the first ones, one more until
// all slots are dealt out. Weights are below 2^31 and slots up to 2^16, so that no product here overflows.
func apportion(weights []uint32, sum uint64, slots uint32) []uint32 {
	shares := make([]uint32, len(weights))
	remainders := make([]uint64, len(weights))
	waiting := make([]int, 0, len(weights))
	left := slots
	for i, w := range weights {
		exact := uint64(w) * uint64(slots)
		shares[i] = uint32(exact / sum)
		remainders[i] = exact % sum
		left -= shares[i]
		if remainders[i] > 0 {
			waiting = append(waiting, i)
		}
	}
	slices.SortStableFunc(waiting, func(i, j int) int {
		return cmp.Or(
			cmp.Compare(min(shares[i], 1), min(shares[j], 1)),
			cmp.Compare(remainders[j], remainders[i]),
		)
	})
	for _, i := range waiting[:left] {
		shares[i]++
	}
	return shares
}

// interleave lists index i shares[i] times, in wrr's order. Between two neighbouring values of the shares the same
// backends reach the threshold, so they are collected once for each value: the effort is the table's length plus
// backends times distinct values, of which a table of 65,536 slots has at most 361.
func interleave(shares []uint32) []int {
	total := 0
	for _, share := range shares {
		total += int(share)
	}
	table := make([]int, 0, total)

	thresholds := slices.Clone(shares)
	slices.Sort(thresholds)
	thresholds = slices.Compact(thresholds)
	reaching := make([]int, 0, len(shares))
	for n := len(thresholds) - 1; n >= 0 && thresholds[n] > 0; n-- {
		next := uint32(0)
		if n > 0 {
			next = thresholds[n-1]
		}
		reaching = reaching[:0]
		for i, share := range shares {
			if share >= thresholds[n] {
				reaching = append(reaching, i)
			}
		}
		for range thresholds[n] - next {
			table = append(table, reaching...)
		}
	}
	return table
}
