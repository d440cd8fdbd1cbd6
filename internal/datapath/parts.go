// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// slotsEach is how many slots a value of the lookup tables has (SLOTS in types.h).
const slotsEach = uint32(len(xdplbSlots{}.Backend))

// slotMemory is the memory of the lookup tables, shared with the program: parts, each an inner map, that appear to the
// process as one row. A part is opened when a slot of it is first wanted.
type slotMemory struct {
	ids *words // table_ids

	mutex  sync.Mutex
	start  unsafe.Pointer // of the addresses that are reserved for all parts; nil: of none yet
	mapped map[uint32]bool
}

// has says whether there is a part.
func (m *slotMemory) has(part uint32) bool { return m.ids.load(int(part)) != 0 }

// partsOf returns the first and the last part that some slots are in.
func partsOf(at, slots uint32) (first, last uint32) {
	return at / partSlots, (at + slots - 1) / partSlots
}

// slots returns some slots in a row. Who changes what packets use goes by atomic operations.
func (m *slotMemory) slots(at, count uint32) ([]uint32, error) {
	if count == 0 {
		return nil, nil
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if err := m.reserve(); err != nil {
		return nil, err
	}
	first, last := partsOf(at, count)
	for part := first; part <= last; part++ {
		if m.mapped[part] {
			continue
		}
		if err := m.mapPart(part); err != nil {
			return nil, fmt.Errorf("opening part %d of the lookup tables: %w", part, err)
		}
		m.mapped[part] = true
	}
	return unsafe.Slice((*uint32)(unsafe.Add(m.start, 4*uintptr(at))), count), nil
}

// reserve takes addresses, and no memory.
func (m *slotMemory) reserve() (err error) {
	if m.start != nil {
		return nil
	}
	const flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE
	if m.start, err = unix.MmapPtr(-1, 0, nil, 4*allSlots, unix.PROT_NONE, flags); err != nil {
		return fmt.Errorf("reserving addresses for the lookup tables: %w", err)
	}
	m.mapped = make(map[uint32]bool)
	return nil
}

func (m *slotMemory) mapPart(part uint32) error {
	inner, err := ebpf.NewMapFromID(ebpf.MapID(m.ids.load(int(part))))
	if err != nil {
		return err
	}
	defer inner.Close()
	if have := uint64(inner.MaxEntries()) * uint64(inner.ValueSize()); have != partBytes {
		return fmt.Errorf("%s has %d bytes, want %d", inner, have, partBytes)
	}
	at := unsafe.Add(m.start, partBytes*uint64(part))
	_, err = unix.MmapPtr(inner.FD(), 0, at, uintptr(partBytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED)
	return err
}

// forget lets a part be opened anew.
func (m *slotMemory) forget(part uint32) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	delete(m.mapped, part)
	m.ids.store(int(part), 0)
}

func (m *slotMemory) close() error {
	if m.start == nil {
		return nil
	}
	start := m.start
	m.start = nil
	return unix.MunmapPtr(start, 4*allSlots)
}

// presentParts returns the parts of the lookup tables. After a crash it may name one that is gone.
func (d *Datapath) presentParts() map[uint32]ebpf.MapID {
	present := make(map[uint32]ebpf.MapID)
	for part := range d.maps.TableIds.MaxEntries() {
		if id := d.slots.ids.load(int(part)); id != 0 {
			present[part] = ebpf.MapID(id)
		}
	}
	return present
}

// newPart creates a part. It is made from the template, type information included, which kernels before 6.2 compare.
func newPart(tables *ebpf.MapSpec) (*ebpf.Map, ebpf.MapID, error) {
	part, err := ebpf.NewMap(tables.InnerMap.Copy())
	if err != nil {
		return nil, 0, fmt.Errorf("creating a part of the lookup tables: %w", err)
	}
	info, err := part.Info()
	if err != nil {
		part.Close()
		return nil, 0, fmt.Errorf("asking for the id of a part of the lookup tables: %w", err)
	}
	id, _ := info.ID()
	return part, id, nil
}

// partsAtOnce is how many parts are put in, or taken out, at a time: each waits for a grace period.
const partsAtOnce = 32

// makeParts creates parts, which may be written to when it returns, and lets group put them in.
func (d *Datapath) makeParts(parts []uint32, group *errgroup.Group) error {
	if len(parts) == 0 {
		return nil
	}
	spec, err := loadXdplb()
	if err != nil {
		return err
	}
	for _, part := range parts {
		inner, id, err := newPart(spec.Maps[xdplbMapTables])
		if err != nil {
			return err
		}
		d.slots.ids.store(int(part), uint64(id))
		group.Go(func() error {
			defer inner.Close()
			if err := d.maps.Tables.Put(part, inner); err != nil {
				return fmt.Errorf("putting a part of the lookup tables in: %w", err)
			}
			return nil
		})
	}
	return nil
}

// dropParts takes parts out that nobody uses.
func (d *Datapath) dropParts(parts []uint32, group *errgroup.Group) {
	for _, part := range parts {
		group.Go(func() error {
			if err := d.maps.Tables.Delete(part); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("taking a part of the lookup tables out: %w", err)
			}
			d.slots.forget(part)
			return nil
		})
	}
}

// settle returns when no packet is under way that began before: the kernel waits for a grace period after every change
// of a map of maps (maybe_wait_bpf_programs in kernel/bpf/syscall.c), also where an inner map replaces itself.
func (d *Datapath) settle() error {
	first, err := ebpf.NewMapFromID(ebpf.MapID(d.slots.ids.load(0)))
	if err != nil {
		return fmt.Errorf("opening the first part of the lookup tables: %w", err)
	}
	defer first.Close()
	return d.maps.Tables.Put(uint32(0), first)
}
