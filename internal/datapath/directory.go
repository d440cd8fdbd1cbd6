// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"xdplb/internal/lb"
)

// maxMultipliers is how many are tried. With half a service to a bucket of five, one in a few does, whatever the keys.
const maxMultipliers = 1000

// directory says which bucket of service_buckets each service stands in.
type directory struct {
	multiplier uint64
	keys       []uint64 // of the services, by their place; 0: none is there
	buckets    uint32
	ranges     []xdplbPortRange // of services that have several ports, by place
	allPorts   uint64           // the word of config that says how many those are, and how many services have port 0
}

// allPortsRangesShift is where in that word the number of ranges begins.
const allPortsRangesShift = 32

// bucketOf is what find_service in service.h computes.
func bucketOf(key, multiplier uint64, buckets uint32) uint32 {
	return uint32((key * multiplier >> 32) * uint64(buckets) >> 32)
}

// newDirectory finds a multiplier for which no bucket overflows. The first one to be tried is given, so that it stays
// where it can; 0: any.
func newDirectory(keys []uint64, first uint64, buckets uint32) (directory, error) {
	d := directory{multiplier: first | 1, keys: keys, buckets: buckets}
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

// addRanges adds the ports of the services that have several, by place, of which one has the key 0 among the others; and
// then what is left of the ports of FTP's data.
func (d *directory) addRanges(values []xdplbService, ports map[uint32]lb.Ports, room int) error {
	for place := range values {
		if values[place].Id != 0 && values[place].Port == 0 {
			d.allPorts++
		}
	}
	for place, list := range ports {
		key := values[place].rangeKey()
		for _, r := range list.Ranges() {
			d.ranges = append(d.ranges, xdplbPortRange{Key: key, First: r.First, Last: r.Last, Service: place})
		}
	}
	d.sortRanges()
	for place := range values {
		key, taken := values[place].rangeKey(), d.ranges
		for _, wanted := range values[place].dataPorts(ports[uint32(place)]) {
			for _, r := range without(wanted, key, taken) {
				d.ranges = append(d.ranges, xdplbPortRange{Key: key, First: r.First, Last: r.Last, Service: uint32(place)})
			}
		}
	}
	d.sortRanges()
	if len(d.ranges) > room {
		return fmt.Errorf("%d ranges of ports: there is room for %d, four for each service that the tables can hold",
			len(d.ranges), room)
	}
	d.allPorts |= uint64(len(d.ranges)) << allPortsRangesShift
	return nil
}

func (d *directory) sortRanges() {
	slices.SortFunc(d.ranges, func(a, b xdplbPortRange) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.First, b.First))
	})
}

// without is what others, which are sorted, leave of a range of the key's ports.
func without(r lb.PortRange, key uint64, others []xdplbPortRange) (left []lb.PortRange) {
	for _, other := range others {
		switch {
		case other.Key != key || other.Last < r.First || other.First > r.Last:
			continue
		case other.First > r.First:
			left = append(left, lb.PortRange{First: r.First, Last: other.First - 1})
		}
		if other.Last >= r.Last {
			return left
		}
		r.First = other.Last + 1
	}
	return append(left, r)
}

// writeRanges fills the ranges of a side, whose services stand in the map services from index base on.
func (d *directory) writeRanges(ranges []xdplbPortRange, base uint32) {
	clear(ranges[copy(ranges, d.ranges):])
	for i := range d.ranges {
		ranges[i].Service += base
	}
}

// readPorts reads the ports of the services of a side that have several, by place. Those of FTP's data are none of the
// service's own, which are always among its several.
func (d *Datapath) readPorts(n uint32) map[uint32]lb.Ports {
	values := d.services.side(n)
	places := uint32(len(values))
	lists := make(map[uint32][]lb.PortRange)
	for _, r := range d.portRanges.side(n)[:d.countRanges(n)] {
		place := r.Service % places
		lists[place] = append(lists[place], lb.PortRange{First: r.First, Last: r.Last})
	}
	ports := make(map[uint32]lb.Ports, len(lists))
	for place, list := range lists {
		own := fromPort(values[place].Port)
		if slices.ContainsFunc(list, func(r lb.PortRange) bool { return r.First <= own && own <= r.Last }) {
			ports[place] = lb.NewPorts(own, list...)
		}
	}
	return ports
}
