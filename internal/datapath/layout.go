// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"fmt"
	"slices"

	"xdplb/internal/lb"
)

// layout is a new configuration with ids, and what must be written to get there from the live one.
type layout struct {
	next        *configuration
	directory   directory
	newSide     bool // services, lookup tables or cold columns differ: a new epoch is needed
	tables      []*table
	newServices []uint32
	newBackends []*backend
	counts      bool                   // flows of a service must be counted that were not
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
	now        uint32 // tick

	backendIDs, serviceIDs, tableIDs, egressIDs idle
}

// plan lays a state out. Errors: *CapacityError, or a next hop through an interface that is not attached.
func (d *Datapath) plan(live *configuration, to lb.State, interfaces map[int]facts) (*layout, error) {
	if err := d.fits(to); err != nil {
		return nil, err
	}
	now, err := ticks()
	if err != nil {
		return nil, err
	}
	p := &planner{
		d: d, live: live, shapes: make(shapes), interfaces: interfaces, ways: make(map[wayOut]uint16), now: now,
		layout: &layout{
			next:     &configuration{epoch: live.epoch, services: make(map[lb.ServiceKey]*service, len(to.Services))},
			egresses: make(map[uint16]xdplbEgress),
		},
	}
	p.findIDs()
	for i := range to.Services {
		if err := p.addService(&to.Services[i]); err != nil {
			return nil, err
		}
	}
	for key := range live.services {
		if p.layout.next.services[key] == nil {
			p.layout.newSide = true
		}
	}
	if p.layout.newSide {
		p.layout.next.epoch++
		p.dropPrevious()
		err = p.addDirectory()
	}
	return p.layout, err
}

// addDirectory finds places for the services, with the live side's multiplier if that will do.
func (p *planner) addDirectory() (err error) {
	keys := make([]uint64, len(p.layout.next.list))
	for i, s := range p.layout.next.list {
		keys[i] = s.word()
	}
	multiplier := p.d.config.load(configMultiplier + int(side(p.live.epoch)))
	p.layout.directory, err = newDirectory(keys, multiplier, p.d.meta.ServiceBucketsPerSide)
	return err
}

// fits compares a state with the capacity.
func (d *Datapath) fits(to lb.State) error {
	capacity := d.capacity()
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
	services := make([]bool, p.d.maps.Cursors.MaxEntries())
	tables := make([]bool, p.d.maps.Tables.MaxEntries())
	services[0], tables[noTable] = true, true
	for _, s := range p.live.list {
		services[s.Id], tables[s.Table], tables[s.Previous], tables[s.Members] = true, true, true, true
	}
	p.serviceIDs = ascending(services)
	p.tableIDs = ascending(tables)
	p.backendIDs = idle{find: p.idleBackends}
	p.egressIDs = idle{find: func() (list []uint32) {
		for id := uint32(1); id < p.d.egresses.count; id++ {
			if p.d.egresses.get(id).Ifindex == 0 {
				list = append(list, id)
			}
		}
		return list
	}}
	for id := uint32(1); id < p.d.egresses.count; id++ {
		if way := p.d.egresses.get(id); way.Ifindex != 0 {
			p.ways[wayOut{int(way.Ifindex), way.Vlan}] = uint16(id)
		}
	}
}

// idleBackends puts those first that were used least: a flow knows only eight bits of the generation, and an id must not
// come by 256 backends while a flow of the first may still be there.
func (p *planner) idleBackends() (list []uint32) {
	generations := make([]uint32, p.d.backends.count)
	list = make([]uint32, 0, p.d.backends.count)
	for id := range p.d.backends.count {
		b := p.d.backends.get(id)
		generations[id] = b.Generation
		if id > 0 && b.InUse == 0 {
			list = append(list, id)
		}
	}
	byGeneration := func(a, b uint32) int { return cmp.Compare(generations[a], generations[b]) }
	if !slices.IsSortedFunc(list, byGeneration) {
		slices.SortStableFunc(list, byGeneration)
	}
	return list
}

// idle gives away ids that are not in use. They are looked for when the first one is wanted.
type idle struct {
	find func() []uint32
	list []uint32
	next int
}

