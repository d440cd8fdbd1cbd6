// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"sync"

	"xdplb/internal/lb"
	"xdplb/internal/schedule"
)

// layout is what must be written to get from the live configuration to another.
type layout struct {
	epoch       uint64 // of the new one
	timeouts    xdplbTimeouts
	newTimes    bool       // they differ
	services    []placed   // that differ
	columns     []cold     // that differ
	directory   *directory // nil: the same services stand at the same places
	tables      []*table
	parts       []uint32 // of the lookup tables, that are not there yet
	newServices []uint32
	zeroed      []uint32 // ids of services that have counted nothing with backends that are gone
	newBackends []*backend
	counts      bool                   // flows of a service must be counted that were not
	egresses    map[uint16]xdplbEgress // to be written
	gained      []*backend             // next hops of existing backends that change, to a known address
	lost        []*backend             // and to none
}

// placed is the value at a place of the map services; zero: none.
type placed struct {
	place uint32
	value xdplbService
}

// cold is the columns of a backend id; zero: it has no backend.
type cold struct {
	id      uint32
	columns xdplbBackendColumns
}

// newSide says whether timeouts, services, lookup tables, cold columns or what was zeroed differ, for which a new epoch is
// needed.
func (l *layout) newSide() bool {
	return l.newTimes || l.directory != nil || len(l.services) > 0 || len(l.columns) > 0 || len(l.zeroed) > 0
}

func (l *layout) empty() bool {
	return !l.newSide() && len(l.gained) == 0 && len(l.lost) == 0
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
	space      *space // nil: nobody has wanted any yet
	available  func() (uint64, error)

	ports map[uint32]lb.Ports // of the services that will have several, by place
	moves bool                // services come, go, or have other ports

	backendIDs, serviceIDs, servicePlaces, egressIDs idle
}

// plan lays a state out, which replaces what was read of the live one. Errors: *CapacityError, or a next hop through an
// interface that is not attached.
func (d *Datapath) plan(live *configuration, to lb.State, interfaces map[int]facts) (*layout, error) {
	p, err := d.newPlanner(live, interfaces)
	if err != nil {
		return nil, err
	}
	if p.fits(to) != nil || p.returns(&to) {
		if err := p.reap(); err != nil {
			return nil, err
		}
	}
	if err := p.fits(to); err != nil {
		return nil, err
	}
	p.layout.timeouts = newTimeouts(to.Timeouts)
	p.layout.newTimes = p.layout.timeouts != live.timeouts
	p.removeServices(&to)
	p.findIDs()
	for i := range to.Services {
		if err := p.addService(&to.Services[i]); err != nil {
			return nil, err
		}
	}
	if p.moves {
		if err := p.addDirectory(); err != nil {
			return nil, err
		}
	}
	return p.finish(), nil
}

// newPlanner begins with the live configuration as it is.
func (d *Datapath) newPlanner(live *configuration, interfaces map[int]facts) (*planner, error) {
	now, err := ticks()
	if err != nil {
		return nil, err
	}
	return &planner{
		d: d, live: live, ports: maps.Clone(live.ports), shapes: make(shapes), interfaces: interfaces,
		ways: make(map[wayOut]uint16), now: now,
		available: sync.OnceValues(availableMemory),
		layout:    &layout{epoch: live.epoch, timeouts: live.timeouts, egresses: make(map[uint16]xdplbEgress)},
	}, nil
}

// finish gives the layout an epoch if it needs one, and looks after what time has made superfluous.
func (p *planner) finish() *layout {
	if p.layout.newSide() {
		p.layout.epoch++
		p.dropPrevious()
		p.prolongSettling()
	}
	return p.layout
}

// removeServices takes the services out that a state does not have.
func (p *planner) removeServices(to *lb.State) {
	for _, was := range p.live.list {
		if _, stays := to.Service(was.key()); stays {
			continue
		}
		p.moves = true
		delete(p.ports, was.place)
		p.layout.services = append(p.layout.services, placed{place: was.place})
		p.removeBackends(was, nil)
	}
}

