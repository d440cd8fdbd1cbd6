// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"sync/atomic"
	"time"
	"unsafe"
)

// flowTable is the flow table, mapped.
type flowTable struct {
	buckets  array[xdplbBucket]
	origins  array[xdplbOrigins]
	clients6 array[xdplbClient6]
	timeouts xdplbTimeouts
	targets  []uint32  // of each backend id, when the table was opened: the target of its live flows
	now      uint32    // tick of the last look at the clock
	opened   time.Time // when that clock said start
	start    int64
}

func (d *Datapath) openFlows() (*flowTable, error) {
	return d.openFlowsOf(d.config.load(configEpoch))
}

// openFlowsOf opens the flow table with the timeouts of an epoch, which is live or is about to be.
func (d *Datapath) openFlowsOf(epoch uint64) (table *flowTable, err error) {
	table = &flowTable{timeouts: d.timeouts.side(side(epoch))[0], targets: make([]uint32, d.backends.count), opened: time.Now()}
	defer func() {
		if err != nil {
			table.close()
		}
	}()
	if table.start, err = monotonic(); err != nil {
		return nil, err
	}
	table.lookAtTheClock()
	for id := uint32(1); id < d.backends.count; id++ {
		if b := d.backends.get(id); b.InUse != 0 {
			table.targets[id] = targetOf(id, b.Generation)
		}
	}
	if table.buckets, err = mapArray[xdplbBucket](d.maps.Flows); err != nil {
		return nil, err
	}
	if table.origins, err = mapArray[xdplbOrigins](d.maps.FlowOrigins); err != nil {
		return nil, err
	}
	table.clients6, err = mapArray[xdplbClient6](d.maps.FlowClients6)
	return table, err
}

func (t *flowTable) close() error {
	return errors.Join(t.buckets.close(), t.origins.close(), t.clients6.close())
}

// entryAt is the word of a way, which packets change.
func (b *xdplbBucket) entryAt(way int) *uint64 {
	return (*uint64)(unsafe.Pointer(&b.Entry[way]))
}

func (b *xdplbBucket) load(way int) (entry xdplbEntry) {
	word := atomic.LoadUint64(b.entryAt(way))
	return *(*xdplbEntry)(unsafe.Pointer(&word))
}

// bucket is where to look at a bucket, on a walk through all. A large table, or a slow reader, takes more than a tick, and
// a flow that packets have followed meanwhile would be taken for one of long ago.
func (t *flowTable) bucket(i int) *xdplbBucket {
	const pause = 64 // so that the clock does not cost more than the walk
	if i%pause == 0 {
		t.lookAtTheClock()
	}
	return &t.buckets.values[i]
}

func (t *flowTable) lookAtTheClock() {
	t.now = uint32((t.start + int64(time.Since(t.opened))) >> tickShift)
}

// isCurrent says whether the backend of an entry is there.
func (t *flowTable) isCurrent(entry xdplbEntry) bool {
	id := entry.backend()
	return id < uint32(len(t.targets)) && t.targets[id] == entry.Target && id != 0
}

// isLive says whether packets of every kind follow an entry.
func (t *flowTable) isLive(entry xdplbEntry) bool {
	return t.isCurrent(entry) && !t.isExpired(entry)
}

// isExpired says whether a flow has been idle for longer than its state allows.
func (t *flowTable) isExpired(entry xdplbEntry) bool {
	return ageOf(entry.Status, t.now) > t.timeout(entry)+1
}

// timeout is how long a flow may be idle, in ticks.
func (t *flowTable) timeout(entry xdplbEntry) uint32 {
	return t.timeouts.Ticks[int(entry.state())%len(t.timeouts.Ticks)]
}

// walkAll visits every entry that is there, expired ones too.
func (t *flowTable) walkAll(visit func(bucket, way int, entry xdplbEntry)) {
	for i := range t.buckets.values {
		bucket := t.bucket(i)
		for way := range bucket.Entry {
			if entry := bucket.load(way); entry != (xdplbEntry{}) {
				visit(i, way, entry)
			}
		}
	}
}

// walk visits every live flow until visit says no. Those that come or go meanwhile may be missed.
func (t *flowTable) walk(visit func(bucket, way int, entry xdplbEntry) bool) {
	for i := range t.buckets.values {
		bucket := t.bucket(i)
		for way := range bucket.Entry {
			if entry := bucket.load(way); entry != (xdplbEntry{}) && t.isLive(entry) && !visit(i, way, entry) {
				return
			}
		}
	}
}