// ascending gives away the ids that are not used, from the lowest.
func ascending(used []bool) idle {
	return idle{find: func() (list []uint32) {
		for id, used := range used {
			if !used {
				list = append(list, uint32(id))
			}
		}
		return list
	}}
}

func (i *idle) take(what string) (uint32, error) {
	if i.list == nil {
		i.list = i.find()
	}
	if i.next == len(i.list) {
		return 0, fmt.Errorf("no %s id is left: all but %d are in use", what, i.next)
	}
	i.next++
	return i.list[i.next-1], nil
}

func (p *planner) addService(wanted *lb.Service) (err error) {
	was := p.live.services[wanted.ServiceKey]
	if was != nil && was.is(wanted) {
		same := *was
		p.layout.next.add(wanted.ServiceKey, &same)
		return nil
	}
	now := &service{backends: make([]*backend, 0, len(wanted.Backends))}
	now.setKey(wanted.ServiceKey)
	now.Scheduler, now.Flags, now.Era = uint32(wanted.Scheduler), uint8(wanted.Flags), uint32(p.live.epoch+1)
	if was != nil && was.Scheduler == now.Scheduler {
		now.Era = was.Era
	}
	if was != nil && looksAtLoads(wanted.Scheduler) && !looksAtLoads(lb.Scheduler(was.Scheduler)) {
		p.layout.counts = true
	}
	p.layout.next.add(wanted.ServiceKey, now)
	if was != nil {
		now.Id = was.Id
	} else {
		if now.Id, err = p.serviceIDs.take("service"); err != nil {
			return err
		}
		p.layout.newServices = append(p.layout.newServices, now.Id)
	}
	all := make([]backend, len(wanted.Backends))
	for i, b := range wanted.Backends {
		all[i].Backend = b
		if err := p.addBackend(was, &all[i]); err != nil {
			return fmt.Errorf("backend %s of %s: %w", b.Addr, wanted.ServiceKey, err)
		}
		now.backends = append(now.backends, &all[i])
	}
	now.sort()
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
	list := candidates(now)
	same := was != nil && was.Scheduler == now.Scheduler && was.Flags == now.Flags
	if same && slices.Equal(list, candidates(was)) && !forgets(was, now) {
		now.Table, now.Slots, now.Previous, now.Settles = was.Table, was.Slots, was.Previous, was.Settles
		now.Members, now.MemberCount = was.Members, was.MemberCount
		return nil
	}
	if now.Scheduler == uint32(lb.MH) && was != nil {
		return p.succeed(was, now, list)
	}
	if len(list) == 0 {
		return nil
	}
	shape, err := p.shapes.shape(now, list)
	if err != nil || len(shape) == 0 {
		return err
	}
	now.Slots = uint32(len(shape))
	now.Table, err = p.newTable(len(shape), func(slots []uint32) error {
		for i, index := range shape {
			slots[i] = list[index].id
		}
		return nil
	})
	if err != nil || !looksAtLoads(lb.Scheduler(now.Scheduler)) {
		return err
	}
	return p.addMembers(now, list, members(lb.Scheduler(now.Scheduler), list, shape))
}

// addMembers plans the table of those who are chosen from by load (struct member).
func (p *planner) addMembers(now *service, list []candidate, members []int) (err error) {
	now.MemberCount = uint32(len(members))
	now.Members, err = p.newTable(2*len(members), func(slots []uint32) error {
		for i, index := range members {
			slots[2*i], slots[2*i+1] = list[index].id, list[index].weight
		}
		return nil
	})
	return err
}

// newTable plans a lookup table, which fill writes when it is built.
func (p *planner) newTable(slots int, fill func([]uint32) error) (id uint32, err error) {
	if id, err = p.tableIDs.take("table"); err == nil {
		p.layout.tables = append(p.layout.tables, &table{id, slots, fill})
	}
	return id, err
}

func (p *planner) addBackend(service *service, now *backend) (err error) {
	now.listed = now.takesFlows()
	if service != nil {
		if was := service.find(now.Addr); was != nil {
			return p.keepBackend(was, now)
		}
	}
	if now.id, err = p.backendIDs.take("backend"); err != nil {
		return err
	}
	p.layout.newBackends = append(p.layout.newBackends, now)
	p.layout.newSide = true
	return p.setHop(now)
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