// removeBackends takes those out that a service neither has nor lets drain any more; nil: all.
func (p *planner) removeBackends(was, now *service) {
	for _, b := range was.all() {
		if now == nil || !now.holds(b) {
			p.layout.columns = append(p.layout.columns, cold{id: b.id})
		}
	}
}

// nextValues is what the map services will hold, by place.
func (p *planner) nextValues() []xdplbService {
	values := slices.Clone(p.live.values)
	for _, s := range p.layout.services {
		values[s.place] = s.value
	}
	return values
}

// addDirectory finds places for the services, with the live side's multiplier if that will do.
func (p *planner) addDirectory() error {
	values := p.nextValues()
	keys := make([]uint64, len(values))
	for place := range values {
		if _, several := p.ports[uint32(place)]; values[place].Id != 0 && !several {
			keys[place] = values[place].word()
		}
	}
	if err := checkPorts(values, p.ports); err != nil {
		return err
	}
	multiplier := p.d.config.load(configMultiplier + int(side(p.live.epoch)))
	directory, err := newDirectory(keys, multiplier, p.d.meta.ServiceBucketsPerSide)
	if err != nil {
		return err
	}
	p.layout.directory = &directory
	return directory.addRanges(values, p.ports, len(p.d.portRanges.values)/sides)
}

// checkPorts refuses services that have a port in common, also with those that a change does not look at.
func checkPorts(values []xdplbService, ports map[uint32]lb.Ports) error {
	if len(ports) == 0 {
		return nil
	}
	var services []lb.Service
	for place := range values {
		if values[place].Id != 0 {
			services = append(services, lb.Service{ServiceKey: values[place].key(), Ports: ports[uint32(place)]})
		}
	}
	slices.SortFunc(services, func(a, b lb.Service) int { return a.ServiceKey.Compare(b.ServiceKey) })
	return lb.CheckPorts(services)
}

// fits compares what will be there with the capacity. A backend that drains needs an id as any other; so any configuration
// can replace any other, since there are twice as many.
func (p *planner) fits(to lb.State) error {
	live := p.live
	services, backends, draining := len(to.Services), live.backends, len(live.draining)
	for _, s := range live.list {
		backends -= len(s.backends) + len(s.draining)
		draining -= len(s.draining)
	}
	for i := range to.Services {
		wanted := &to.Services[i]
		backends += len(wanted.Backends)
		if was := live.services[wanted.ServiceKey]; was != nil {
			more := len(was.drainingAfter(wanted))
			backends, draining = backends+more, draining+more
		}
	}
	for i := range live.values {
		if live.values[i].Id != 0 {
			services++
		}
	}
	services -= len(live.list)
	capacity := p.d.capacity()
	if have := int(capacity.Services); services > have {
		return &CapacityError{What: "services", Have: have, Want: services}
	}
	if have := int(capacity.Backends); backends > have {
		return &CapacityError{What: "backends", Have: have, Want: backends, Draining: draining}
	}
	return nil
}

