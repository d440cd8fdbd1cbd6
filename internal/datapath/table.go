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
		if !b.listed {
			continue
		}
		c := candidate{b.id, b.Addr, b.Weight}
		if s.Scheduler == uint32(lb.RR) {
			c.weight = 1
		}
		list = append(list, c)
	}
	return list
}

// shapes remembers lookup tables as indexes into the candidates: services on the same real servers (ports 80 and 443)
// differ in the ids alone, and Maglev tables take milliseconds.
type shapes map[string][]int

func (s shapes) shape(scheduler lb.Scheduler, list []candidate) ([]int, error) {
	key := []byte{byte(scheduler)}
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
	shape, err := newShape(scheduler, addrs, weights)
	if err == nil {
		s[string(key)] = shape
	}
	return shape, err
}

func newShape(scheduler lb.Scheduler, addrs []netip.Addr, weights []uint32) ([]int, error) {
	switch scheduler {
	case lb.RR:
		return schedule.RoundRobin(weights), nil
	case lb.WRR:
		return schedule.Weighted(weights)
	case lb.SH:
		return schedule.SourceHash(weights)
	case lb.MH:
		return schedule.Maglev(addrs, weights)
	}
	return nil, fmt.Errorf("scheduler %s has no lookup table", scheduler)
}

// table is a lookup table to be built.
type table struct {
	id    uint32
	slots int
	fill  func(slots []uint32) error
}

// build creates the table's inner map and writes it.
func (t *table) build(tables *ebpf.MapSpec) (*ebpf.Map, error) {
	inner, err := newInner(tables, (t.slots+1)/2)
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

// mappedSlots is the memory of a lookup table, two slots a word (struct slots).
type mappedSlots struct {
	*words
	slots []uint32
}

func mapSlots(inner *ebpf.Map, slots int) (mappedSlots, error) {
	if slots > 2*int(inner.MaxEntries()) {
		return mappedSlots{}, fmt.Errorf("%d slots in a table of %d pairs", slots, inner.MaxEntries())
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
