// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Verb is what a change does.
type Verb byte

// The verbs; as characters they begin a change's line in a printed plan.
const (
	Add    Verb = '+'
	Set    Verb = '~'
	Delete Verb = '-'
)

// Change is one step from a state to another: of a service's own columns, of one backend, or of the timeouts.
type Change struct {
	Verb    Verb
	Service ServiceKey // the zero key: the change is of the timeouts
	Backend netip.Addr // the zero Addr: the change is of the service itself
	Before  Columns    // zero for Add
	After   Columns    // zero for Delete
}

// Columns is what a change can change: the timeouts, or those from Ports to OnRemoval of a service, or the rest of a
// backend. The others are zero.
type Columns struct {
	Timeouts     Timeouts
	Ports        Ports
	Scheduler    Scheduler
	Flags        SchedulerFlags
	Persistence  Persistence
	OnePacket    bool
	OnRemoval    Removal
	Weight       uint32
	Upper, Lower uint32
	Hop          NextHop
}

// Plan is the way from one state to another. The changes can be read, and applied, from top to bottom: timeouts, services in
// their order, a service before the backends that it gets, and after the backends that go with it.
type Plan struct {
	From, To State
	Changes  []Change
}

// Empty says whether there is nothing to do.
func (p Plan) Empty() bool {
	return len(p.Changes) == 0
}

// Diff finds the changes that lead from one state to another; both must be valid. The plan refers to the two states, it
// does not copy them.
func Diff(from, to State) Plan {
	plan := Plan{From: from, To: to}
	more := to.size() - from.size()
	plan.Changes = make([]Change, 0, max(more, -more)) // so many at least
	if from.Timeouts.OrDefault() != to.Timeouts.OrDefault() {
		before, after := Columns{Timeouts: from.Timeouts}, Columns{Timeouts: to.Timeouts}
		plan.Changes = append(plan.Changes, Change{Verb: Set, Before: before, After: after})
	}
	a, b := from.Services, to.Services
	for len(a) > 0 || len(b) > 0 {
		order := 0
		switch {
		case len(a) == 0:
			order = 1
		case len(b) == 0:
			order = -1
		default:
			order = a[0].ServiceKey.Compare(b[0].ServiceKey)
		}
		switch {
		case order < 0:
			plan.deleteService(&a[0])
			a = a[1:]
		case order > 0:
			plan.addService(&b[0])
			b = b[1:]
		default:
			plan.changeService(&a[0], &b[0])
			a, b = a[1:], b[1:]
		}
	}
	return plan
}

// size is how many services and backends there are.
func (s State) size() int {
	total := len(s.Services)
	for i := range s.Services {
		total += len(s.Services[i].Backends)
	}
	return total
}

func (p *Plan) addService(s *Service) {
	p.Changes = append(p.Changes, Change{Verb: Add, Service: s.ServiceKey, After: s.columns()})
	for i := range s.Backends {
		p.addBackend(s.ServiceKey, &s.Backends[i])
	}
}

func (p *Plan) deleteService(s *Service) {
	for i := range s.Backends {
		p.deleteBackend(s.ServiceKey, &s.Backends[i])
	}
	p.Changes = append(p.Changes, Change{Verb: Delete, Service: s.ServiceKey, Before: s.columns()})
}

// changeService compares two services of the same key.
func (p *Plan) changeService(from, to *Service) {
	if before, after := from.columns(), to.columns(); before != after {
		p.Changes = append(p.Changes, Change{Verb: Set, Service: to.ServiceKey, Before: before, After: after})
	}
	a, b := from.Backends, to.Backends
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Addr.Less(b[0].Addr):
			p.deleteBackend(to.ServiceKey, &a[0])
			a = a[1:]
		case len(a) == 0 || b[0].Addr.Less(a[0].Addr):
			p.addBackend(to.ServiceKey, &b[0])
			b = b[1:]
		default:
			p.changeBackend(to.ServiceKey, &a[0], &b[0])
			a, b = a[1:], b[1:]
		}
	}
}

func (p *Plan) addBackend(key ServiceKey, b *Backend) {
	p.Changes = append(p.Changes, Change{Verb: Add, Service: key, Backend: b.Addr, After: b.columns()})
}