// findIDs finds which ids are idle. What a killed writer left was cleaned up before, so that the live configuration
// says it all.
func (p *planner) findIDs() {
	services := make([]bool, p.d.maps.Cursors.MaxEntries())
	services[0] = true
	places := make([]bool, len(p.live.values))
	for place := range p.live.values {
		s := &p.live.values[place]
		services[s.Id] = true
		places[place] = s.Id != 0
	}
	for _, gone := range p.layout.services {
		places[gone.place] = false
	}
	p.servicePlaces = ascending(places)
	p.serviceIDs = ascending(services)
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
		return nil
	}
	now := &service{backends: make([]*backend, 0, len(wanted.Backends))}
	now.setKey(wanted.ServiceKey)
	now.Scheduler, now.Flags, now.Era = uint8(wanted.Scheduler), serviceFlags(wanted), uint32(p.live.epoch+1)
	now.setPersistence(wanted.Persistence)
	if was != nil && was.Scheduler == now.Scheduler {
		now.Era = was.Era
	}
	if isLimited(wanted) {
		now.Limited = 1
	}
	if was != nil && now.isCounted() && !was.isCounted() {
		p.layout.counts = true
	}
	if err := p.placeService(was, now); err != nil {
		return err
	}
	p.setPorts(was, now, wanted.Ports)
	all := make([]backend, len(wanted.Backends))
	for i, b := range wanted.Backends {
		all[i].Backend = b
		if err := p.addBackend(was, now.Id, &all[i]); err != nil {
			return fmt.Errorf("backend %s of %s: %w", b.Addr, wanted.ServiceKey, err)
		}
		now.backends = append(now.backends, &all[i])
	}
	if was != nil {
		p.drain(was, now, wanted)
	}
	now.sort()
	if now.hasPeers() {
		now.Flags |= havePeers
	}
	if err := p.addTable(was, now); err != nil {
		return fmt.Errorf("service %s: %w", wanted.ServiceKey, err)
	}
	now.Settled = 0
	if now.Scheduler == uint8(lb.MH) && now.Slots > 0 && !now.isPersistent() && now.Limited == 0 {
		now.Settled = 1
	}
	if was != nil {
		p.removeBackends(was, now)
	}
	if was == nil || was.xdplbService != now.xdplbService {
		p.layout.services = append(p.layout.services, placed{now.place, now.xdplbService})
	}
	return nil
}

// placeService gives a new service an id and a place; one that was there keeps them.
func (p *planner) placeService(was, now *service) (err error) {
	if was != nil {
		now.Id, now.place = was.Id, was.place
		return nil
	}
	if now.Id, err = p.serviceIDs.take("service"); err != nil {
		return err
	}
	p.layout.newServices = append(p.layout.newServices, now.Id)
	p.layout.zeroed = append(p.layout.zeroed, now.Id)
	now.place, err = p.servicePlaces.take("service place")
	return err
}

// setPorts notes the ports of a service that has several, and whether packets look others up as they did.
func (p *planner) setPorts(was, now *service, ports lb.Ports) {
	now.ports = ports
	p.moves = p.moves || was == nil || was.ports != ports || !slices.Equal(was.dataPorts(was.ports), now.dataPorts(ports))
	delete(p.ports, now.place)
	if ports != "" {
		p.ports[now.place] = ports
	}
}

// addTable keeps the table of a service for whose new flows nothing changes, and plans a new one for any other.
func (p *planner) addTable(was, now *service) error {
	list := candidates(now)
	same := was != nil && was.Scheduler == now.Scheduler && was.Flags == now.Flags && was.Limited == now.Limited &&
		was.isPersistent() == now.isPersistent() && was.maglevSlots() == now.maglevSlots()
	if same && slices.Equal(list, candidates(was)) && !forgets(was, now) {
		now.Table, now.Slots, now.FloodBits = was.Table, was.Slots, was.FloodBits
		now.Previous, now.Settles = was.Previous, was.Settles
		now.Members, now.MemberCount = was.Members, was.MemberCount
		return nil
	}
	if now.isCounted() {
		if err := p.addMembers(now, list); err != nil {
			return err
		}
	}
	switch scheduler := lb.Scheduler(now.Scheduler); {
	case scheduler == lb.MH && was != nil:
		return p.succeed(was, now, list)
	case len(list) == 0:
		return nil
	case scheduler == lb.MH:
		return p.addMaglev(now, list)
	case looksAtLoads(scheduler):
		return p.addMaglev(now, forFloods(list))
	default:
		return p.addShape(now, list)
	}
}

// addMaglev plans the table of a service that has Maglev's alone. Its shape takes longer than all the rest of the plan; it
// is made when the table is written.
func (p *planner) addMaglev(now *service, list []candidate) (err error) {
	if err := schedule.CheckCount(len(list)); err != nil {
		return err
	}
	now.Slots = now.maglevSlots()
	later := p.shapes.maglev(list, now.Slots)
	now.Table, err = p.newTable(now.Slots, lineSlots, func(slots []uint32) error {
		return fillLater(slots, list, later)
	})
	return err
}

