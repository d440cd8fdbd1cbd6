// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
)

// leftover is what the maps hold besides the live configuration: what a change has replaced, or what a killed writer
// has left, before publishing or after.
type leftover struct {
	d        *Datapath
	epoch    uint64   // of the live configuration
	backends []uint32 // in use
	parts    []uint32 // of the lookup tables
	side     bool     // the other side is no copy of the live one
	egresses []uint32
	limits   []uint32 // backends whose words are of another configuration
}

// tidy says whether nothing can be left over of any configuration but one, without looking for it.
func (d *Datapath) tidy(epoch uint64) bool {
	return d.config.load(configTidy) == epoch+1
}

// cleanUp removes everything that does not belong to the live configuration, and makes the other side a copy of the live
// one. It needs nothing but that, so that any writer can do it.
func (d *Datapath) cleanUp(epoch uint64, after func(step string) error) error {
	if d.tidy(epoch) {
		return nil
	}
	if err := d.syncPeers(side(epoch)); err != nil {
		return err
	}
	left := d.findLeftover(epoch)
	if left.empty() {
		d.config.store(configTidy, epoch+1)
		return nil
	}
	return run([]step{
		{"changing limits", left.limit},
		{"waiting for packets of the old side", d.settle},
		{"retiring backends", left.retire},
		{"dropping parts", left.drop},
		{"closing the accounts of retired backends", left.account},
		{"forgetting the old side", left.forget},
	}, after)
}

func (l *leftover) empty() bool {
	return len(l.backends) == 0 && len(l.parts) == 0 && !l.side && len(l.egresses) == 0 && len(l.limits) == 0
}

func (d *Datapath) findLeftover(epoch uint64) *leftover {
	left := &leftover{d: d, epoch: epoch}
	left.findBackends()
	left.findParts()
	left.limits = d.staleLimits(epoch)
	left.side = d.timeouts.values[0] != d.timeouts.values[1] ||
		!slices.Equal(d.services.side(0), d.services.side(1)) || !slices.Equal(d.info.side(0), d.info.side(1)) ||
		!slices.Equal(d.retired.side(0), d.retired.side(1)) ||
		!slices.Equal(d.rangesFor(1-side(epoch)), d.portRanges.side(1-side(epoch))) ||
		!slices.Equal(d.bucketsFor(1-side(epoch)), d.serviceBuckets.side(1-side(epoch)))
	return left
}

// bucketsFor is what the buckets of a side must be for it to have the same services as the other: each side's buckets
// name places of its own.
func (d *Datapath) bucketsFor(n uint32) []xdplbServiceBucket {
	buckets, places := slices.Clone(d.serviceBuckets.side(1-n)), uint32(len(d.services.side(n)))
	for i := range buckets {
		for way, key := range buckets[i].Key {
			if key != 0 {
				buckets[i].Service[way] = buckets[i].Service[way]%places + n*places
			}
		}
	}
	return buckets
}

// rangesFor is the same of the ranges of ports.
func (d *Datapath) rangesFor(n uint32) []xdplbPortRange {
	ranges, places := slices.Clone(d.portRanges.side(1-n)), uint32(len(d.services.side(n)))
	for i := range ranges[:d.countRanges(1-n)] {
		ranges[i].Service = ranges[i].Service%places + n*places
	}
	return ranges
}

// countRanges is how many ranges of ports a side has.
func (d *Datapath) countRanges(n uint32) uint32 {
	return uint32(d.config.load(configAllPorts+int(n)) >> allPortsRangesShift)
}

// findBackends finds backends and egresses that nothing live refers to.
func (l *leftover) findBackends() {
	info := l.d.info.side(side(l.epoch))
	used := make([]bool, l.d.egresses.count)
	for id := uint32(1); id < l.d.backends.count; id++ {
		b := l.d.backends.get(id)
		switch egress := uint32(b.NextHop.Egress); {
		case info[id].Family != 0 && egress < l.d.egresses.count:
			used[egress] = true
		case info[id].Family == 0 && b.InUse != 0:
			l.backends = append(l.backends, id)
		}
	}
	for index := uint32(1); index < l.d.egresses.count; index++ {
		if l.d.egresses.get(index) != (xdplbEgress{}) && !used[index] {
			l.egresses = append(l.egresses, index)
		}
	}
}

