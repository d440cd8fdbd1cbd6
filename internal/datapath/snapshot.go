// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"

	"xdplb/internal/lb"
)

// configuration is the live one, or a part of it, with the ids that lb.State does not know.
type configuration struct {
	epoch    uint64
	timeouts xdplbTimeouts
	values   []xdplbService             // of all services, by their place in the map services; it is the map's memory
	backends int                        // of all services, with those that drain
	draining []uint32                   // ids of those, in ascending order
	services map[lb.ServiceKey]*service // those that were read
	list     []*service                 // the same, by place
	ports    map[uint32]lb.Ports        // of all services that have several, by place
}

// service is a service of a configuration.
type service struct {
	xdplbService
	place    uint32     // in its side of the map services
	ports    lb.Ports   // "": the one in the value
	backends []*backend // sorted by address
	draining []*backend // removed ones whose connections go on, sorted too
}

func (s *service) find(addr netip.Addr) *backend {
	return findBackend(s.backends, addr)
}

// findBackend finds a backend in a sorted list; nil: it is not there.
func findBackend(list []*backend, addr netip.Addr) *backend {
	i, found := slices.BinarySearchFunc(list, addr, func(b *backend, addr netip.Addr) int { return b.Addr.Compare(addr) })
	if !found {
		return nil
	}
	return list[i]
}

// is says whether the service is as wanted, to the last backend, and so are the tables.
func (s *service) is(wanted *lb.Service) bool {
	if s.ports != wanted.Ports || s.Scheduler != uint8(wanted.Scheduler) || s.Flags&^havePeers != serviceFlags(wanted) ||
		s.persistence() != wanted.Persistence || len(s.backends) != len(wanted.Backends) {
		return false
	}
	for i, b := range s.backends {
		if b.Backend != wanted.Backends[i] || b.listed != b.takesFlows() {
			return false
		}
	}
	return true
}

func (s *service) sort() {
	byAddress := func(a, b *backend) int { return a.Addr.Compare(b.Addr) }
	for _, list := range [][]*backend{s.backends, s.draining} {
		if !slices.IsSortedFunc(list, byAddress) {
			slices.SortFunc(list, byAddress)
		}
	}
}

// backend is a backend of a configuration. Its hop is the live one.
type backend struct {
	lb.Backend
	id   uint32
	word xdplbNextHop
	// Whether it takes new flows: weight not 0, next hop known. It is kept with the side, since a next hop changes
	// before or after the lookup table, and the writer may die between.
	listed   bool
	draining bool          // it was removed and keeps its connections
	base     xdplbCounters // what it had counted when its counters were last zeroed
}

// takesFlows says whether new flows may go to the backend.
func (b *backend) takesFlows() bool { return b.Weight > 0 && b.Hop.Known() }

// Snapshot reads the live configuration.
func (d *Datapath) Snapshot() (lb.State, error) {
	live, err := d.readLive(nil)
	if err != nil {
		return lb.State{}, err
	}
	return live.state()
}

// state is what was read, without the ids.
func (c *configuration) state() (lb.State, error) {
	services := make([]lb.Service, 0, len(c.list))
	total := 0
	for _, s := range c.list {
		total += len(s.backends)
	}
	all := make([]lb.Backend, 0, total)
	for _, s := range c.list {
		service := lb.Service{
			ServiceKey: s.key(), Ports: s.ports, Scheduler: lb.Scheduler(s.Scheduler),
			Flags:       lb.SchedulerFlags(s.Flags &^ (onePacket | havePeers | keepRemoved)),
			Persistence: s.persistence(),
			OnePacket:   s.Flags&onePacket != 0,
		}
		if s.keepsRemoved() {
			service.OnRemoval = lb.Keep
		}
		start := len(all)
		for _, b := range s.backends {
			all = append(all, b.Backend)
		}
		if len(s.backends) > 0 {
			service.Backends = all[start:len(all):len(all)]
		}
		services = append(services, service)
	}
	byKey := func(a, b lb.Service) int { return a.ServiceKey.Compare(b.ServiceKey) }
	if !slices.IsSortedFunc(services, byKey) {
		slices.SortFunc(services, byKey)
	}
	state := lb.State{Services: services, Timeouts: c.timeouts.state()}
	if err := state.Validate(); err != nil {
		return lb.State{}, fmt.Errorf("the pinned maps hold what no xdplb writes: %w", err)
	}
	return state, nil
}