// addShape plans the table of any other service. Behind slots that are gone through in turn follow those for floods.
func (p *planner) addShape(now *service, list []candidate) error {
	shape, err := p.shapes.shape(now, list)
	if err != nil || len(shape) == 0 {
		return err
	}
	now.Slots = uint32(len(shape))
	var later func() ([]int, error)
	if takesTurns(lb.Scheduler(now.Scheduler)) {
		now.FloodBits = uint8(bits.TrailingZeros32(now.maglevSlots()))
		later = p.shapes.maglev(forFloods(list), now.maglevSlots())
	}
	// short turns lie in one line; a flood finds its slot wherever that lies
	now.Table, err = p.newTable(now.tableSlots(), alignment(now.Slots), func(slots []uint32) error {
		fillSlots(slots, list, shape)
		if later == nil {
			return nil
		}
		return fillLater(slots[now.Slots:], list, later)
	})
	return err
}

// forFloods are those among whom a flood is spread: as many as the longest table has slots.
func forFloods(list []candidate) []candidate { return list[:min(len(list), schedule.MaxSlots)] }

func fillLater(slots []uint32, list []candidate, later func() ([]int, error)) error {
	shape, err := later()
	if err == nil {
		fillSlots(slots, list, shape)
	}
	return err
}

func fillSlots(slots []uint32, list []candidate, shape []int) {
	for i, index := range shape {
		slots[i] = list[index].id
	}
}

// addMembers plans the table of those who are chosen from by load (struct member).
func (p *planner) addMembers(now *service, list []candidate) error {
	members, err := p.shapes.members(now, list)
	if err != nil || len(members) == 0 {
		return err
	}
	now.MemberCount = uint32(len(members))
	now.Members, err = p.newTable(memberSlots(now.MemberCount), uint64(slotsEach), func(slots []uint32) error {
		clear(slots)
		for i, index := range members {
			slots[2*i], slots[2*i+1] = list[index].id, list[index].weight
		}
		return nil
	})
	return err
}

// newTable plans a lookup table, which fill writes when it is built.
func (p *planner) newTable(slots uint32, align uint64, fill func([]uint32) error) (at uint32, err error) {
	if p.space == nil {
		p.space = newSpace(tablesOf(p.live.values))
	}
	if at, err = p.space.take(slots, align); err != nil {
		return 0, err
	}
	p.layout.tables = append(p.layout.tables, &table{at, slots, fill})
	return at, p.addParts(at, slots)
}

// addParts plans the parts of a new table that are not there, if there is memory for them.
func (p *planner) addParts(at, slots uint32) error {
	first, last := partsOf(at, slots)
	for part := first; part <= last; part++ {
		if p.d.slots.has(part) || slices.Contains(p.layout.parts, part) {
			continue
		}
		p.layout.parts = append(p.layout.parts, part)
		want := uint64(len(p.layout.parts)) * partBytes
		available, err := p.available()
		if err != nil {
			return err
		}
		if want > available {
			return &TableMemoryError{Want: want, Available: available}
		}
	}
	return nil
}

// addBackend lays out a backend of the service with an id; was is that service, nil if it is new.
func (p *planner) addBackend(was *service, service uint32, now *backend) (err error) {
	now.listed = now.takesFlows()
	if was != nil {
		if b := cmp.Or(was.find(now.Addr), findBackend(was.draining, now.Addr)); b != nil {
			return p.keepBackend(b, service, now)
		}
	}
	if now.id, err = p.backendIDs.take("backend"); err != nil {
		return err
	}
	p.layout.newBackends = append(p.layout.newBackends, now)
	p.layout.columns = append(p.layout.columns, cold{now.id, now.columns(service)})
	return p.setHop(now)
}

func (p *planner) keepBackend(was *backend, service uint32, now *backend) error {
	now.id, now.word, now.base = was.id, was.word, was.base
	if columns := now.columns(service); columns != was.columns(service) {
		p.layout.columns = append(p.layout.columns, cold{now.id, columns})
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
	if b.Hop.Local {
		b.word.Egress = uint16(xdplbEgressIndexEGRESS_LOCAL)
		return nil
	}
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
