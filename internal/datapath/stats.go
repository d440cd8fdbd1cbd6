// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"xdplb/internal/lb"
)

// statsBatch is how many entries of a large map are read by one system call.
const statsBatch = 4096

// Counters are totals since the service or backend was added, or since its counters were last zeroed. Bytes are of IP, as LVS counts them.
type Counters struct {
	Connections, Packets, Bytes uint64
}

func (c Counters) plus(other xdplbCounters) Counters {
	return Counters{c.Connections + other.Connections, c.Packets + other.Packets, c.Bytes + other.Bytes}
}

// BackendStats is what a backend has counted, and how many flows it has now: Active are established connections,
// Inactive all other flows that have not expired, Persistent are persistence templates, as in LVS's listings. A
// connection of an mh service whose packets need no look at the flow table counts until its timeout only.
type BackendStats struct {
	Counters
	Active, Inactive, Persistent uint64
}

// ServiceStats is what a service has counted: the sum of its backends, including those that were removed since its
// counters were last zeroed, whether their connections go on or not.
type ServiceStats struct {
	Counters
	Backends map[netip.Addr]BackendStats
}

// Stats reads the counters of all services and counts their flows and templates, for which it walks through all of them.
func (d *Datapath) Stats() (map[lb.ServiceKey]ServiceStats, error) {
	live, err := d.readLive(nil)
	if err != nil {
		return nil, err
	}
	flows, err := d.countFlows()
	if err != nil {
		return nil, err
	}
	templates, err := d.countTemplates()
	if err != nil {
		return nil, err
	}
	return d.stats(live, flows, templates)
}

// Counters reads the counters alone: Active and Inactive are 0.
func (d *Datapath) Counters() (map[lb.ServiceKey]ServiceStats, error) {
	live, err := d.readLive(nil)
	if err != nil {
		return nil, err
	}
	return d.stats(live, make([]flowCount, d.backends.count), make([]uint64, d.backends.count))
}

func (d *Datapath) stats(live *configuration, flows []flowCount, templates []uint64) (map[lb.ServiceKey]ServiceStats, error) {
	counters, err := d.backendCounters(live)
	if err != nil {
		return nil, fmt.Errorf("reading the counters: %w", err)
	}
	all := make(map[lb.ServiceKey]ServiceStats, len(live.services))
	for key, s := range live.services {
		stats := ServiceStats{Backends: make(map[netip.Addr]BackendStats, len(s.backends))}
		stats.Counters = stats.plus(d.retired.side(side(live.epoch))[s.Id])
		for _, b := range s.all() {
			counted := counters[b.id].minus(b.base)
			stats.Counters = stats.plus(counted)
			if b.draining {
				continue
			}
			stats.Backends[b.Addr] = BackendStats{
				Counters:   Counters{}.plus(counted),
				Active:     flows[b.id].active,
				Inactive:   flows[b.id].inactive,
				Persistent: templates[b.id],
			}
		}
		all[key] = stats
	}
	return all, nil
}

// backendCounters sums the counters of all CPUs, by backend id, up to the largest one that is live.
func (d *Datapath) backendCounters(live *configuration) ([]xdplbCounters, error) {
	end := uint32(0)
	for _, s := range live.list {
		for _, b := range s.all() {
			end = max(end, b.id+1)
		}
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

func (c xdplbCounters) minus(other xdplbCounters) xdplbCounters {
	c.Connections -= other.Connections
	c.Packets -= other.Packets
	c.Bytes -= other.Bytes
	return c
}

// flowCount is how many flows a backend has now.
type flowCount struct {
	active, inactive uint64
}

// countFlows walks through the flow table; the result is by backend id.
func (d *Datapath) countFlows() ([]flowCount, error) {
	counts := make([]flowCount, d.backends.count)
	table, err := d.openFlows()
	if err != nil {
		return nil, fmt.Errorf("counting flows: %w", err)
	}
	defer table.close()
	table.walk(func(_, _ int, entry xdplbEntry) bool {
		if entry.isEstablished() {
			counts[entry.backend()].active++
		} else {
			counts[entry.backend()].inactive++
		}
		return true
	})
	return counts, nil
}

// countTemplates walks through the persistence templates; the result is by backend id.
func (d *Datapath) countTemplates() ([]uint64, error) {
	counts := make([]uint64, d.backends.count)
	table, err := d.openFlows()
	if err != nil {
		return nil, fmt.Errorf("counting persistence templates: %w", err)
	}
	defer table.close()
	err = d.openTemplates(table).walk(func(_ xdplbTemplateKey, t xdplbTemplate) bool {
		counts[t.backend()]++
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("counting persistence templates: %w", err)
	}
	return counts, nil
}