// side says which of two sides an epoch's configuration is on.
func side(epoch uint64) uint32 { return uint32(epoch & 1) }

// readLive reads the side that packets see: all services, or only the one of a key, if there is one.
func (d *Datapath) readLive(only *lb.ServiceKey) (*configuration, error) {
	return d.readEpoch(d.config.load(configEpoch), only)
}

// readEpoch reads the side of an epoch, which is live or is about to be.
func (d *Datapath) readEpoch(epoch uint64, only *lb.ServiceKey) (*configuration, error) {
	live := &configuration{epoch: epoch, services: make(map[lb.ServiceKey]*service)}
	live.values, live.timeouts = d.services.side(side(epoch)), d.timeouts.side(side(epoch))[0]
	live.ports = d.readPorts(side(live.epoch))
	byID, unread := make([]*service, ids(d.meta.Services)), new(service)
	for place := range live.values {
		s := &live.values[place]
		switch {
		case s.Id == 0:
		case s.Id >= uint32(len(byID)):
			return nil, fmt.Errorf("reading the services: id %d is out of place", s.Id)
		case only != nil && s.key() != *only:
			byID[s.Id] = unread
		default:
			byID[s.Id] = &service{xdplbService: *s, place: uint32(place), ports: live.ports[uint32(place)]}
			live.services[s.key()] = byID[s.Id]
			live.list = append(live.list, byID[s.Id])
		}
	}
	if err := d.readBackends(live, byID, unread); err != nil {
		return nil, fmt.Errorf("reading the backends: %w", err)
	}
	return live, nil
}

// readBackends reads the backends of services by id, but those of unread ones, and counts all.
func (d *Datapath) readBackends(live *configuration, byID []*service, unread *service) error {
	info := d.info.side(side(live.epoch))
	counts := make([]int, len(byID))
	var found []uint32
	for id := range info {
		if info[id].Family == 0 {
			continue
		}
		at := info[id].Service
		if at >= uint32(len(byID)) || byID[at] == nil {
			return fmt.Errorf("backend id %d of service id %d is out of place", id, at)
		}
		live.backends++
		if info[id].Draining != 0 {
			live.draining = append(live.draining, uint32(id))
		}
		if byID[at] != unread {
			counts[at]++
			found = append(found, uint32(id))
		}
	}
	all, pointers := make([]backend, len(found)), make([]*backend, len(found))
	for _, s := range live.list {
		count := counts[s.Id]
		s.backends, pointers = pointers[:0:count], pointers[count:]
	}
	for i, id := range found {
		all[i] = d.readBackend(id, &info[id])
		s := byID[info[id].Service]
		if all[i].draining {
			s.draining = append(s.draining, &all[i])
		} else {
			s.backends = append(s.backends, &all[i])
		}
	}
	for _, s := range live.list {
		s.sort()
	}
	return nil
}

// readBackend puts a backend's cold columns and live words together.
func (d *Datapath) readBackend(id uint32, columns *xdplbBackendColumns) backend {
	b := backend{
		Backend: fromColumns(columns), id: id, word: d.backends.get(id).NextHop, listed: columns.Listed != 0,
		draining: columns.Draining != 0, base: columns.Base,
	}
	b.Hop.MAC = b.word.Mac
	b.Hop.Local = b.word.Egress == uint16(xdplbEgressIndexEGRESS_LOCAL)
	if egress := uint32(b.word.Egress); egress != 0 && egress < d.egresses.count {
		way := d.egresses.get(egress)
		b.Hop.Ifindex, b.Hop.VLAN = int(way.Ifindex), way.Vlan
	}
	return b
}
