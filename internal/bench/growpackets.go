// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"net/netip"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

// growFlows is how many flows are established at each point of the curves over services and backends.
const growFlows = 1 << 12

// clientsPerPoint keeps the clients of the points apart: as many addresses, each of which has 16 flows.
const clientsPerPoint = 1 << 18

// Services of the curves: one for each scheduler, or from port 1 on as many as there are.
var (
	growVIPs = map[lb.Scheduler]netip.Addr{
		lb.RR: netip.MustParseAddr("198.51.100.1"),
		lb.MH: netip.MustParseAddr("198.51.100.2"),
	}
	firstBackend = netip.MustParseAddr("10.64.0.1")
)

func growService(scheduler lb.Scheduler, port int) lb.ServiceKey {
	return lb.ServiceKey{Addr: netip.AddrPortFrom(growVIPs[scheduler], uint16(port)), Protocol: lb.TCP}
}

// series is a line of a curve to be measured: one case for each of its xs.
type series struct {
	name  string
	xs    []int
	cases []*Case
}

func (s *series) add(x int, c *Case) {
	c.Name, c.What = fmt.Sprintf("%s, %d", s.name, x), s.name
	s.xs, s.cases = append(s.xs, x), append(s.cases, c)
}

// measureSeries measures all points of all series beside the baselines, and makes lines of their ratios to the floor.
// driver is the cost to be subtracted, where it is not that of the baselines' own driver.
func measureSeries(plan Plan, base *Baselines, driver *Case, all ...*series) ([]Line, error) {
	cases := []*Case{base.Empty, base.Floor, driver}
	for _, s := range all {
		cases = append(cases, s.cases...)
	}
	samples, err := Measure(cases, plan)
	if err != nil {
		return nil, err
	}
	rows := NewReport(Machine{}, plan, samples).Rows[3:]
	var lines []Line
	for _, s := range all {
		line := Line{Name: s.name}
		for i, x := range s.xs {
			line.Points = append(line.Points, Point{X: float64(x), Y: rows[i].Floors, Nanoseconds: &rows[i].Estimate})
		}
		rows = rows[len(s.xs):]
		lines = append(lines, line)
	}
	return lines, nil
}

// packetsCurve is a curve of what a packet costs.
func packetsCurve(name, title, x string, lines []Line) Curve {
	return Curve{Name: name, Title: title, X: x, Y: "cost of a packet, x floor", Lines: lines}
}

// overFlows measures hits while there are ever more flows to hit, in random order, in one full table.
func overFlows(plan GrowPlan, base *Baselines) (curve Curve, err error) {
	most := plan.Flows
	director, err := NewDirector(PinDir, most)
	if err != nil {
		return Curve{}, err
	}
	defer func() { err = errors.Join(err, director.Close()) }()
	idle, err := KeepAttached(append(base.Programs(), director.Programs()...)...)
	if err != nil {
		return Curve{}, err
	}
	defer func() { err = errors.Join(err, idle.Close()) }()
	plan.say("flows: establishing %d of two services each", most)
	if err := director.Fill(); err != nil {
		return Curve{}, err
	}
	rr, mh := &series{name: "rr, established"}, &series{name: "mh, established"}
	for flows := uint32(1); flows <= most; flows *= 4 {
		rr.add(int(flows), director.hit("", "", serviceRR, flows))
		mh.add(int(flows), director.hit("", "", serviceMH, flows))
	}
	plan.say("flows: measuring 1 to %d", most)
	lines, err := measureSeries(plan.Plan, base, base.Driver, rr, mh)
	if err != nil {
		return Curve{}, err
	}
	return packetsCurve("flows", "Packets of established flows, as flows grow", "flows, hit at random", lines),
		director.Verify()
}

// overServices measures packets that are spread over ever more services of 10 backends each.
func overServices(plan GrowPlan, base *Baselines) (Curve, error) {
	most := plan.Services
	points := upTo(most, 1, 3, 10, 30, 100, 300, 1000, 3000, 8000)
	services := func(up uplink) []lb.Service {
		var services []lb.Service
		backends := up.backends(firstBackend, backendsEach)
		for _, scheduler := range []lb.Scheduler{lb.RR, lb.MH} {
			for port := 1; port <= most; port++ {
				services = append(services, lb.Service{
					ServiceKey: growService(scheduler, port), Scheduler: scheduler, Backends: backends,
				})
			}
		}
		return services
	}
	capacity := datapath.Capacity{
		Flows: plan.Room, Services: uint32(2 * most), Backends: uint32(2 * most * backendsEach),
	}
	driver := *base.Driver
	driver.Tuple = spreadOver(driver.Tuple, 1)
	curve := packetsCurve("services", fmt.Sprintf("Packets of %d flows, as services grow", growFlows),
		fmt.Sprintf("services of %d backends, hit at random", backendsEach), nil)
	lines, err := overPoints(plan, base, &driver, curve.Name, points, capacity, services,
		func(x int, scheduler lb.Scheduler, tuple Tuple) (lb.ServiceKey, Tuple) {
			return growService(scheduler, 1), spreadOver(tuple, uint32(x))
		})
	curve.Lines = lines
	return curve, err
}

