// SPDX-License-Identifier: Apache-2.0

package schedule_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"xdplb/internal/schedule"
)

func TestFailoverAndOverflow(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		weights            []uint32
		failover, overflow []int
	}{
		{nil, nil, nil},
		{[]uint32{0, 0}, nil, nil},
		{[]uint32{0, 3}, []int{1}, []int{1}},
		{[]uint32{5, 9, 0, 9, 2147483647, 1}, []int{4}, []int{4, 1, 3, 0, 5}},
		{[]uint32{2, 2, 2}, []int{0}, []int{0, 1, 2}},
	} {
		if diff := cmp.Diff(tt.failover, schedule.Failover(tt.weights), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("fo, %v (-want +got):\n%s", tt.weights, diff)
		}
		if diff := cmp.Diff(tt.overflow, schedule.Overflow(tt.weights), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("ovf, %v (-want +got):\n%s", tt.weights, diff)
		}
	}
}

// The buckets are worked out by hand: the address as a number, times 0x61c88647, its upper eight of 32 bits.
func TestDestinationHash(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		vip     string
		weights []uint32
		want    []int
	}{
		{"0.0.0.1", []uint32{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{0x61 % 10}},
		{"0.0.0.2", []uint32{1, 1, 1, 1, 1, 1, 1}, []int{0xc3 % 7}},
		{"0.0.0.2", []uint32{1, 1, 1, 1, 1, 1, 0}, nil},
		{"0:1:0:2::0:1", []uint32{1, 1, 1, 1, 1, 1, 1}, []int{0xc3 % 7}}, // 1 ^ 2 ^ 0 ^ 1
		{"0.0.0.1", nil, nil},
	} {
		got := schedule.DestinationHash(netip.MustParseAddr(tt.vip), tt.weights)
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s, %v (-want +got):\n%s", tt.vip, tt.weights, diff)
		}
	}
}
