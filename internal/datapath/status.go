// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Status is what the kernel holds.
type Status struct {
	Epoch    uint64 // how many configurations were published; a change of next hops alone is none
	Schema   uint32
	Capacity Capacity
	Program  ProgramStatus
	Maps     []MapStatus // sorted by name
	Memory   uint64      // bytes of kernel memory, of the maps, their inner maps and the program
}

// ProgramStatus is the loaded program.
type ProgramStatus struct {
	Name     string
	ID       uint32 // as bpftool prints it
	Tag      string // a hash of its code, made by the kernel
	LoadedAt time.Time
	JITed    uint32 // bytes of machine code, 0 if the kernel interprets it
}

// MapStatus is one map. Of a map of maps, Used counts the inner maps.
type MapStatus struct {
	Name  string
	Type  string // as the kernel's headers say, in lower case: "lru_hash"
	Used  uint32 // entries; of an array that is always whole, those that are in use
	Max   uint32
	Bytes uint64 // of kernel memory, inner maps included
}

// Status reads what the kernel holds. It walks through the flow tables to see how full they are.
func (d *Datapath) Status() (Status, error) {
	live, err := d.readLive()
	if err != nil {
		return Status{}, err
	}
	status := Status{Epoch: live.epoch, Schema: Schema, Capacity: capacityOf(&d.maps)}
	var memory uint64
	if status.Program, memory, err = d.programStatus(); err != nil {
		return Status{}, fmt.Errorf("reading what the kernel says of the program: %w", err)
	}
	status.Memory = memory
	for name, m := range d.byName() {
		s, err := d.mapStatus(name, m, live)
		if err != nil {
			return Status{}, fmt.Errorf("reading what the kernel says of the map %s: %w", name, err)
		}
		status.Maps = append(status.Maps, s)
		status.Memory += s.Bytes
	}
	slices.SortFunc(status.Maps, func(a, b MapStatus) int { return strings.Compare(a.Name, b.Name) })
	return status, nil
}

func (d *Datapath) programStatus() (status ProgramStatus, memory uint64, _ error) {
	info, err := d.program.Info()
	if err != nil {
		return ProgramStatus{}, 0, err
	}
	status = ProgramStatus{Name: info.Name, Tag: info.Tag}
	if id, ok := info.ID(); ok {
		status.ID = uint32(id)
	}
	if size, err := info.JitedSize(); err == nil {
		status.JITed = size
	}
	if sinceBoot, ok := info.LoadTime(); ok {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
			return ProgramStatus{}, 0, err
		}
		status.LoadedAt = time.Now().Add(sinceBoot - time.Duration(now.Nano())).Round(time.Second)
	}
	memory, _ = info.Memlock()
	return status, memory, nil
}

func (d *Datapath) byName() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		xdplbMapBackendCounters: d.maps.BackendCounters,
		xdplbMapBackendInfo:     d.maps.BackendInfo,
		xdplbMapBackends:        d.maps.Backends,
		xdplbMapConfig:          d.maps.Config,
		xdplbMapCursors:         d.maps.Cursors,
		xdplbMapEgresses:        d.maps.Egresses,
		xdplbMapFlows4:          d.maps.Flows4,
		xdplbMapFlows6:          d.maps.Flows6,
		xdplbMapFragments:       d.maps.Fragments,
		xdplbMapInterfaces:      d.maps.Interfaces,
		xdplbMapMeta:            d.maps.Meta,
		xdplbMapReasons:         d.maps.Reasons,
		xdplbMapRetiredCounters: d.maps.RetiredCounters,
		xdplbMapServices4:       d.maps.Services4,
		xdplbMapServices6:       d.maps.Services6,
		xdplbMapSyns4:           d.maps.Syns4,
		xdplbMapSyns6:           d.maps.Syns6,
		xdplbMapTables:          d.maps.Tables,
	}
}

func (d *Datapath) mapStatus(name string, m *ebpf.Map, live *configuration) (MapStatus, error) {
	info, err := m.Info()
	if err != nil {
		return MapStatus{}, err
	}
	status := MapStatus{Name: name, Type: typeName(m.Type()), Max: m.MaxEntries()}
	status.Bytes, _ = info.Memlock()
	switch name {
	case xdplbMapFlows4, xdplbMapSyns4:
		err = walk[xdplbFlowKey4](m, func(xdplbFlow) { status.Used++ })
	case xdplbMapFlows6, xdplbMapSyns6:
		err = walk[xdplbFlowKey6](m, func(xdplbFlow) { status.Used++ })
	case xdplbMapFragments:
		err = walk[xdplbFragmentKey](m, func(xdplbFlow) { status.Used++ })
	case xdplbMapInterfaces:
		var rows map[int][6]byte
		rows, err = d.rows()
		status.Used = uint32(len(rows))
	case xdplbMapBackends, xdplbMapBackendCounters:
		status.Used = uint32(len(live.backendIDs()))
	case xdplbMapCursors, xdplbMapRetiredCounters:
		status.Used = uint32(len(live.services))
	case xdplbMapEgresses:
		status.Used = d.usedEgresses()
	case xdplbMapTables, xdplbMapServices4, xdplbMapServices6, xdplbMapBackendInfo:
		err = status.addInner(m)
	default:
		status.Used = status.Max
	}
	return status, err
}

func (d *Datapath) usedEgresses() (used uint32) {
	for index := uint32(1); index < d.egresses.count; index++ {
		if d.egresses.get(index).Ifindex != 0 {
			used++
		}
	}
	return used
}

// addInner counts the inner maps and their memory.
func (s *MapStatus) addInner(outer *ebpf.Map) error {
	present, err := presentInner(outer)
	if err != nil {
		return err
	}
	s.Used = uint32(len(present))
	for _, id := range present {
		bytes, err := innerMemory(id)
		if err != nil {
			return err
		}
		s.Bytes += bytes
	}
	return nil
}

// innerMemory is 0 for a map that is gone in the meantime.
func innerMemory(id ebpf.MapID) (uint64, error) {
	inner, err := ebpf.NewMapFromID(id)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer inner.Close()
	info, err := inner.Info()
	if err != nil {
		return 0, err
	}
	bytes, _ := info.Memlock()
	return bytes, nil
}

// typeName is "array_of_maps" for ArrayOfMaps.
func typeName(kind ebpf.MapType) string {
	switch kind {
	case ebpf.PerCPUArray:
		return "percpu_array"
	case ebpf.LRUHash:
		return "lru_hash"
	case ebpf.ArrayOfMaps:
		return "array_of_maps"
	}
	return strings.ToLower(kind.String())
}
