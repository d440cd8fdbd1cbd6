// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// Failover is the table of LVS's fo (kernel: net/netfilter/ipvs/ip_vs_fo.c): one slot, of the backend with the greatest
// weight, the first of several.
func Failover(weights []uint32) []int {
	return Overflow(weights)[:min(1, len(RoundRobin(weights)))]
}

// Overflow lists the backends of a weight above 0 in the order in which LVS's ovf fills them (kernel:
// net/netfilter/ipvs/ip_vs_ovf.c): by weight from the greatest, those of one weight as they come.
func Overflow(weights []uint32) []int {
	order := RoundRobin(weights)
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(weights[j], weights[i]) })
	return order
}

// Of LVS's dh: the factor of hash_32 in the kernel's include/linux/hash.h, which makes the hash, and how many bits of the
// hash make a bucket (IP_VS_DH_TAB_BITS).
const (
	hashFactor          = 0x61c88647
	destinationHashBits = 8
)

// DestinationHash is the table of LVS's dh (kernel: net/netfilter/ipvs/ip_vs_dh.c) as far as a service with one VIP uses
// it: one slot. LVS deals 256 buckets out to all backends in turn, those of weight 0 included, and takes the VIP's; where
// that is one of weight 0 it refuses the connection, and the table here is empty.
func DestinationHash(vip netip.Addr, weights []uint32) []int {
	if len(weights) == 0 {
		return nil
	}
	folded := uint32(0)
	for word := range slices.Chunk(vip.AsSlice(), 4) {
		folded ^= binary.BigEndian.Uint32(word)
	}
	bucket := int(folded * hashFactor >> (32 - destinationHashBits))
	if i := bucket % len(weights); weights[i] > 0 {
		return []int{i}
	}
	return nil
}
