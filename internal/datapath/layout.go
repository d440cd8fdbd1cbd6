// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"

	"xdplb/internal/lb"
)

// layout is a new configuration with ids, and what must be written to get there from the live one.
type layout struct {
	next        *configuration
	newSide     bool // services, lookup tables or cold columns differ: a new epoch is needed
	tables      []*table
	newServices []uint32
	newBackends []*backend
	egresses    map[uint16]xdplbEgress // to be written
	gained      []*backend             // next hops of existing backends that change, to a known address
	lost        []*backend             // and to none
}

func (l *layout) empty() bool {
	return !l.newSide && len(l.gained) == 0 && len(l.lost) == 0
}

// wayOut names an egress.
type wayOut struct {
	ifindex int
	vlan    uint16
}

// planner makes a layout. It only reads the maps.
type planner struct {
	d          *Datapath
	live       *configuration
	layout     *layout
	shapes     shapes
	interfaces map[int]facts
	ways       map[wayOut]uint16

	backendIDs, serviceIDs, tableIDs, egressIDs idle
}

// plan lays a state out. Errors: *CapacityError, or a next hop through an interface that is not attached.
func (d *Datapath) plan(live *configuration, to lb.State, interfaces map[int]facts) (*layout, error) {
	if err := d.fits(to); err != nil {
		return nil, err
	}
	p := &planner{
		d: d, live: live, shapes: make(shapes), interfaces: interfaces, ways: make(map[wayOut]uint16),
		layout: &layout{
			next:     &configuration{epoch: live.epoch, services: make(map[lb.ServiceKey]*service)},
			egresses: make(map[uint16]xdplbEgress),
		},
	}
	p.findIDs()
	for i := range to.Services {
		if err := p.addService(&to.Services[i]); err != nil {
			return nil, err
		}
	}
	if len(live.services) != len(p.layout.next.services) {
		p.layout.newSide = true
	}
	for key := range live.services {
		if p.layout.next.services[key] == nil {
			p.layout.newSide = true
		}
	}
	if p.layout.newSide {
		p.layout.next.epoch++
	}
	return p.layout, nil
}

// fits compares a state with the capacity.
func (d *Datapath) fits(to lb.State) error {
	capacity := capacityOf(&d.maps)
	total := 0
	for i := range to.Services {
		total += len(to.Services[i].Backends)
	}
	if have := int(capacity.Services); len(to.Services) > have {
		return &CapacityError{What: "services", Have: have, Want: len(to.Services)}
	}
	if have := int(capacity.Backends); total > have {
		return &CapacityError{What: "backends", Have: have, Want: total}
	}
	return nil
}

// findIDs finds which ids are idle. What a killed writer left was cleaned up before, so that the live configuration
// says it all.
func (p *planner) findIDs() {
	services, tables := make(map[uint32]bool), make(map[uint32]bool)
	for _, s := range p.live.services {
		services[s.Id] = true
		if s.Slots > 0 {
			tables[s.Table] = true
		}
	}
	p.serviceIDs = idle{0, p.d.maps.Cursors.MaxEntries(), func(id uint32) bool { return services[id] }}
	p.tableIDs = idle{0, p.d.maps.Tables.MaxEntries(), func(id uint32) bool { return tables[id] }}
	p.backendIDs = idle{1, p.d.backends.count, func(id uint32) bool { return p.d.backends.get(id).InUse != 0 }}
	p.egressIDs = idle{1, p.d.egresses.count, func(id uint32) bool { return p.d.egresses.get(id).Ifindex != 0 }}
	for id := uint32(1); id < p.d.egresses.count; id++ {
		if way := p.d.egresses.get(id); way.Ifindex != 0 {
			p.ways[wayOut{int(way.Ifindex), way.Vlan}] = uint16(id)
		}
	}
}

// idle gives away ids that are not in use, from next to end.
type idle struct {
	next, end uint32
	used      func(uint32) bool
}

func (i *idle) take(what string) (uint32, error) {
	for i.next < i.end {
		id := i.next
		i.next++
		if !i.used(id) {
			return id, nil
		}
	}
	return 0, fmt.Errorf("no %s id is left of %d", what, i.end)
}