// spreadOver spreads the tuple's flows over services.
func spreadOver(tuple Tuple, services uint32) Tuple {
	tuple.Services, tuple.Service = services, tuple4.Port+2
	return tuple
}

// overBackends measures packets to services of ever more backends.
func overBackends(plan GrowPlan, base *Baselines) (Curve, error) {
	points := upTo(plan.Backends, 2, 10, 30, 100, 300, 1000, 3000)
	services := func(up uplink) []lb.Service {
		var services []lb.Service
		for _, scheduler := range []lb.Scheduler{lb.RR, lb.MH} {
			for _, backends := range points {
				services = append(services, lb.Service{
					ServiceKey: growService(scheduler, backends), Scheduler: scheduler,
					Backends: up.backends(firstBackend, backends),
				})
			}
		}
		return services
	}
	var sum int
	for _, backends := range points {
		sum += 2 * backends
	}
	capacity := datapath.Capacity{
		Flows: plan.Room, Services: uint32(2 * len(points)), Backends: uint32(sum),
	}
	curve := packetsCurve("backends", fmt.Sprintf("Packets of %d flows of one service, as its backends grow", growFlows),
		"backends of the service", nil)
	lines, err := overPoints(plan, base, base.Driver, curve.Name, points, capacity, services,
		func(x int, scheduler lb.Scheduler, tuple Tuple) (lb.ServiceKey, Tuple) {
			return growService(scheduler, x), tuple
		})
	curve.Lines = lines
	return curve, err
}

// overPoints measures at each point packets of established flows, with either scheduler, and of new ones. aim says to
// which service a point's packets go, and what becomes of their tuple.
func overPoints(
	plan GrowPlan, base *Baselines, driver *Case, name string, points []int, capacity datapath.Capacity,
	services func(uplink) []lb.Service, aim func(int, lb.Scheduler, Tuple) (lb.ServiceKey, Tuple),
) (lines []Line, err error) {
	plan.say("%s: applying", name)
	d, err := newDirector(PinDir, growFlows, capacity, services)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	idle, err := KeepAttached(append(base.Programs(), d.Programs()...)...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, idle.Close()) }()

	plan.say("%s: measuring %d to %d", name, points[0], points[len(points)-1])
	var established, fresh []*series
	for _, scheduler := range []lb.Scheduler{lb.RR, lb.MH} {
		hits := &series{name: scheduler.String() + ", established"}
		syns := &series{name: scheduler.String() + ", new flows"}
		for i, x := range points {
			key, tuple := aim(x, scheduler, tuple4.of(clients4, growFlows))
			tuple.Base += uint32(i) * clientsPerPoint
			hits.add(x, d.growHit(key, tuple))
			tuple = tuple.fresh()
			tuple.Base += uint32(len(points)) * clientsPerPoint
			syn := d.newCase("", "", TX, d.tcp4(key, 0, tcpSYN), tuple)
			syn.Before = d.forgetSYNs
			syns.add(x, syn)
		}
		established, fresh = append(established, hits), append(fresh, syns)
	}
	lines, err = measureSeries(plan.Plan, base, driver, append(established, fresh...)...)
	if err != nil {
		return nil, err
	}
	return lines, d.verifySum(fresh)
}

// growHit is a case of established flows, which it establishes itself.
func (d *Director) growHit(key lb.ServiceKey, tuple Tuple) *Case {
	c := d.newCase("", "", TX, d.tcp4(key, 0, tcpACK), tuple)
	c.Warm = int(2 * tuple.Flows)
	c.Prepare = func() error {
		return d.establish(key, tuple, d.tcp4(key, 0, tcpSYN), d.tcp4(key, 0, tcpACK))
	}
	return c
}

// verifySum is [Director.Verify] for flows that are spread over services: all of them together have counted exactly
// the connections that were opened.
func (d *Director) verifySum(fresh []*series) error {
	var opened uint64
	for _, flows := range d.established {
		opened += uint64(flows)
	}
	for _, s := range fresh {
		for _, c := range s.cases {
			opened += c.sequence
		}
	}
	return d.verifyConnections(opened)
}

// verifyConnections checks how many connections all services have counted.
func (d *Director) verifyConnections(opened uint64) error {
	view, err := datapath.Open(d.pinDir)
	if err != nil {
		return err
	}
	defer view.Close()
	services, err := view.Counters()
	if err != nil {
		return err
	}
	var counted uint64
	for _, service := range services {
		counted += service.Connections
	}
	if counted != opened {
		return fmt.Errorf("all services counted %d connections, of %d that were opened", counted, opened)
	}
	return nil
}
