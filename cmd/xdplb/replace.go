// SPDX-License-Identifier: Apache-2.0

package main

import (
	"xdplb/internal/lb"
)

// replace makes wanted the whole configuration, in one change: packets meet the old one or the new one. Backends that
// are there already keep their connections and their next hop, the others are asked for on the segment.
//
// A backend that does not answer is no reason to refuse: a host that boots must bring up the others. It is warned
// about, and installed without a MAC address, so that it gets no connections.
//
// forget says whether a next hop that was given by hand is forgotten when wanted does not give it.
func (env *environment) replace(wanted lb.State, forget bool, commit func(pinDir string, edit func(*lb.State) error) (lb.Plan, error)) (lb.Plan, error) {
	current, attached, err := env.snapshot()
	if err != nil {
		return lb.Plan{}, err
	}
	keepHops(wanted, current, forget)
	if err := env.findHops(wanted, attached); err != nil {
		return lb.Plan{}, err
	}
	defer env.slow("changing the tables; another xdplb may be at it")()
	return commit(env.pinDir, func(current *lb.State) error {
		keepHops(wanted, *current, forget) // what was found since, under the lock
		*current = wanted
		return nil
	})
}

// keepHops gives the backends of wanted the next hops that they have in current, unless wanted gives them one, or
// another interface. Unless what is there is to be forgotten, persistent services keep what LVS's words cannot say.
func keepHops(wanted, current lb.State, forget bool) {
	for i := range wanted.Services {
		service := &wanted.Services[i]
		before, ok := current.Service(service.ServiceKey)
		if !ok {
			continue
		}
		if p := &service.Persistence; p.Timeout != 0 && !forget {
			p.ExpireQuiescent = p.ExpireQuiescent || before.Persistence.ExpireQuiescent
		}
		for j := range service.Backends {
			hop := &service.Backends[j].Hop
			old, ok := before.Backend(service.Backends[j].Addr)
			if !ok || !old.Hop.Known() || hop.Static || forget && old.Hop.Static {
				continue
			}
			if hop.Ifindex == 0 || hop.Ifindex == old.Hop.Ifindex {
				*hop = old.Hop
			}
		}
	}
}

// findHops finds the next hops of the backends that have none, each address once, and warns about those that it does
// not find.
func (env *environment) findHops(wanted lb.State, attached interfaces) error {
	waiting := make(map[question][]*lb.Backend)
	var questions []question // the keys, in the order of the services
	for i := range wanted.Services {
		for j := range wanted.Services[i].Backends {
			backend := &wanted.Services[i].Backends[j]
			if !backend.Hop.Known() && wanted.Services[i].MustBeLocal(backend.Addr) {
				backend.Hop = lb.NextHop{Local: true}
			}
			if backend.Hop.Known() {
				continue
			}
			q := question{backend.Addr, backend.Hop.Ifindex}
			if waiting[q] == nil {
				questions = append(questions, q)
			}
			waiting[q] = append(waiting[q], backend)
		}
	}
	answers, err := env.findAll(questions, attached)
	if err != nil {
		return err
	}
	for i, q := range questions {
		if err := answers[i].takeLocal(); err != nil {
			env.warn("backend %s gets no connections until \"xdplb backend set %s\" finds it: %v", q.addr, q.addr, err)
		}
		for _, backend := range waiting[q] {
			backend.Hop = answers[i].hop
		}
	}
	return env.warnOfLocal(wanted)
}
