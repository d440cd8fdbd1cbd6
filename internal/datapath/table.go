// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"

	"xdplb/internal/lb"
	"xdplb/internal/schedule"
)

// candidate is a backend that is in its service's lookup table.
type candidate struct {
	id     uint32
	addr   netip.Addr
	weight uint32 // as far as the scheduler looks at it: 1 for rr
}

// candidates lists them by address.
func candidates(s *service) []candidate {
	list := make([]candidate, 0, len(s.backends))
	for _, b := range s.backends {
		c := candidate{b.id, b.Addr, b.Weight}
		switch scheduler := lb.Scheduler(s.Scheduler); {
		case !b.listed && s.leavesGaps():
			c.weight = 0
		case !b.listed:
			continue
		case scheduler == lb.RR || scheduler == lb.LC:
			c.weight = 1
		}
		list = append(list, c)
	}
	return list
}

// leavesGaps says whether backends that take no flows have slots all the same, as they have in LVS. dh refuses those who
// hash to one, sh with its flag takes another for them.
func (s *service) leavesGaps() bool {
	scheduler := lb.Scheduler(s.Scheduler)
	return scheduler == lb.DH || scheduler == lb.SH && lb.SchedulerFlags(s.Flags)&lb.SHFallback != 0
}

// looksAtLoads says whether a scheduler chooses by the number of flows that each backend has.
func looksAtLoads(scheduler lb.Scheduler) bool {
	switch scheduler {
	case lb.LC, lb.WLC, lb.LBLC, lb.LBLCR, lb.SED, lb.NQ, lb.OVF, lb.TWOS:
		return true
	}
	return false
}

// shapes remembers lookup tables as indexes into the candidates: services on the same real servers (ports 80 and 443)
// differ in the ids alone, and Maglev tables take milliseconds.
type shapes map[string][]int

func (s shapes) shape(of *service, list []candidate) ([]int, error) {
	scheduler := lb.Scheduler(of.Scheduler)
	key := []byte{byte(scheduler), of.Flags}
	if scheduler == lb.DH {
		key = append(key, of.Address[:]...)
	}
	addrs, weights := make([]netip.Addr, len(list)), make([]uint32, len(list))
	for i, c := range list {
		addrs[i], weights[i] = c.addr, c.weight
		key = binary.NativeEndian.AppendUint32(key, c.weight)
		if scheduler == lb.MH {
			address := c.addr.As16()
			key = append(key, address[:]...)
		}
	}
	if shape, ok := s[string(key)]; ok {
		return shape, nil
	}
	shape, err := newShape(of, addrs, weights)
	if err == nil {
		s[string(key)] = shape
	}
	return shape, err
}

// newShape makes the slots of a service. Those that look at loads use them in flood mode alone.
func newShape(of *service, addrs []netip.Addr, weights []uint32) ([]int, error) {
	switch scheduler := lb.Scheduler(of.Scheduler); {
	case scheduler == lb.RR || scheduler == lb.LC:
		return schedule.RoundRobin(weights), nil
	case scheduler == lb.WRR || looksAtLoads(scheduler):
		return schedule.Weighted(weights)
	case scheduler == lb.SH && of.leavesGaps():
		return schedule.SourceHashFallback(weights)
	case scheduler == lb.SH:
		return schedule.SourceHash(weights)
	case scheduler == lb.MH:
		return schedule.Maglev(addrs, weights)
	case scheduler == lb.FO:
		return schedule.Failover(weights), nil
	case scheduler == lb.DH:
		return schedule.DestinationHash(of.key().Addr.Addr(), weights), nil
	default:
		return nil, fmt.Errorf("scheduler %s has no lookup table", scheduler)
	}
}

// members lists who is chosen from by load, as indexes into the candidates, in the order in which they are looked at.
func members(scheduler lb.Scheduler, list []candidate, shape []int) []int {
	switch scheduler {
	case lb.TWOS:
		return shape // two of these are drawn
	case lb.OVF:
		weights := make([]uint32, len(list))
		for i, c := range list {
			weights[i] = c.weight
		}
		return schedule.Overflow(weights)
	}
	all := make([]int, len(list))
	for i := range all {
		all[i] = i
	}
	return all
}

// table is a lookup table to be built.
type table struct {
	id    uint32
	slots int
	fill  func(slots []uint32) error
}

// build creates the table's inner map and writes it.
func (t *table) build(tables *ebpf.MapSpec) (*ebpf.Map, error) {
	inner, err := newInner(tables, (t.slots+slotsEach-1)/slotsEach)
	if err != nil {
		return nil, err
	}
	// No packet sees the table yet, so that plain stores do.
	memory, err := mapSlots(inner, t.slots)
	if err == nil {
		err = errors.Join(t.fill(memory.slots), memory.close())
	}
	if err != nil {
		inner.Close()
		return nil, fmt.Errorf("writing a lookup table: %w", err)
	}
	return inner, nil
}

// slotsEach is how many slots a value of a lookup table has (SLOTS in types.h).
const slotsEach = len(xdplbSlots{}.Backend)

// mappedSlots is the memory of a lookup table: slot by slot, since the values have no gaps (struct slots).
type mappedSlots struct {
	*words
	slots []uint32
}

func mapSlots(inner *ebpf.Map, slots int) (mappedSlots, error) {
	if have := slotsEach * int(inner.MaxEntries()); slots > have {
		return mappedSlots{}, fmt.Errorf("%d slots in a table of %d", slots, have)
	}
	memory, err := mapWords(inner)
	if err != nil {
		return mappedSlots{}, err
	}
	return mappedSlots{memory, unsafe.Slice((*uint32)(unsafe.Pointer(&memory.memory[0])), slots)}, nil
}

// openTable maps a lookup table that is in place.
func (d *Datapath) openTable(id uint32, slots uint32) (mappedSlots, error) {
	inner, err := d.openInner(id)
	if err != nil {
		return mappedSlots{}, fmt.Errorf("opening the lookup table %d: %w", id, err)
	}
	defer inner.Close()
	return mapSlots(inner, int(slots))
}
