// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

// maxMultipliers is how many are tried. With half a service to a bucket of five, one in a few does, whatever the keys.
const maxMultipliers = 1000

// directory says which bucket of service_buckets each service stands in.
type directory struct {
	multiplier uint64
	keys       []uint64 // of the services, by their place; 0: none is there
	buckets    uint32
}

// bucketOf is what find_service in xdplb.c computes.
func bucketOf(key, multiplier uint64, buckets uint32) uint32 {
	return uint32((key * multiplier >> 32) * uint64(buckets) >> 32)
}

// newDirectory finds a multiplier for which no bucket overflows. The first one to be tried is given, so that it stays
// where it can; 0: any.
func newDirectory(keys []uint64, first uint64, buckets uint32) (directory, error) {
	d := directory{first | 1, keys, buckets}
	seen := make(map[uint64]bool, len(keys))
	for _, key := range keys {
		if seen[key] && key != 0 {
			return d, errors.New("two IPv6 services have the same hash; give one of them another port or address")
		}
		seen[key] = true
	}
	fill := make([]uint8, buckets)
	for range maxMultipliers {
		if d.fits(fill) {
			return d, nil
		}
		d.multiplier = rand.Uint64() | 1
		clear(fill)
	}
	return d, fmt.Errorf("no multiplier of %d tried spreads %d services over %d buckets", maxMultipliers, len(keys), buckets)
}

func (d *directory) fits(fill []uint8) bool {
	for _, key := range d.keys {
		if key == 0 {
			continue
		}
		bucket := &fill[bucketOf(key, d.multiplier, d.buckets)]
		if *bucket++; int(*bucket) > serviceWays {
			return false
		}
	}
	return true
}

// write fills the buckets of a side, whose services stand in the map services from index base on.
func (d *directory) write(buckets []xdplbServiceBucket, base uint32) {
	clear(buckets)
	for i, key := range d.keys {
		if key == 0 {
			continue
		}
		bucket := &buckets[bucketOf(key, d.multiplier, d.buckets)]
		way := 0
		for bucket.Key[way] != 0 {
			way++
		}
		bucket.Key[way], bucket.Service[way] = key, base+uint32(i)
	}
}
