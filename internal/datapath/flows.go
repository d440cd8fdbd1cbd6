// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"sync/atomic"
	"time"
	"unsafe"
)

// Of a target, as flow.h has it: the backend's id, and above it the lower bits of its generation.
const (
	targetIDBits = 24
	targetID     = 1<<targetIDBits - 1
)

func (e xdplbEntry) backend() uint32 { return e.Target & targetID }

func targetOf(id, generation uint32) uint32 { return id | generation<<targetIDBits }

func (e xdplbEntry) word() (word uint64) {
	*(*xdplbEntry)(unsafe.Pointer(&word)) = e
	return word
}

// isExpired says whether a flow has been idle for longer than its state allows. A packet may have been seen a tick after
// the clock was read.
func (e xdplbEntry) isExpired(tick uint32) bool {
	return uint16(tick-uint32(e.Seen)+1) > uint16(e.timeout())+1
}

// timeout is the idle time of a flow, in ticks.
func (e xdplbEntry) timeout() xdplbTimeout {
	switch xdplbFlowState(e.State) {
	case xdplbFlowStateFLOW_SYN:
		return xdplbTimeoutTIMEOUT_SYN
	case xdplbFlowStateFLOW_ESTABLISHED:
		return xdplbTimeoutTIMEOUT_ESTABLISHED
	case xdplbFlowStateFLOW_FIN:
		return xdplbTimeoutTIMEOUT_FIN
	case xdplbFlowStateFLOW_CLOSED:
		return xdplbTimeoutTIMEOUT_CLOSED
	case xdplbFlowStateFLOW_DATAGRAM, xdplbFlowStateFLOW_UDP:
		return xdplbTimeoutTIMEOUT_UDP
	default:
		return xdplbTimeoutTIMEOUT_FRAGMENT
	}
}

// flowTable is the flow table, mapped.
type flowTable struct {
	buckets  array[xdplbBucket]
	origins  array[xdplbOrigins]
	clients6 array[xdplbClient6]
	targets  []uint32  // of each backend id, when the table was opened: the target of its live flows
	now      uint32    // tick of the last look at the clock
	opened   time.Time // when that clock said start
	start    int64
}

func (d *Datapath) openFlows() (table *flowTable, err error) {
	table = &flowTable{targets: make([]uint32, d.backends.count), opened: time.Now()}
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
	return t.isCurrent(entry) && !entry.isExpired(t.now)
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
