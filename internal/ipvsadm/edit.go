// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"fmt"

	"xdplb/internal/lb"
)

// Edit does a command that Changes to a state. Warnings are what the command asked for and direct routing cannot do,
// where ipvsadm says nothing. The error is a *Failure in ipvsadm's words, or in lb's where lb is stricter than LVS; the
// state is as it was then. Zero changes nothing in a state: counters are not part of it.
func (c Command) Edit(state *lb.State) (warnings []string, err error) {
	key := c.Service.ServiceKey
	_, found := state.Service(key)
	switch c.Verb {
	case VerbClear:
		state.Services = nil
	case VerbSetTimeouts:
		state.Timeouts = state.Timeouts.With(c.Timeouts)
	case VerbAddService, VerbEditService:
		return nil, c.editService(state, found)
	case VerbDeleteService, VerbZero:
		if c.Verb == VerbZero && (found || !c.Named) {
			return nil, nil
		}
		if !found {
			return nil, kernel("No such service")
		}
		return nil, state.DeleteService(key)
	case VerbAddServer, VerbEditServer, VerbDeleteServer:
		if !found {
			return nil, kernel("Service not defined")
		}
		return c.editServer(state)
	default:
		return nil, fail("%s: it changes nothing", verbs[c.Verb].name)
	}
	return nil, nil
}

// zeroes says whether the command zeroes the counters of a service.
func (c Command) zeroes(key lb.ServiceKey) bool {
	return c.Verb == VerbZero && (!c.Named || c.Service.ServiceKey == key)
}

// Zeroed lists the services of a state whose counters the command zeroes.
func (c Command) Zeroed(state lb.State) []lb.ServiceKey {
	return Rules{{command: c}}.Zeroed(state)
}

func (c Command) editService(state *lb.State, found bool) error {
	if c.OnRemoval != nil {
		c.Service.OnRemoval = *c.OnRemoval
	}
	switch {
	case c.Verb == VerbAddService && found:
		return kernel("Service already exists")
	case c.Verb == VerbEditService && !found:
		return kernel("No such service")
	case c.Service.Scheduler == 0:
		return kernel("Scheduler or persistence engine not found")
	case c.Verb == VerbAddService:
		return refusedByLB(state.AddService(c.Service))
	}
	return refusedByLB(state.SetService(c.Service.ServiceKey, func(s *lb.Service) error {
		before := *s
		*s = c.Service
		s.Backends = before.Backends
		if s.Ports == "" {
			s.Ports = before.Ports // which LVS has no words for
		}
		if c.OnRemoval == nil {
			s.OnRemoval = before.OnRemoval
		}
		return nil
	}))
}

// editServer does what is for a backend to a service that is there.
func (c Command) editServer(state *lb.State) (warnings []string, err error) {
	key, b := c.Service.ServiceKey, c.Backend
	service, _ := state.Service(key)
	_, found := service.Backend(b.Addr)
	port := key.Addr.Port()
	switch {
	case c.Verb == VerbDeleteServer && (!found || c.Port != port):
		return nil, kernel("No such destination")
	case c.Verb == VerbDeleteServer:
		return nil, state.DeleteBackend(key, b.Addr)
	case b.Lower > b.Upper:
		return nil, kernel("Numerical result out of range")
	case c.Verb == VerbAddServer && found:
		return nil, kernel("Destination already exists")
	case c.Verb == VerbEditServer && !found:
		return nil, kernel("No such destination")
	case c.Verb == VerbAddServer:
		err = state.AddBackend(key, b)
	default:
		err = state.SetBackend(key, b.Addr, func(now *lb.Backend) error {
			now.Weight, now.Upper, now.Lower = b.Weight, b.Upper, b.Lower
			return nil
		})
	}
	if err == nil && c.Port != 0 && c.Port != port {
		warnings = append(warnings, fmt.Sprintf(
			"real server %s: direct routing cannot change the port %d to %d: the real server must listen on %d",
			b.Addr, port, c.Port, port))
	}
	return warnings, refusedByLB(err)
}

// refusedByLB is for what lb does not allow, such as loopback addresses.
func refusedByLB(err error) error {
	if err == nil {
		return nil
	}
	return kernel(err.Error())
}
