// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"xdplb/internal/lb"
)

// configuration is one side of the maps with the ids that lb.State does not know.
type configuration struct {
	epoch    uint64
	services map[lb.ServiceKey]*service
}

// service is a service of a configuration.
type service struct {
	xdplbService
	backends map[netip.Addr]*backend
}

// backend is a backend of a configuration. Its hop is the live one.
type backend struct {
	lb.Backend
	id   uint32
	word xdplbNextHop
	// Whether it takes new flows: weight not 0, next hop known. It is kept with the side, since a next hop changes
	// before or after the lookup table, and the writer may die between.
	listed bool
}

// Snapshot reads the live configuration.
func (d *Datapath) Snapshot() (lb.State, error) {
	live, err := d.readLive()
	if err != nil {
		return lb.State{}, err
	}
	return live.state()
}

// state leaves the ids out.
func (c *configuration) state() (lb.State, error) {
	services := make([]lb.Service, 0, len(c.services))
	for key, s := range c.services {
		service := lb.Service{ServiceKey: key, Scheduler: lb.Scheduler(s.Scheduler)}
		for _, b := range s.backends {
			service.Backends = append(service.Backends, b.Backend)
		}
		services = append(services, service)
	}
	state, err := lb.NewState(services)
	if err != nil {
		return lb.State{}, fmt.Errorf("the pinned maps hold what no xdplb writes: %w", err)
	}
	return state, nil
}

// side says which of two sides an epoch's configuration is on.
func side(epoch uint64) uint32 { return uint32(epoch & 1) }

// readLive reads the side that packets see.
func (d *Datapath) readLive() (*configuration, error) {
	live := &configuration{epoch: d.config.load(0), services: make(map[lb.ServiceKey]*service)}
	byID := make(map[uint32]*service)
	add := func(key lb.ServiceKey, value xdplbService) {
		s := &service{xdplbService: value, backends: make(map[netip.Addr]*backend)}
		live.services[key], byID[value.Id] = s, s
	}
	keys4, values, err := readInner[xdplbServiceKey4, xdplbService](d.maps.Services4, side(live.epoch))
	if err != nil {
		return nil, fmt.Errorf("reading the IPv4 services: %w", err)
	}
	for i, key := range keys4 {
		add(fromKey4(key), values[i])
	}
	keys6, values, err := readInner[xdplbServiceKey6, xdplbService](d.maps.Services6, side(live.epoch))
	if err != nil {
		return nil, fmt.Errorf("reading the IPv6 services: %w", err)
	}
	for i, key := range keys6 {
		add(fromKey6(key), values[i])
	}
	ids, columns, err := readInner[uint32, xdplbBackendColumns](d.maps.BackendInfo, side(live.epoch))
	if err != nil {
		return nil, fmt.Errorf("reading the backends: %w", err)
	}
	for i, id := range ids {
		s, ok := byID[columns[i].Service]
		if !ok || id >= d.backends.count {
			return nil, fmt.Errorf("reading the backends: backend id %d of service id %d is out of place", id, columns[i].Service)
		}
		b := d.readBackend(id, columns[i])
		s.backends[b.Addr] = b
	}
	return live, nil
}

// readBackend puts a backend's cold columns and live words together.
func (d *Datapath) readBackend(id uint32, columns xdplbBackendColumns) *backend {
	b := &backend{
		Backend: fromColumns(columns), id: id, word: d.backends.get(id).NextHop, listed: columns.Listed != 0,
	}
	b.Hop.MAC = b.word.Mac
	if egress := uint32(b.word.Egress); egress != 0 && egress < d.egresses.count {
		way := d.egresses.get(egress)
		b.Hop.Ifindex, b.Hop.VLAN = int(way.Ifindex), way.Vlan
	}
	return b
}

// openInner opens an inner map; nil when there is none at that index.
func openInner(outer *ebpf.Map, index uint32) (*ebpf.Map, error) {
	var id ebpf.MapID
	err := outer.Lookup(index, &id)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ebpf.NewMapFromID(id)
}

// readInner reads all of an inner hash map; none counts as empty.
func readInner[K, V any](outer *ebpf.Map, index uint32) ([]K, []V, error) {
	inner, err := openInner(outer, index)
	if err != nil || inner == nil {
		return nil, nil, err
	}
	defer inner.Close()
	// A batch as large as the map takes it in one call, whatever its hash chains look like.
	keys, values := make([]K, inner.MaxEntries()), make([]V, inner.MaxEntries())
	var cursor ebpf.MapBatchCursor
	n, err := inner.BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil, err
	}
	return keys[:n], values[:n], nil
}
