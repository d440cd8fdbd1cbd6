// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"

	"xdplb/internal/lb"
)

// sweepStep is how many buckets are swept between two looks at the context.
const sweepStep = 4096

// Sweep frees the entries of flows that have been idle for longer than their timeout or whose backend was removed, and
// the persistence templates that are over; counts the flows of each backend anew for the schedulers that look at them; and
// settles the slots of mh services that no flow strays from. Packets are not held up, and need no sweep to go the right
// way: new flows take expired entries too. It returns how many entries and templates were freed. The context's error ends
// it early.
func (d *Datapath) Sweep(ctx context.Context) (freed int, err error) {
	table, err := d.openFlows()
	if err != nil {
		return 0, fmt.Errorf("sweeping the flow table: %w", err)
	}
	defer table.close()
	loads := d.newLoadKeeper(d.config.load(configEpoch))
	loads.begin()
	for from := 0; from < len(table.buckets.values); from += sweepStep {
		if err := ctx.Err(); err != nil {
			return freed, err
		}
		for i := from; i < min(from+sweepStep, len(table.buckets.values)); i++ {
			freed += table.sweepBucket(table.bucket(i), loads)
		}
	}
	loads.correct()
	dropped, err := d.sweepTemplates(table)
	if err != nil {
		return freed, fmt.Errorf("sweeping the persistence templates: %w", err)
	}
	freed += dropped
	if err := d.settleSlots(table); err != nil {
		return freed, fmt.Errorf("settling the slots of mh services: %w", err)
	}
	return freed, nil
}

func (d *Datapath) sweepTemplates(table *flowTable) (dropped int, err error) {
	live, err := d.readLive(nil)
	if err != nil {
		return 0, err
	}
	return d.openTemplates(table).sweep(d.owners(live))
}

// sweepBucket frees an entry only if it still is what was looked at: a packet may have come meanwhile. The note that flows
// have spilled goes when it is so old that none of them can be live.
func (t *flowTable) sweepBucket(bucket *xdplbBucket, loads *loadKeeper) (freed int) {
	for way := range bucket.Entry {
		entry := bucket.load(way)
		switch {
		case entry == (xdplbEntry{}):
		case t.isLive(entry):
			loads.keep(t, bucket, way)
		case atomic.CompareAndSwapUint64(bucket.entryAt(way), entry.word(), 0):
			loads.free(t, entry)
			freed++
		default:
			loads.keep(t, bucket, way)
		}
	}
	head := atomic.LoadUint32(&bucket.Head)
	held := head&uint32(xdplbHeadHEAD_LOCKED) != 0
	if head&uint32(xdplbHeadHEAD_SPILLED) != 0 && !held && ageOf(head, t.now) > t.timeouts.Ticks[0]+1 {
		atomic.CompareAndSwapUint32(&bucket.Head, head, 0)
	}
	return freed
}

// settleSlots settles the slots of those mh services whose last change is long enough ago.
func (d *Datapath) settleSlots(table *flowTable) error {
	live, err := d.readLive(nil)
	if err != nil {
		return err
	}
	due := make(map[*service]*unsettledTable)
	for _, s := range live.list {
		if s.Scheduler != uint8(lb.MH) || s.Slots == 0 || s.Settles == 0 || s.isSettling(table.now) {
			continue
		}
		slots, err := d.slots.slots(s.Table, s.Slots)
		if err != nil {
			return err
		}
		due[s] = &unsettledTable{service: s, slots: slots, astray: make(map[uint32]bool)}
	}
	if len(due) == 0 {
		return nil
	}
	d.findStrays(live, table, due)
	for s, unsettled := range due {
		if unsettled.unread || unsettled.settle() > 0 {
			continue
		}
		for n := range uint32(sides) { // each a copy of the other, or to be made one
			atomic.StoreUint32(&d.services.side(n)[s.place].Settles, 0) // for user space alone: nothing is left to do
		}
	}
	return nil
}

// unsettledTable is a lookup table, some of whose slots are unsettled.
type unsettledTable struct {
	service *service
	slots   []uint32
	astray  map[uint32]bool // slots of which a live flow is with another backend than the slot's
	unread  bool            // a flow is so new that its client is not written down yet: its slot cannot be told
}

// findStrays looks for the flows that keep slots unsettled: those too that have expired since they were swept, since
// packets would still follow them.
func (d *Datapath) findStrays(live *configuration, table *flowTable, due map[*service]*unsettledTable) {
	owners := d.owners(live)
	table.walkAll(func(bucket, way int, entry xdplbEntry) {
		if !table.isCurrent(entry) {
			return
		}
		owner := owners[entry.backend()]
		if unsettled := due[owner.service]; unsettled != nil {
			client, port := table.origin(bucket, way, owner.service.Family)
			if hash := owner.service.hashFlow(d.meta.HashKeys, client, port); !table.buckets.values[bucket].holds(way, hash) {
				unsettled.unread = true
				return
			}
			unsettled.see(client, entry.backend())
		}
	})
}

func (u *unsettledTable) see(client netip.AddrPort, backend uint32) {
	slot := uint32(uint64(u.service.hashClient(client)) * uint64(len(u.slots)) >> 32)
	if atomic.LoadUint32(&u.slots[slot])&^unsettled != backend {
		u.astray[slot] = true
	}
}

// settle clears the bit of every slot all of whose flows are with its backend, and returns how many are left. Packets
// read the slots meanwhile.
func (u *unsettledTable) settle() (left int) {
	for i := range u.slots {
		switch slot := atomic.LoadUint32(&u.slots[i]); {
		case slot&unsettled == 0:
		case slot == unsettled || u.astray[uint32(i)]:
			left++
		default:
			atomic.StoreUint32(&u.slots[i], slot&^unsettled)
		}
	}
	return left
}
