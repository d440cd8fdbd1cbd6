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

	"xdplb/internal/lb"
)

// Status is what the kernel holds.
type Status struct {
	Epoch    uint64 // how many configurations were published; a change of next hops alone is none
	Schema   uint32
	Capacity Capacity
	Draining int // removed backends whose connections go on
	Program  ProgramStatus
	Maps     []MapStatus // sorted by name
	Memory   uint64      // bytes of kernel memory, of the maps, their inner maps and the program
	Flows    FlowStatus
}

// FlowStatus is how full the flow table is, and what it has come to since it was made.
type FlowStatus struct {
	Live      int // flows that packets follow
	Expired   int // entries that a sweep would free: idle for longer than their timeout, or their backend was removed
	Evictions Evictions
	FloodRate uint32          // new connections in a tick (1.07 s) above which a service is in flood mode
	Floods    uint64          // times that a service, of those that there are, entered flood mode
	Flooded   []lb.ServiceKey // services that are in flood mode now
}

// Evictions is how often new flows found their place taken, by what was done.
type Evictions struct {
	Expired     uint64 // a flow gave way that had been idle for longer than its timeout
	Embryonic   uint64 // a flow gave way of which there was a SYN and nothing after it
	Spilled     uint64 // none: the new flow went to the second part of the table
	Established uint64 // a live flow gave way, because nothing else would do
	Template    uint64 // none: a persistence template was not kept, because there are too many
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
	live, err := d.readLive(nil)
	if err != nil {
		return Status{}, err
	}
	status := Status{Epoch: live.epoch, Schema: Schema, Capacity: d.capacity()}
	var memory uint64
	if status.Program, memory, err = d.programStatus(); err != nil {
		return Status{}, fmt.Errorf("reading what the kernel says of the program: %w", err)
	}
	status.Memory = memory
	for name, m := range d.byName() {
		s, err := d.mapStatus(name, *m, live)
		if err != nil {
			return Status{}, fmt.Errorf("reading what the kernel says of the map %s: %w", name, err)
		}
		status.Maps = append(status.Maps, s)
		status.Memory += s.Bytes
	}
	if status.Flows, err = d.flowStatus(live); err != nil {
		return Status{}, fmt.Errorf("reading the flow table: %w", err)
	}
	if status.Draining, err = d.countDraining(live); err != nil {
		return Status{}, err
	}
	for i := range status.Maps {
		switch m := &status.Maps[i]; m.Name {
		case xdplbMapFlows, xdplbMapFlowOrigins, xdplbMapFlowClients6:
			m.Used = uint32(status.Flows.Live + status.Flows.Expired)
			m.Max = uint32(len(xdplbBucket{}.Entry)) * (d.meta.FlowBuckets + d.meta.SpillBuckets)
		}
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

// byName lists the pinned maps.
func (d *Datapath) byName() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		xdplbMapBackendCounters: &d.maps.BackendCounters,
		xdplbMapBackendInfo:     &d.maps.BackendInfo,
		xdplbMapTimeouts:        &d.maps.Timeouts,
		xdplbMapBackends:        &d.maps.Backends,
		xdplbMapConfig:          &d.maps.Config,
		xdplbMapCursors:         &d.maps.Cursors,
		xdplbMapEgresses:        &d.maps.Egresses,
		xdplbMapEvictions:       &d.maps.Evictions,
		xdplbMapFlowClients6:    &d.maps.FlowClients6,
		xdplbMapFlowOrigins:     &d.maps.FlowOrigins,
		xdplbMapFlows:           &d.maps.Flows,
		xdplbMapFragmentNames:   &d.maps.FragmentNames,
		xdplbMapFragments:       &d.maps.Fragments,
		xdplbMapInterfaces:      &d.maps.Interfaces,
		xdplbMapLimits:          &d.maps.Limits,
		xdplbMapLoads:           &d.maps.Loads,
		xdplbMapMeta:            &d.maps.Meta,
		xdplbMapNewTemplates:    &d.maps.NewTemplates,
		xdplbMapReasons:         &d.maps.Reasons,
		xdplbMapPeers:           &d.maps.Peers,
		xdplbMapPortRanges:      &d.maps.PortRanges,
		xdplbMapRetiredCounters: &d.maps.RetiredCounters,
		xdplbMapSearches:        &d.maps.Searches,
		xdplbMapSetScans:        &d.maps.SetScans,
		xdplbMapServiceBuckets:  &d.maps.ServiceBuckets,
		xdplbMapServices:        &d.maps.Services,
		xdplbMapTableIds:        &d.maps.TableIds,
		xdplbMapTables:          &d.maps.Tables,
		xdplbMapTemplates:       &d.maps.Templates,
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
	case xdplbMapFragments:
		status.Used, err = countKeys[xdplbFragmentKey, xdplbEntry](m)
	case xdplbMapTemplates, xdplbMapNewTemplates:
		status.Used, err = countKeys[xdplbTemplateKey, xdplbTemplate](m)
	case xdplbMapPeers:
		status.Used, err = countKeys[xdplbPeer, uint32](m)
	case xdplbMapInterfaces:
		status.Used = uint32(len(d.rows()))
	case xdplbMapBackends, xdplbMapBackendCounters, xdplbMapLimits, xdplbMapLoads:
		status.Used = uint32(live.backends)
	case xdplbMapBackendInfo: // one side of it, as of the other maps with two sides
		status.Used, status.Max = uint32(live.backends), status.Max/sides
	case xdplbMapTimeouts:
		status.Used, status.Max = 1, 1 // one side
	case xdplbMapServices:
		status.Used, status.Max = uint32(len(live.list)), status.Max/sides
	case xdplbMapPortRanges:
		status.Used, status.Max = d.countRanges(side(live.epoch)), status.Max/sides
	case xdplbMapServiceBuckets:
		status.Max /= sides
		for _, bucket := range d.serviceBuckets.side(side(live.epoch)) {
			if bucket.Key != [serviceWays]uint64{} {
				status.Used++
			}
		}
	case xdplbMapCursors:
		status.Used = uint32(len(live.list))
	case xdplbMapRetiredCounters:
		status.Used, status.Max = uint32(len(live.list)), status.Max/sides
	case xdplbMapEgresses:
		status.Used = d.usedEgresses()
	case xdplbMapTables:
		err = d.addTables(&status)
	case xdplbMapTableIds:
		status.Used = uint32(len(d.presentParts()))
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

// addTables counts the parts of the lookup tables and their memory.
func (d *Datapath) addTables(status *MapStatus) error {
	present := d.presentParts()
	status.Used = uint32(len(present))
	for _, id := range present {
		bytes, err := innerMemory(id)
		if err != nil {
			return err
		}
		status.Bytes += bytes
	}
	return nil
}

// countKeys counts the entries of a hash map. Those that come or go meanwhile may be missed or met twice.
func countKeys[K, V any](m *ebpf.Map) (total uint32, err error) {
	keys, values := make([]K, m.MaxEntries()), make([]V, m.MaxEntries())
	var cursor ebpf.MapBatchCursor
	n, err := m.BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, err
	}
	return uint32(n), nil
}

// flowStatus walks through the flow table.
func (d *Datapath) flowStatus(live *configuration) (status FlowStatus, err error) {
	status.FloodRate = d.meta.FloodRate
	if status.Evictions, err = d.evictions(); err != nil {
		return status, err
	}
	now, err := ticks()
	if err != nil {
		return status, err
	}
	for _, s := range live.list {
		var cursor xdplbCursor
		if err := d.maps.Cursors.Lookup(s.Id, &cursor); err != nil {
			return status, err
		}
		status.Floods += uint64(cursor.Floods)
		if cursor.Floods > 0 && int32(cursor.FloodUntil-now) > 0 {
			status.Flooded = append(status.Flooded, s.key())
		}
	}
	table, err := d.openFlows()
	if err != nil {
		return status, err
	}
	defer table.close()
	used := 0
	table.walkAll(func(_, _ int, entry xdplbEntry) {
		used++
		if table.isLive(entry) {
			status.Live++
		}
	})
	status.Expired = used - status.Live
	return status, nil
}

func (d *Datapath) evictions() (Evictions, error) {
	var sums [xdplbEvictionEVICTION_COUNT]uint64
	for i := range sums {
		var perCPU []uint64
		if err := d.maps.Evictions.Lookup(uint32(i), &perCPU); err != nil {
			return Evictions{}, err
		}
		for _, n := range perCPU {
			sums[i] += n
		}
	}
	return Evictions{
		Expired:     sums[xdplbEvictionEVICTION_EXPIRED],
		Embryonic:   sums[xdplbEvictionEVICTION_EMBRYONIC],
		Spilled:     sums[xdplbEvictionEVICTION_SPILLED],
		Established: sums[xdplbEvictionEVICTION_ESTABLISHED],
		Template:    sums[xdplbEvictionEVICTION_TEMPLATE],
	}, nil
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