func (p *Plan) deleteBackend(key ServiceKey, b *Backend) {
	p.Changes = append(p.Changes, Change{Verb: Delete, Service: key, Backend: b.Addr, Before: b.columns()})
}

// changeBackend compares two backends of the same address.
func (p *Plan) changeBackend(key ServiceKey, from, to *Backend) {
	before, after := from.columns(), to.columns()
	if before != after {
		p.Changes = append(p.Changes, Change{Verb: Set, Service: key, Backend: to.Addr, Before: before, After: after})
	}
}

func (s *Service) columns() Columns {
	return Columns{
		Ports: s.Ports, Scheduler: s.Scheduler, Flags: s.Flags, Persistence: s.Persistence, OnePacket: s.OnePacket,
		OnRemoval: s.OnRemoval,
	}
}

func (b *Backend) columns() Columns {
	return Columns{Weight: b.Weight, Upper: b.Upper, Lower: b.Lower, Hop: b.Hop}
}

// String is the change in one line: "+ service TCP 172.10.0.9:80 rr", "- backend 192.168.60.8 of TCP 172.10.0.9:80",
// "~ backend 192.168.60.8 of TCP 172.10.0.9:80 weight 1 -> 2", "~ timeouts 900 120 300 -> 600 120 300".
func (c Change) String() string {
	if c.Service == (ServiceKey{}) {
		return fmt.Sprintf("%c timeouts %s -> %s", c.Verb, c.Before.Timeouts, c.After.Timeouts)
	}
	if !c.Backend.IsValid() {
		return fmt.Sprintf("%c service %s%s", c.Verb, c.Service, c.serviceDetail())
	}
	return fmt.Sprintf("%c backend %s of %s%s", c.Verb, c.Backend, c.Service, c.backendDetail())
}

func (c Change) serviceDetail() string {
	switch c.Verb {
	case Add:
		parts := append([]string{c.After.Scheduler.String()}, c.After.options()...)
		return " " + strings.Join(parts, ", ")
	case Set:
		var parts []string
		if c.Before.Scheduler != c.After.Scheduler {
			parts = append(parts, fmt.Sprintf("scheduler %s -> %s", c.Before.Scheduler, c.After.Scheduler))
		}
		before, after := c.Before.options(), c.After.options()
		if !slices.Equal(before, after) {
			parts = append(parts, fmt.Sprintf("options %s -> %s", list(before), list(after)))
		}
		return " " + strings.Join(parts, ", ")
	}
	return ""
}

// options are what a service has beside its scheduler.
func (c Columns) options() (words []string) {
	if c.Ports != "" {
		words = append(words, "ports "+string(c.Ports))
	}
	if c.Flags != 0 {
		words = append(words, c.Scheduler.FlagNames(c.Flags))
	}
	if c.Persistence != (Persistence{}) {
		words = append(words, fmt.Sprintf("persistent for %s by /%d", c.Persistence.Timeout, c.Persistence.Prefix))
		if c.Persistence.ExpireQuiescent {
			words = append(words, "expire-quiescent")
		}
	}
	if c.OnePacket {
		words = append(words, "one-packet")
	}
	if c.OnRemoval != Reschedule {
		words = append(words, "on-removal "+c.OnRemoval.String())
	}
	return words
}

func list(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

func (c Change) backendDetail() string {
	switch c.Verb {
	case Add:
		detail := fmt.Sprintf(" weight %d", c.After.Weight)
		if c.After.Upper > 0 {
			detail += ", thresholds " + c.After.thresholds()
		}
		return detail
	case Set:
		var parts []string
		if c.Before.Weight != c.After.Weight {
			parts = append(parts, fmt.Sprintf("weight %d -> %d", c.Before.Weight, c.After.Weight))
		}
		if before, after := c.Before.thresholds(), c.After.thresholds(); before != after {
			parts = append(parts, fmt.Sprintf("thresholds %s -> %s", before, after))
		}
		if c.Before.Hop != c.After.Hop {
			parts = append(parts, fmt.Sprintf("next hop %s -> %s", c.Before.Hop, c.After.Hop))
		}
		return " " + strings.Join(parts, ", ")
	}
	return ""
}

// thresholds are the upper and the lower one: "100/50".
func (c Columns) thresholds() string {
	return fmt.Sprintf("%d/%d", c.Upper, c.Lower)
}
