// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
)

// Packets of mh services do not look at the flow table where the lookup table alone says where their flow goes. After a
// change it does not for the slots that have changed: their flows stay where they are. Such a slot is unsettled.
//
//   - For settling ticks after the change, a flow of it may be there that has no entry, or an expired one, because its
//     packets did not need one. Such a flow is older than the change: service.previous says where it is.
//   - After that, every flow of it that is not idle has an entry.
//   - When none of these entries names another backend than the slot's, the slot is settled (sweep.go).
//
// How many slots a table has depends on how many backends the service has. A longer table's slots lie within those of a
// shorter one, so that it can say all that the shorter one said: where a change asks for a shorter one, it is made longer
// by repeating each slot, until what the longer one said is no longer of use. Packets find no difference.

// unsettled is the bit in a slot.
const unsettled = uint32(xdplbSlotSLOT_UNSETTLED)

// Tick is the unit of time of the program.
const Tick time.Duration = 1 << tickShift

// tickShift is how far nanoseconds of CLOCK_MONOTONIC are shifted to give ticks (TICK_SHIFT in types.h).
const tickShift = 30

// monotonic is the packet path's clock, in nanoseconds.
func monotonic() (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("reading the clock: %w", err)
	}
	return now.Nano(), nil
}

// ticks is the time on the packet path.
func ticks() (uint32, error) {
	now, err := monotonic()
	return uint32(now >> tickShift), err
}

// isSettling says whether flows without an entry may come up that are in no way the slot's.
func (s *xdplbService) isSettling(now uint32) bool {
	return s.Settles != 0 && int32(now-s.Settles) < 0
}

// heritage is what the slots of an mh service were before a change.
type heritage struct {
	count    int      // of the slots that there will be
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
	for _, b := range was.all() {
		if !now.holds(b) {
			return true
		}
	}
	return false
}

// succeed plans the tables of an mh service that was there before.
func (p *planner) succeed(was, now *service, list []candidate) error {
	kept := make(map[uint32]bool)
	for _, b := range was.all() {
		if now.holds(b) {
			kept[b.id] = true
		}
	}
	hadSlots := was.hasSlotsOf(now)
	if len(list) == 0 && (len(kept) == 0 || !hadSlots) {
		return nil // no slots: packets look for their flows
	}
	var shape []int
	if len(list) > 0 {
		var err error
		if shape, err = p.shapes.maglev(list, now.maglevSlots())(); err != nil {
			return err
		}
	}
	h, err := p.d.heritage(was, now, kept, p.now)
	if err != nil {
		return err
	}
	// The slots are worked out once for their sum, and again when each table is written: a quarter of a megabyte for each
	// table of each service would be much to keep.
	inherit := func(visit func(i int, slot, previous uint32)) {
		for i := range h.count {
			owner := uint32(0)
			if shape != nil {
				owner = list[shape[i*len(shape)/h.count]].id
			}
			slot, previous := h.inherit(i, owner)
			visit(i, slot, previous)
		}
	}
	sum := succession{heritage: h}
	inherit(sum.add)
	return p.addSuccession(was, now, sum, inherit)
}

// succession sums up what became of the slots.
type succession struct {
	*heritage
	unsettled, fresh, previous bool // any slot is unsettled; is newly so; has a previous backend
}

func (s *succession) add(i int, slot, previous uint32) {
	s.previous = s.previous || previous != 0
	if slot&unsettled != 0 {
		s.unsettled = true
		s.fresh = s.fresh || s.slots == nil || s.slots[i]&unsettled == 0
	}
}

// addSuccession plans the tables; inherit visits every slot.
func (p *planner) addSuccession(was, now *service, sum succession, inherit func(func(int, uint32, uint32))) (err error) {
	now.Slots = uint32(sum.count)
	now.Table, err = p.newTable(now.Slots, lineSlots, func(into []uint32) error {
		inherit(func(i int, slot, _ uint32) { into[i] = slot })
		return nil
	})
	if err == nil && sum.previous {
		now.Previous, err = p.newTable(now.Slots, lineSlots, func(into []uint32) error {
			inherit(func(i int, _, previous uint32) { into[i] = previous })
			return nil
		})
	}
	switch {
	case !sum.unsettled:
	case sum.fresh || was.Settles == 0:
		now.Settles = max(p.now+p.layout.timeouts.settling(), 1)
	default:
		now.Settles = was.Settles
	}
	return err
}

// hasSlotsOf says whether the slots that a service had tell something of those that it gets: they are of the same clients,
// and no flow was sent elsewhere by a template or because a limit was reached.
func (s *service) hasSlotsOf(now *service) bool {
	const port = uint8(lb.MHPort)
	return s.Scheduler == uint8(lb.MH) && s.Limited == 0 && !s.isPersistent() && s.Slots > 0 && s.Flags&port == now.Flags&port
}

// heritage reads what a service's slots were, if it was an mh service with slots.
func (d *Datapath) heritage(was, now *service, kept map[uint32]bool, tick uint32) (h *heritage, err error) {
	h = &heritage{count: int(now.maglevSlots()), kept: kept}
	switch {
	case len(kept) == 0: // no flow is left
		h.slots = make([]uint32, h.count)
	case was.hasSlotsOf(now):
		if h.slots, err = d.slots.slots(was.Table, was.Slots); err != nil {
			return nil, err
		}
		if was.Settles != 0 || !isRepeated(h.slots, h.count) {
			h.count = max(h.count, len(h.slots))
		}
		h.slots = scaled(h.slots, h.count)
		if was.Previous == noTable || !was.isSettling(tick) {
			break
		}
		if h.previous, err = d.slots.slots(was.Previous, was.Slots); err != nil {
			return nil, err
		}
		h.previous = scaled(h.previous, h.count)
	}
	return h, nil
}

// isRepeated says whether slots can be told by so many of them.
func isRepeated(slots []uint32, count int) bool {
	for i, slot := range slots {
		if count < len(slots) && slot != slots[i&^(len(slots)/count-1)] {
			return false
		}
	}
	return true
}

// scaled is a table of more or fewer slots, of the same clients.
func scaled(slots []uint32, count int) []uint32 {
	if len(slots) == count {
		return slots
	}
	result := make([]uint32, count)
	for i := range result {
		result[i] = slots[i*len(slots)/count]
	}
	return result
}

// dropPrevious leaves out the tables of previous backends that nobody needs any more.
func (p *planner) dropPrevious() {
	for place, s := range p.nextValues() {
		was := &p.live.values[place]
		if was.Previous != 0 && was.Previous == s.Previous && !was.isSettling(p.now) {
			s.Previous = 0
			p.layout.services = append(p.layout.services, placed{uint32(place), s}) // the last one counts
		}
	}
}

// prolongSettling lets services settle later that are at it while a longer timeout is set: more flows have no entry and are
// not idle.
func (p *planner) prolongSettling() {
	settling := p.layout.timeouts.settling()
	if settling <= p.live.timeouts.settling() {
		return
	}
	settles := max(p.now+settling, 1)
	for place, s := range p.nextValues() {
		was := &p.live.values[place]
		if was.Id == s.Id && was.isSettling(p.now) && was.Settles == s.Settles && int32(settles-s.Settles) > 0 {
			s.Settles = settles
			p.layout.services = append(p.layout.services, placed{uint32(place), s}) // the last one counts
		}
	}
}
