// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
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
func candidates(scheduler lb.Scheduler, backends map[netip.Addr]*backend) []candidate {
	var list []candidate
	for _, b := range backends {
		if !b.listed {
			continue
		}
		c := candidate{b.id, b.Addr, b.Weight}
		if scheduler == lb.RR {
			c.weight = 1
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b candidate) int { return a.addr.Compare(b.addr) })
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
	list  []candidate
	shape []int
}

// build creates the table's inner map and writes it.
func (t *table) build(tables *ebpf.MapSpec) (*ebpf.Map, error) {
	inner, err := newInner(tables, (len(t.shape)+1)/2)
	if err != nil {
		return nil, err
	}
	memory, err := mapWords(inner)
	if err != nil {
		inner.Close()
		return nil, err
	}
	// Two slots a word (struct slots). No packet sees the table yet, so that plain stores do.
	slots := unsafe.Slice((*uint32)(unsafe.Pointer(&memory.memory[0])), len(t.shape))
	for i, index := range t.shape {
		slots[i] = t.list[index].id
	}
	if err := memory.close(); err != nil {
		inner.Close()
		return nil, fmt.Errorf("unmapping a lookup table: %w", err)
	}
	return inner, nil
}
