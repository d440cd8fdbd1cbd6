// SPDX-License-Identifier: Apache-2.0

package schedule

import "net/netip"

// Permutation is a backend's whole order of preference.
func Permutation(addr netip.Addr) []int {
	p := newPreference(addr, uint32(MaglevSlots(1)))
	slots := make([]int, MaglevSlots(1))
	for i := range slots {
		slots[i] = int(p.next())
	}
	return slots
}