func (p *planner) addService(wanted *lb.Service) (err error) {
	was := p.live.services[wanted.ServiceKey]
	now := &service{backends: make(map[netip.Addr]*backend, len(wanted.Backends))}
	now.Scheduler = uint32(wanted.Scheduler)
	p.layout.next.services[wanted.ServiceKey] = now
	if was != nil {
		now.Id = was.Id
	} else {
		if now.Id, err = p.serviceIDs.take("service"); err != nil {
			return err
		}
		p.layout.newServices = append(p.layout.newServices, now.Id)
	}
	for _, b := range wanted.Backends {
		if now.backends[b.Addr], err = p.addBackend(was, b); err != nil {
			return fmt.Errorf("backend %s of %s: %w", b.Addr, wanted.ServiceKey, err)
		}
	}
	if err := p.addTable(was, now); err != nil {
		return fmt.Errorf("service %s: %w", wanted.ServiceKey, err)
	}
	if was == nil || was.xdplbService != now.xdplbService || len(was.backends) != len(now.backends) {
		p.layout.newSide = true
	}
	return nil
}

// addTable keeps the table of a service for whose new flows nothing changes, and plans a new one for any other.
func (p *planner) addTable(was, now *service) error {
	list := candidates(lb.Scheduler(now.Scheduler), now.backends)
	if len(list) == 0 {
		return nil
	}
	if was != nil && was.Slots > 0 && was.Scheduler == now.Scheduler &&
		slices.Equal(list, candidates(lb.Scheduler(was.Scheduler), was.backends)) {
		now.Table, now.Slots = was.Table, was.Slots
		return nil
	}
	shape, err := p.shapes.shape(lb.Scheduler(now.Scheduler), list)
	if err != nil {
		return err
	}
	id, err := p.tableIDs.take("table")
	if err != nil {
		return err
	}
	now.Table, now.Slots = id, uint32(len(shape))
	p.layout.tables = append(p.layout.tables, &table{id, list, shape})
	return nil
}

func (p *planner) addBackend(service *service, wanted lb.Backend) (*backend, error) {
	now := &backend{Backend: wanted, listed: wanted.Weight > 0 && wanted.Hop.Known()}
	if service != nil && service.backends[wanted.Addr] != nil {
		return now, p.keepBackend(service.backends[wanted.Addr], now)
	}
	var err error
	if now.id, err = p.backendIDs.take("backend"); err != nil {
		return nil, err
	}
	p.layout.newBackends = append(p.layout.newBackends, now)
	p.layout.newSide = true
	return now, p.setHop(now)
}

func (p *planner) keepBackend(was, now *backend) error {
	now.id, now.word = was.id, was.word
	if was.Weight != now.Weight || was.Hop.Static != now.Hop.Static {
		p.layout.newSide = true
	}
	if was.Hop == now.Hop {
		return nil
	}
	if err := p.setHop(now); err != nil {
		return err
	}
	switch {
	case now.word == was.word: // only whether it is static
	case now.Hop.Known():
		p.layout.gained = append(p.layout.gained, now)
	default:
		p.layout.lost = append(p.layout.lost, now)
	}
	return nil
}

// setHop computes a backend's next hop word, and takes an egress for it.
func (p *planner) setHop(b *backend) (err error) {
	b.word = xdplbNextHop{Mac: b.Hop.MAC}
	if b.Hop.Ifindex == 0 {
		if b.Hop.Known() || b.Hop.VLAN != 0 {
			return fmt.Errorf("next hop %s has no interface", b.Hop)
		}
		return nil
	}
	way := wayOut{b.Hop.Ifindex, b.Hop.VLAN}
	facts, attached := p.interfaces[way.ifindex]
	if !attached {
		return fmt.Errorf("interface %d is not attached", way.ifindex)
	}
	index, known := p.ways[way]
	if !known {
		id, err := p.egressIDs.take("egress")
		if err != nil {
			return err
		}
		index = uint16(id)
		p.ways[way] = index
		p.layout.egresses[index] = facts.egress(way.vlan)
	}
	b.word.Egress = index
	return nil
}
