// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
	"xdplb/internal/schedule"
)

// Packets of mh services do not look at the flow table where the lookup table alone says where their flow goes. After a
// change it does not for the slots that have changed: their flows stay where they are. Such a slot is unsettled.
//
//   - For settling ticks after the change, a flow of it may be there that has no entry, or an expired one, because its
//     packets did not need one. Such a flow is older than the change: service.previous says where it is.
//   - After that, every flow of it that is not idle has an entry.
//   - When none of these entries names another backend than the slot's, the slot is settled (sweep.go).

// unsettled is the bit in a slot.
const unsettled = uint32(xdplbSlotSLOT_UNSETTLED)

// settling is how long flows without an entry may come up, in ticks.
const settling = uint32(xdplbTimeoutTIMEOUT_ESTABLISHED) + 1

// tickShift is how far nanoseconds of CLOCK_MONOTONIC are shifted to give ticks (TICK_SHIFT in types.h).
const tickShift = 30

// ticks is the time on the packet path.
func ticks() (uint32, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("reading the clock: %w", err)
	}
	return uint32(now.Nano() >> tickShift), nil
}

// isSettling says whether flows without an entry may come up that are in no way the slot's.
func (s *service) isSettling(now uint32) bool {
	return s.Settles != 0 && int32(now-s.Settles) < 0
}

// heritage is what the slots of an mh service were before a change.
type heritage struct {
	slots    []uint32 // nil: its flows may be with any backend
	previous []uint32 // of those that are unsettled; nil: none had a backend
	kept     map[uint32]bool
}

// inherit gives a slot its owner (0: nobody), and the backend that it had for flows without an entry (0: none).
func (h *heritage) inherit(i int, owner uint32) (slot, previous uint32) {
	switch {
	case h.slots == nil:
		return owner | unsettled, 0
	case h.slots[i]&unsettled != 0:
		if h.previous != nil && h.kept[h.previous[i]] {
			previous = h.previous[i]
		}
		return owner | unsettled, previous
	case h.slots[i] != owner && h.kept[h.slots[i]]:
		return owner | unsettled, h.slots[i]
	case owner == 0:
		return unsettled, 0
	}
	return owner, 0 // the same, or its backend is gone and with it all flows
}

// forgets says whether a removed backend may still be in a service's table of previous ones. Its id must not stay there.
func forgets(was, now *service) bool {
	if was.Previous == 0 {
		return false
	}
	for _, b := range was.backends {
		if now.find(b.Addr) == nil {
			return true
		}
	}
	return false
}

// succeed plans the tables of an mh service that was there before.
func (p *planner) succeed(was, now *service, list []candidate) error {
	kept := make(map[uint32]bool)
	for _, b := range was.backends {
		if now.find(b.Addr) != nil {
			kept[b.id] = true
		}
	}
	hadSlots := was.Scheduler == uint32(lb.MH) && was.Slots > 0
	if len(list) == 0 && (len(kept) == 0 || !hadSlots) {
		return nil // no slots: packets look for their flows
	}
	owners := make([]uint32, schedule.MaglevSlots)
	if len(list) > 0 {
		shape, err := p.shapes.shape(lb.MH, list)
		if err != nil {
			return err
		}
		for i, index := range shape {
			owners[i] = list[index].id
		}
	}
	slots, previous := make([]uint32, len(owners)), make([]uint32, len(owners))
	sum := succession{}
	err := p.d.withHeritage(was, kept, p.now, func(h *heritage) error {
		for i, owner := range owners {
			slots[i], previous[i] = h.inherit(i, owner)
			sum.add(h, i, slots[i], previous[i])
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.addSuccession(was, now, sum, slots, previous)
}

// succession sums up what became of the slots.
type succession struct {
	unsettled, fresh, previous bool // any slot is unsettled; is newly so; has a previous backend
}

func (s *succession) add(h *heritage, i int, slot, previous uint32) {
	s.previous = s.previous || previous != 0
	if slot&unsettled != 0 {
		s.unsettled = true
		s.fresh = s.fresh || h.slots == nil || h.slots[i]&unsettled == 0
	}
}

func (p *planner) addSuccession(was, now *service, sum succession, slots, previous []uint32) (err error) {
	now.Slots = uint32(len(slots))
	if now.Table, err = p.newTable(len(slots), copyFrom(slots)); err != nil {
		return err
	}
	if sum.previous {
		if now.Previous, err = p.newTable(len(previous), copyFrom(previous)); err != nil {
			return err
		}
	}
	switch {
	case !sum.unsettled:
	case sum.fresh || was.Settles == 0:
		now.Settles = max(p.now+settling, 1)
	default:
		now.Settles = was.Settles
	}
	return nil
}

func copyFrom(values []uint32) func([]uint32) error {
	return func(slots []uint32) error {
		copy(slots, values)
		return nil
	}
}

// withHeritage reads what a service's slots were, if it was an mh service with slots.
func (d *Datapath) withHeritage(was *service, kept map[uint32]bool, now uint32, do func(*heritage) error) error {
	h := &heritage{kept: kept}
	switch {
	case len(kept) == 0: // no flow is left
		h.slots = make([]uint32, schedule.MaglevSlots)
		return do(h)
	case was.Scheduler != uint32(lb.MH) || was.Slots == 0:
		return do(h)
	}
	slots, err := d.openTable(was.Table, was.Slots)
	if err != nil {
		return err
	}
	defer slots.close()
	h.slots = slots.slots
	if was.Previous != 0 && was.isSettling(now) {
		previous, err := d.openTable(was.Previous, was.Slots)
		if err != nil {
			return err
		}
		defer previous.close()
		h.previous = previous.slots
	}
	return do(h)
}

// dropPrevious leaves out the tables of previous backends that nobody needs any more.
func (p *planner) dropPrevious() {
	for key, now := range p.layout.next.services {
		was := p.live.services[key]
		if was != nil && was.Previous != 0 && was.Previous == now.Previous && !was.isSettling(p.now) {
			now.Previous = 0
		}
	}
}
