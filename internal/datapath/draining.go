// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"slices"

	"xdplb/internal/lb"
)

// Where a service keeps the connections of removed backends, such a backend drains: its row among the cold columns stays,
// marked, and with it its id, its generation and its next hop, so that packets go on following its flows. It is in no lookup
// table but among the previous backends of an mh service, and no persistence template leads to it. Whether it drains is a
// part of the configuration like its weight: it begins and ends with an epoch, and there is nothing that a killed writer
// could leave half done.
//
// When its last flow has expired it may be reaped: the row goes, and the backend is retired as any other that was removed. To
// see that, one has to walk through all flows. [Reap] does, and a change that needs the room or adds the backend again; others
// do not wait for it. Until then a backend holds an id, no more. Its counters are its service's all the while.

// keepRemoved is the flag of a service that keeps the connections of removed backends.
const keepRemoved = uint8(xdplbSchedulerFlagFLAG_KEEP_REMOVED)

func (s *xdplbService) keepsRemoved() bool { return s.Flags&keepRemoved != 0 }

// all are the service's backends, and those that drain.
func (s *service) all() []*backend {
	if len(s.draining) == 0 {
		return s.backends
	}
	return slices.Concat(s.backends, s.draining)
}

// holds says whether the service has a backend that is, or drains, at the address of another.
func (s *service) holds(b *backend) bool {
	return findBackend(s.backends, b.Addr) != nil || findBackend(s.draining, b.Addr) != nil
}

// drainingAfter lists those of a service's backends that drain when it becomes what is wanted.
func (s *service) drainingAfter(wanted *lb.Service) (list []*backend) {
	if wanted.OnRemoval != lb.Keep {
		return nil
	}
	for _, b := range s.all() {
		if _, stays := wanted.Backend(b.Addr); !stays {
			list = append(list, b)
		}
	}
	return list
}

// drain lets backends go on that a service does not have any more, if it keeps their connections.
func (p *planner) drain(was, now *service, wanted *lb.Service) {
	for _, b := range was.drainingAfter(wanted) {
		if !b.draining {
			removed := *b
			b = &removed
			b.draining, b.listed = true, false
			p.layout.columns = append(p.layout.columns, cold{b.id, b.columns(now.Id)})
		}
		now.draining = append(now.draining, b)
	}
}

// reap takes the removed backends out whose connections have ended.
func (p *planner) reap() error {
	ids, err := p.d.drained(p.live, p.now)
	if err != nil || len(ids) == 0 {
		return err
	}
	for _, id := range ids {
		p.layout.columns = append(p.layout.columns, cold{id: id})
	}
	isDrained := func(id uint32) bool {
		_, found := slices.BinarySearch(ids, id)
		return found
	}
	for _, s := range p.live.list {
		s.draining = slices.DeleteFunc(s.draining, func(b *backend) bool { return isDrained(b.id) })
	}
	p.live.draining = slices.DeleteFunc(p.live.draining, isDrained)
	p.live.backends -= len(ids)
	return nil
}

// drained lists the draining backends that have no connection, in ascending order. While an mh service settles, those of its
// previous backends may have some that are in no table.
func (d *Datapath) drained(live *configuration, now uint32) ([]uint32, error) {
	if len(live.draining) == 0 {
		return nil, nil
	}
	flows, err := d.countFlows()
	if err != nil {
		return nil, err
	}
	settling := make([]bool, ids(d.meta.Services))
	for i := range live.values {
		s := &live.values[i]
		settling[s.Id] = s.Previous != noTable && s.isSettling(now)
	}
	info := d.info.side(side(live.epoch))
	hasFlows := func(id uint32) bool { return flows[id] != (flowCount{}) || settling[info[id].Service] }
	return slices.DeleteFunc(slices.Clone(live.draining), hasFlows), nil
}

// countDraining counts the removed backends that have connections.
func (d *Datapath) countDraining(live *configuration) (int, error) {
	now, err := ticks()
	if err != nil {
		return 0, err
	}
	drained, err := d.drained(live, now)
	return len(live.draining) - len(drained), err
}

// returns says whether a backend is added again that drains.
func (p *planner) returns(to *lb.State) bool {
	return slices.ContainsFunc(p.live.list, func(s *service) bool {
		wanted, stays := to.Service(s.key())
		return stays && slices.ContainsFunc(s.draining, func(b *backend) bool {
			_, returns := wanted.Backend(b.Addr)
			return returns
		})
	})
}

// Reap takes the removed backends out whose connections have ended. Only where some drain it waits for the exclusive lock.
// Errors are those of Change.
func Reap(pinDir string) error {
	d, err := Open(pinDir)
	if err != nil {
		return err
	}
	live, err := d.readLive(nil)
	if err := errors.Join(err, d.Close()); err != nil || len(live.draining) == 0 {
		return err
	}
	return reapDraining(pinDir, options{timeout: LockTimeout})
}

func reapDraining(pinDir string, options options) error {
	d, err := open(pinDir, exclusive, options.timeout)
	if err != nil {
		return err
	}
	defer d.Close()
	live, interfaces, err := d.repair(options)
	if err != nil {
		return err
	}
	p, err := d.newPlanner(live, interfaces)
	if err != nil {
		return err
	}
	if err := p.reap(); err != nil {
		return err
	}
	layout := p.finish()
	if layout.empty() {
		return nil
	}
	if err := d.apply(layout, options.after); err != nil {
		return fmt.Errorf("taking removed backends out: %w", err)
	}
	return nil
}