// findParts finds parts of the lookup tables in which no live service has one. The first part stays, for settle.
func (l *leftover) findParts() {
	used := map[uint32]bool{0: true}
	for _, table := range tablesOf(l.d.services.side(side(l.epoch))) {
		first, last := partsOf(uint32(table.start), uint32(table.end-table.start))
		for part := first; part <= last; part++ {
			used[part] = true
		}
	}
	for part := range l.d.presentParts() {
		if !used[part] {
			l.parts = append(l.parts, part)
		}
	}
}

// retire makes every flow of the removed backends stale.
func (l *leftover) retire() error {
	for _, id := range l.backends {
		b := l.d.backends.get(id)
		b.Generation++
		l.d.backends.put(id, b)
	}
	return nil
}

// drop frees parts of the lookup tables. When it returns, no packet to a retired backend is under way.
func (l *leftover) drop() error {
	var group errgroup.Group
	group.SetLimit(partsAtOnce)
	group.Go(l.d.settle)
	l.d.dropParts(l.parts, &group)
	return group.Wait()
}

// account adds what the removed backends have counted to their services, and frees their ids. What it adds to is the old
// side's, which stays as it is until a word says that all is added: who dies before that leaves it to be done again.
func (l *leftover) account() error {
	if closed := ^l.epoch; l.d.config.load(configTidy) != closed {
		for service, ids := range l.removedByService() {
			if err := l.addRetired(service, ids); err != nil {
				return fmt.Errorf("keeping the counters of removed backends: %w", err)
			}
		}
		l.d.config.store(configTidy, closed)
	}
	l.free()
	return nil
}

// removedByService sorts the backends that the old side has and the live one has not, of services that go on.
func (l *leftover) removedByService() map[uint32][]uint32 {
	goesOn := make([]bool, ids(l.d.meta.Services))
	services := l.d.services.side(side(l.epoch))
	for i := range services {
		goesOn[services[i].Id] = services[i].Id != 0
	}
	byService := make(map[uint32][]uint32)
	was, now := l.d.info.side(1-side(l.epoch)), l.d.info.side(side(l.epoch))
	for id := range was {
		service := was[id].Service
		if was[id].Family != 0 && now[id].Family == 0 && service < uint32(len(goesOn)) && goesOn[service] {
			byService[service] = append(byService[service], uint32(id))
		}
	}
	return byService
}

func (l *leftover) addRetired(service uint32, ids []uint32) error {
	was := 1 - side(l.epoch)
	total, columns := l.d.retired.side(was)[service], l.d.info.side(was)
	var perCPU []xdplbCounters
	for _, id := range ids {
		if err := l.d.maps.BackendCounters.Lookup(id, &perCPU); err != nil {
			return err
		}
		total = total.plus(sum(perCPU).minus(columns[id].Base))
	}
	l.d.retired.side(side(l.epoch))[service] = total
	return nil
}

func (l *leftover) free() {
	for _, id := range l.backends {
		b := l.d.backends.get(id)
		// in_use and the generation are one word; the next hop is another, which nobody uses any more.
		b.InUse, b.NextHop = 0, xdplbNextHop{}
		l.d.backends.put(id, b)
	}
}

// forget makes the old side, whose cold columns the accounts needed, a copy of the live one, and frees egresses.
func (l *leftover) forget() error {
	for _, index := range l.egresses {
		l.d.egresses.put(index, xdplbEgress{})
	}
	live, other := side(l.epoch), 1-side(l.epoch)
	copy(l.d.timeouts.side(other), l.d.timeouts.side(live))
	copy(l.d.services.side(other), l.d.services.side(live))
	copy(l.d.info.side(other), l.d.info.side(live))
	copy(l.d.retired.side(other), l.d.retired.side(live))
	copy(l.d.serviceBuckets.side(other), l.d.bucketsFor(other))
	copy(l.d.portRanges.side(other), l.d.rangesFor(other))
	l.d.config.store(configMultiplier+int(other), l.d.config.load(configMultiplier+int(live)))
	l.d.config.store(configAllPorts+int(other), l.d.config.load(configAllPorts+int(live)))
	l.d.config.store(configTidy, l.epoch+1)
	return nil
}
