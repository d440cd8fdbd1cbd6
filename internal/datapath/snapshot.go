// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"xdplb/internal/lb"
)

// configuration is one side of the maps with the ids that lb.State does not know.
type configuration struct {
	epoch    uint64
	services map[lb.ServiceKey]*service
	list     []*service // the same, as they stand in the map
}

func (c *configuration) add(key lb.ServiceKey, s *service) {
	c.services[key] = s
	c.list = append(c.list, s)
}

// service is a service of a configuration.
type service struct {
	xdplbService
	backends []*backend // sorted by address
}

func (s *service) find(addr netip.Addr) *backend {
	i, found := slices.BinarySearchFunc(s.backends, addr, func(b *backend, addr netip.Addr) int { return b.Addr.Compare(addr) })
	if !found {
		return nil
	}
	return s.backends[i]
}

// is says whether the service is as wanted, to the last backend, and so are the tables.
func (s *service) is(wanted *lb.Service) bool {
	if s.Scheduler != uint32(wanted.Scheduler) || s.Flags != uint8(wanted.Flags) || len(s.backends) != len(wanted.Backends) {
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
	if !slices.IsSortedFunc(s.backends, byAddress) {
		slices.SortFunc(s.backends, byAddress)
	}
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

// takesFlows says whether new flows may go to the backend.
func (b *backend) takesFlows() bool { return b.Weight > 0 && b.Hop.Known() }

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
	services := make([]lb.Service, 0, len(c.list))
	total := 0
	for _, s := range c.list {
		total += len(s.backends)
	}
	all := make([]lb.Backend, 0, total)
	for _, s := range c.list {
		service := lb.Service{
			ServiceKey: s.key(), Scheduler: lb.Scheduler(s.Scheduler), Flags: lb.SchedulerFlags(s.Flags),
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
	state := lb.State{Services: services}
	if err := state.Validate(); err != nil {
		return lb.State{}, fmt.Errorf("the pinned maps hold what no xdplb writes: %w", err)
	}
	return state, nil
}

// side says which of two sides an epoch's configuration is on.
func side(epoch uint64) uint32 { return uint32(epoch & 1) }

// readLive reads the side that packets see.
func (d *Datapath) readLive() (*configuration, error) {
	live := &configuration{epoch: d.config.load(configEpoch), services: make(map[lb.ServiceKey]*service)}
	byID := make([]*service, ids(d.meta.Services))
	for _, value := range d.services.side(side(live.epoch)) {
		if value.Id == 0 {
			continue
		}
		if value.Id >= uint32(len(byID)) {
			return nil, fmt.Errorf("reading the services: id %d is out of place", value.Id)
		}
		s := &service{xdplbService: value}
		byID[value.Id] = s
		live.add(value.key(), s)
	}
	if err := d.readBackends(live, byID); err != nil {
		return nil, fmt.Errorf("reading the backends: %w", err)
	}
	return live, nil
}

func (d *Datapath) readBackends(live *configuration, byID []*service) error {
	info := d.info.side(side(live.epoch))
	counts, total := make([]int, len(byID)), 0
	for id := range info {
		if info[id].Family == 0 {
			continue
		}
		if at := info[id].Service; at >= uint32(len(byID)) || byID[at] == nil {
			return fmt.Errorf("backend id %d of service id %d is out of place", id, at)
		}
		counts[info[id].Service]++
		total++
	}
	for id, s := range byID {
		if s != nil {
			s.backends = make([]*backend, 0, counts[id])
		}
	}
	all := make([]backend, 0, total)
	for id := range info {
		if info[id].Family == 0 {
			continue
		}
		all = append(all, d.readBackend(uint32(id), &info[id]))
		s := byID[info[id].Service]
		s.backends = append(s.backends, &all[len(all)-1])
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
	}
	b.Hop.MAC = b.word.Mac
	if egress := uint32(b.word.Egress); egress != 0 && egress < d.egresses.count {
		way := d.egresses.get(egress)
		b.Hop.Ifindex, b.Hop.VLAN = int(way.Ifindex), way.Vlan
	}
	return b
}

// openInner opens the lookup table at an index. Error: fs.ErrNotExist, if there is none.
func (d *Datapath) openInner(index uint32) (*ebpf.Map, error) {
	id := d.tableIDs.load(int(index))
	if id == 0 {
		return nil, fs.ErrNotExist
	}
	return ebpf.NewMapFromID(ebpf.MapID(id))
}

// innerID is the kernel's id of a lookup table.
func innerID(inner *ebpf.Map) (ebpf.MapID, error) {
	info, err := inner.Info()
	if err != nil {
		return 0, fmt.Errorf("asking for the id of a lookup table: %w", err)
	}
	id, _ := info.ID()
	return id, nil
}
