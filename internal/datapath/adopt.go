// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"
	"sync/atomic"

	"xdplb/internal/lb"
)

// Connections of another load balancer are written into the flow table as the program would have recorded them, while
// packets go on. The program's lock of a bucket (HEAD_LOCKED in flow.h) is taken for that, always together with the
// exclusive lock on the pins, and it is announced: a word of config says which bucket. Who is killed meanwhile leaves a
// bucket in which no packet can record a flow, and the next who gets the exclusive lock opens it again (locked.go).

// Adoption counts what became of connections.
type Adoption struct {
	Adopted int
	Known   int // packets have opened them here already; where those went, they go on
	NoRoom  int // nothing in their buckets may make room
}

// TakeOver does a change as Change does, and with it adopts connections that another load balancer has opened: the
// packets of each go to its backend from the moment on in which packets meet the change. Where a client had opened the
// connection here before, nothing changes. The service and the backend of each connection must be there after the
// change; else nothing is changed, as for all errors of Change.
//
// A connection of an mh service is one whose packets look it up, until it ends.
func TakeOver(pinDir string, edit func(*lb.State) error, connections []Connection) (lb.Plan, Adoption, error) {
	return takeOver(pinDir, options{timeout: LockTimeout}, edit, connections)
}

func takeOver(pinDir string, options options, edit func(*lb.State) error, connections []Connection) (plan lb.Plan, done Adoption, err error) {
	d, err := open(pinDir, exclusive, options.timeout)
	if err != nil {
		return lb.Plan{}, Adoption{}, err
	}
	defer d.Close()
	live, interfaces, err := d.repair(options)
	if err != nil {
		return lb.Plan{}, Adoption{}, err
	}
	plan, layout, err := d.prepare(live, interfaces, edit)
	if err != nil {
		return plan, Adoption{}, err
	}
	if err := recognise(plan.To, connections); err != nil {
		return plan, Adoption{}, err
	}
	adopt := step{"adopting connections", func() (err error) {
		done, err = d.adopt(layout.epoch, connections, options.after)
		return err
	}}
	steps := []step{adopt}
	if !layout.empty() {
		steps = adoptBeforePublishing(layout.steps(d), adopt)
	}
	if err := run(steps, options.after); err != nil {
		return plan, done, fmt.Errorf("taking over: %w", err)
	}
	if err = d.cleanUp(layout.epoch, options.after); err == nil {
		err = d.countUncounted(layout.epoch)
	}
	return plan, done, err
}

// adoptBeforePublishing puts the adoption where backends have their ids and no packet can choose one of them yet.
func adoptBeforePublishing(steps []step, adopt step) []step {
	at := slices.IndexFunc(steps, func(s step) bool { return s.name == "publishing" })
	if at < 0 {
		at = len(steps)
	}
	return slices.Insert(steps, at, adopt)
}

// recognise refuses connections whose service or backend is not in a state.
func recognise(state lb.State, connections []Connection) error {
	for i := range connections {
		c := &connections[i]
		service, found := state.Service(c.Service)
		if !found {
			return fmt.Errorf("connection of %s: its service %s %w", c.Client, c.Service, lb.ErrNotFound)
		}
		if _, found := service.Backend(c.Backend); !found {
			return fmt.Errorf("connection of %s: backend %s of %s %w", c.Client, c.Backend, c.Service, lb.ErrNotFound)
		}
	}
	return nil
}

// stranger is a connection to be adopted.
type stranger struct {
	*Connection
	owner owner
}

// strangers finds the ids of their backends.
func (c *configuration) strangers(connections []Connection) []stranger {
	strangers := make([]stranger, len(connections))
	for i := range connections {
		service := c.services[connections[i].Service]
		strangers[i] = stranger{&connections[i], owner{service, service.find(connections[i].Backend)}}
	}
	return strangers
}

// adopt adopts connections of what is live, or about to be, with an epoch.
func (d *Datapath) adopt(epoch uint64, connections []Connection, after func(step string) error) (done Adoption, err error) {
	next, err := d.readEpoch(epoch, nil)
	if err != nil {
		return done, err
	}
	strangers := next.strangers(connections)
	if err := d.unsettle(strangers, next.timeouts.settling()); err != nil {
		return done, fmt.Errorf("unsettling the slots of mh services: %w", err)
	}
	table, err := d.openFlowsOf(epoch)
	if err != nil {
		return done, fmt.Errorf("opening the flow table: %w", err)
	}
	defer table.close()
	a := &adopter{d: d, table: table, templates: d.openTemplates(table), after: after}
	for i := range strangers {
		if err := a.adopt(&strangers[i], &done); err != nil {
			return done, fmt.Errorf("connection of %s to %s: %w", strangers[i].Client, strangers[i].Service, err)
		}
	}
	return done, nil
}

// unsettle makes the packets of those connections look for their flow that their mh service would have elsewhere.
func (d *Datapath) unsettle(strangers []stranger, settling uint32) error {
	now, err := ticks()
	if err != nil {
		return err
	}
	for _, s := range strangers {
		service := s.owner.service
		if service.Scheduler != uint8(lb.MH) || service.Slots == 0 || s.IsTemplate() {
			continue
		}
		slots, err := d.slots.slots(service.Table, service.Slots)
		if err != nil {
			return err
		}
		slot := &slots[uint64(service.hashClient(s.Client))*uint64(len(slots))>>32]
		if value := atomic.LoadUint32(slot); value&^unsettled != s.owner.backend.id {
			atomic.StoreUint32(slot, value|unsettled)
			d.settleFrom(service, max(now+settling, 1))
		}
	}
	return nil
}

// settleFrom lets Sweep look from a tick on whether the connections have ended. For user space alone, so that it may
// change in place; a service that is about to be live is on one side only.
func (d *Datapath) settleFrom(service *service, tick uint32) {
	for n := range uint32(sides) {
		if value := &d.services.side(n)[service.place]; value.Id == service.Id {
			atomic.StoreUint32(&value.Settles, tick)
		}
	}
}
