// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
)

// statsBatch is how many entries of a large map are read by one system call.
const statsBatch = 4096

// tickShift is how far nanoseconds of CLOCK_MONOTONIC are shifted to give ticks (TICK_SHIFT in types.h).
const tickShift = 30

// Counters are totals since the service or backend was added. Bytes are of IP, as LVS counts them.
type Counters struct {
	Connections, Packets, Bytes uint64
}

func (c Counters) plus(other xdplbCounters) Counters {
	return Counters{c.Connections + other.Connections, c.Packets + other.Packets, c.Bytes + other.Bytes}
}

// BackendStats is what a backend has counted, and how many flows it has now: Active are established TCP connections,
// Inactive all other flows that have not expired, as in LVS's listings. Removed flows may be counted until the
// kernel's table evicts them or they expire.
type BackendStats struct {
	Counters
	Active, Inactive uint64
}

// ServiceStats is what a service has counted: the sum of its backends, including those that were removed.
type ServiceStats struct {
	Counters
	Backends map[netip.Addr]BackendStats
}

// Stats reads the counters of all services and counts their flows, for which it walks through the flow tables.
func (d *Datapath) Stats() (map[lb.ServiceKey]ServiceStats, error) {
	live, err := d.readLive()
	if err != nil {
		return nil, err
	}
	flows, err := d.countFlows()
	if err != nil {
		return nil, err
	}
	return d.stats(live, flows)
}

// Counters reads the counters alone: Active and Inactive are 0.
func (d *Datapath) Counters() (map[lb.ServiceKey]ServiceStats, error) {
	live, err := d.readLive()
	if err != nil {
		return nil, err
	}
	return d.stats(live, make([]flowCount, d.backends.count))
}

func (d *Datapath) stats(live *configuration, flows []flowCount) (map[lb.ServiceKey]ServiceStats, error) {
	counters, err := d.backendCounters(live)
	if err != nil {
		return nil, fmt.Errorf("reading the counters: %w", err)
	}
	all := make(map[lb.ServiceKey]ServiceStats, len(live.services))
	for key, s := range live.services {
		var retired xdplbCounters
		if err := d.maps.RetiredCounters.Lookup(s.Id, &retired); err != nil {
			return nil, fmt.Errorf("reading the counters of %s: %w", key, err)
		}
		stats := ServiceStats{Backends: make(map[netip.Addr]BackendStats, len(s.backends))}
		stats.Counters = stats.plus(retired)
		for addr, b := range s.backends {
			stats.Counters = stats.plus(counters[b.id])
			stats.Backends[addr] = BackendStats{
				Counters: Counters{}.plus(counters[b.id]),
				Active:   flows[b.id].active,
				Inactive: flows[b.id].inactive,
			}
		}
		all[key] = stats
	}
	return all, nil
}

// backendCounters sums the counters of all CPUs, by backend id, up to the largest one that is live.
func (d *Datapath) backendCounters(live *configuration) ([]xdplbCounters, error) {
	end := uint32(0)
	for id := range live.backendIDs() {
		end = max(end, id+1)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	sums := make([]xdplbCounters, end)
	keys, values := make([]uint32, statsBatch), make([]xdplbCounters, statsBatch*cpus)
	var cursor ebpf.MapBatchCursor
	for read := uint32(0); read < end; {
		n, err := d.maps.BackendCounters.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, err
		}
		for i, id := range keys[:n] {
			if id < end {
				sums[id] = sum(values[i*cpus : (i+1)*cpus])
			}
		}
		read += uint32(n)
		if err != nil {
			break
		}
	}
	return sums, nil
}

func sum(perCPU []xdplbCounters) (total xdplbCounters) {
	for _, c := range perCPU {
		total = total.plus(c)
	}
	return total
}

func (c xdplbCounters) plus(other xdplbCounters) xdplbCounters {
	c.Connections += other.Connections
	c.Packets += other.Packets
	c.Bytes += other.Bytes
	return c
}

// flowCount is how many flows a backend has now.
type flowCount struct {
	active, inactive uint64
}

// countFlows walks through all flow tables; the result is by backend id.
func (d *Datapath) countFlows() ([]flowCount, error) {
	counts := make([]flowCount, d.backends.count)
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, fmt.Errorf("reading the clock: %w", err)
	}
	tick := uint32(now.Nano() >> tickShift)
	count := func(flow xdplbFlow) {
		id := flow.Target.Backend
		if id >= d.backends.count || d.backends.get(id).Generation != flow.Target.Generation {
			return
		}
		switch {
		case flow.expired(tick):
		case xdplbFlowState(flow.State) == xdplbFlowStateFLOW_ESTABLISHED:
			counts[id].active++
		default:
			counts[id].inactive++
		}
	}
	errs := []error{
		walk[xdplbFlowKey4](d.maps.Flows4, count),
		walk[xdplbFlowKey4](d.maps.Syns4, count),
		walk[xdplbFlowKey6](d.maps.Flows6, count),
		walk[xdplbFlowKey6](d.maps.Syns6, count),
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("counting flows: %w", err)
	}
	return counts, nil
}

// expired says whether a flow has been idle for longer than its state allows. A packet may have been seen a tick after
// the clock was read.
func (f xdplbFlow) expired(tick uint32) bool {
	return int32(tick-f.Seen) > int32(timeout(xdplbFlowState(f.State)))
}

// timeout is the idle time of a flow, in ticks.
func timeout(state xdplbFlowState) xdplbTimeout {
	switch state {
	case xdplbFlowStateFLOW_SYN:
		return xdplbTimeoutTIMEOUT_SYN
	case xdplbFlowStateFLOW_ESTABLISHED:
		return xdplbTimeoutTIMEOUT_ESTABLISHED
	case xdplbFlowStateFLOW_FIN:
		return xdplbTimeoutTIMEOUT_FIN
	case xdplbFlowStateFLOW_CLOSED:
		return xdplbTimeoutTIMEOUT_CLOSED
	default:
		return xdplbTimeoutTIMEOUT_UDP
	}
}

// walk calls visit for every flow of a table. Flows that come or go meanwhile may be missed or met twice.
func walk[K any](m *ebpf.Map, visit func(xdplbFlow)) error {
	size := statsBatch
	keys, flows := make([]K, size), make([]xdplbFlow, size)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, flows, nil)
		if errors.Is(err, unix.ENOSPC) && n == 0 {
			// A hash chain longer than the batch.
			size *= 2
			keys, flows = make([]K, size), make([]xdplbFlow, size)
			continue
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("reading %s: %w", m, err)
		}
		for _, flow := range flows[:n] {
			visit(flow)
		}
		if err != nil {
			return nil
		}
	}
}
