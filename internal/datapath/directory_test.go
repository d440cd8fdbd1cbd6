// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"xdplb/internal/lb"
)

// serviceKeys makes key words of services on consecutive addresses, half of them IPv6.
func serviceKeys(n int) []uint64 {
	keys := make([]uint64, n)
	for i := range keys {
		var s xdplbService
		s.setKey(lb.ServiceKey{Addr: netip.AddrPortFrom(address(i%2 == 1, i/40000, i/2), 80), Protocol: lb.TCP})
		keys[i] = s.word()
	}
	return keys
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		keys    []uint64
		first   uint64
		buckets uint32
		stays   bool // the first multiplier
		fails   bool
	}{
		{name: "nothing", buckets: 2, first: 3, stays: true},
		{name: "one bucket is full", keys: serviceKeys(5), buckets: 1, first: 3, stays: true},
		{name: "one bucket overflows", keys: serviceKeys(6), buckets: 1, fails: true},
		{name: "usual", keys: serviceKeys(4096), buckets: 8192},
		{name: "many", keys: serviceKeys(20000), buckets: 40000},
		{name: "a bad first multiplier", keys: serviceKeys(4096), buckets: 8192, first: 1},
		{name: "the same twice", keys: append(serviceKeys(3), serviceKeys(1)...), buckets: 8, fails: true},
	} {
		d, err := newDirectory(test.keys, test.first, test.buckets)
		if (err != nil) != test.fails {
			t.Errorf("%s: error %v", test.name, err)
		}
		if err != nil {
			continue
		}
		if (d.multiplier == test.first) != test.stays || d.multiplier%2 == 0 {
			t.Errorf("%s: multiplier %#x, tried %#x first", test.name, d.multiplier, test.first)
		}
		const base = 1000
		buckets := make([]xdplbServiceBucket, test.buckets)
		d.write(buckets, base)
		for i, key := range test.keys {
			if got := findService(buckets, d.multiplier, key); got != base+uint32(i) {
				t.Fatalf("%s: key %#x leads to %d, want %d", test.name, key, got, base+i)
			}
		}
	}
}

// findService is find_service of service.h.
func findService(buckets []xdplbServiceBucket, multiplier, key uint64) uint32 {
	bucket := &buckets[bucketOf(key, multiplier, uint32(len(buckets)))]
	for way, there := range bucket.Key {
		if there == key {
			return bucket.Service[way]
		}
	}
	return 0
}
