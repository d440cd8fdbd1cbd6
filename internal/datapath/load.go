// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"sync/atomic"

	"xdplb/internal/lb"
)

// The load of a backend is the number of its flows' entries that are marked as counted (bpf/load.h). Packets keep it. What
// is counted anew here is
//
//   - entries without the mark of services that are counted: they were recorded before they were,
//   - and the sum, since a writer can die between a mark and its count, and a packet may, once in a long time, not see a
//     mark that is made at the same moment.

// loadActiveShift is LOAD_ACTIVE_SHIFT of types.h.
const loadActiveShift = 36

// load is what an entry adds to the word of its backend's load.
func (e xdplbEntry) load() uint64 {
	if e.isEstablished() {
		return uint64(xdplbLoadUnitLOAD_ACTIVE)
	}
	return uint64(xdplbLoadUnitLOAD_INACTIVE)
}

// splitLoad gives the numbers of flows in the word of a load.
func splitLoad(word uint64) (active, inactive int64) {
	const unit = uint64(xdplbLoadUnitLOAD_ACTIVE)
	active = int64(word >> loadActiveShift)
	return active, int64(word - uint64(active)*unit)
}

// joinLoad gives the word of numbers of flows, or what to add to one to change it by so many.
func joinLoad(active, inactive int64) uint64 {
	return uint64(active)*uint64(xdplbLoadUnitLOAD_ACTIVE) + uint64(inactive)*uint64(xdplbLoadUnitLOAD_INACTIVE)
}

// isCounted says whether the service's flows are counted: its scheduler looks at loads, or a backend has a limit.
func (s *xdplbService) isCounted() bool {
	return s.Limited != 0 || looksAtLoads(lb.Scheduler(s.Scheduler))
}

// loadWord is the first word of a backend's load, which packets change.
func (d *Datapath) loadWord(backend uint32) *uint64 { return d.loads.at(int(2 * backend)) }

// loadKeeper keeps the loads right while a flow table is walked through.
type loadKeeper struct {
	d      *Datapath
	counts []bool   // backends whose flows are counted, by id
	before []uint64 // the loads before the walk; nil: they are not compared
	seen   []uint64 // what the walk has found
}

func (d *Datapath) newLoadKeeper(epoch uint64) *loadKeeper {
	counted := make([]bool, ids(d.meta.Services))
	for _, s := range d.services.side(side(epoch)) {
		counted[s.Id] = s.isCounted()
	}
	k := &loadKeeper{d: d, counts: make([]bool, d.backends.count)}
	for id, columns := range d.info.side(side(epoch)) {
		k.counts[id] = columns.Family != 0 && counted[columns.Service]
	}
	return k
}

// free says that the entry of a live backend was taken out of the table.
func (k *loadKeeper) free(t *flowTable, entry xdplbEntry) {
	if id := entry.backend(); entry.isCounted() && t.targets[id] == entry.Target {
		atomic.AddUint64(k.d.loadWord(id), -entry.load())
	}
}

// keep marks the entry in a way if it shall be and is not, and counts it.
func (k *loadKeeper) keep(t *flowTable, bucket *xdplbBucket, way int) {
	for {
		entry := bucket.load(way)
		id := entry.backend()
		if id == 0 || t.targets[id] != entry.Target {
			return
		}
		marked := entry
		marked.Status |= statusCounted
		if entry.isCounted() || k.counts[id] && k.mark(bucket, way, entry, marked) {
			k.seen[id] += marked.load()
			return
		}
		if !k.counts[id] {
			return
		}
	}
}

// mark counts before a packet can find the mark, and change the state that was counted.
func (k *loadKeeper) mark(bucket *xdplbBucket, way int, entry, marked xdplbEntry) bool {
	word := k.d.loadWord(entry.backend())
	atomic.AddUint64(word, entry.load())
	if atomic.CompareAndSwapUint64(bucket.entryAt(way), entry.word(), marked.word()) {
		return true
	}
	atomic.AddUint64(word, -entry.load())
	return false
}

// begin notes the loads before a walk, with whose result they are to be compared.
func (k *loadKeeper) begin() {
	k.before, k.seen = make([]uint64, len(k.counts)), make([]uint64, len(k.counts))
	for id := range k.before {
		k.before[id] = atomic.LoadUint64(k.d.loadWord(uint32(id)))
	}
}

// correct changes the loads that cannot be right. While the walk lasted packets went on counting, so that what it has found
// may be anything between the load before and the load after.
func (k *loadKeeper) correct() {
	for id, seen := range k.seen {
		word := k.d.loadWord(uint32(id))
		after := atomic.LoadUint64(word)
		seenActive, seenInactive := splitLoad(seen)
		wasActive, wasInactive := splitLoad(k.before[id])
		isActive, isInactive := splitLoad(after)
		active, inactive := outside(seenActive, wasActive, isActive), outside(seenInactive, wasInactive, isInactive)
		if active != 0 || inactive != 0 {
			atomic.AddUint64(word, joinLoad(active, inactive))
		}
	}
}

// outside is how far a number is from the nearest one between two others, which count as between.
func outside(n, a, b int64) int64 {
	return n - max(min(a, b), min(n, max(a, b)))
}

// countUncounted counts the flows of services of which they were not counted before.
func (d *Datapath) countUncounted(epoch uint64) error {
	table, err := d.openFlows()
	if err != nil {
		return fmt.Errorf("counting the flows of each backend: %w", err)
	}
	defer table.close()
	keeper := d.newLoadKeeper(epoch)
	keeper.seen = make([]uint64, len(keeper.counts))
	for i := range table.buckets.values {
		bucket := table.bucket(i)
		for way := range bucket.Entry {
			keeper.keep(table, bucket, way)
		}
	}
	return nil
}
