// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"

	"xdplb/internal/lb"
)

// File is what a file says, in its order. All values were checked as far as that is possible without looking at the
// host: services and backends alone make a valid lb.State, but no interface was looked up.
type File struct {
	Timeouts lb.Timeouts
	Services []Service
}

// Service is a virtual service of the file.
type Service struct {
	lb.ServiceKey
	Ports       lb.Ports
	Scheduler   lb.Scheduler
	Flags       lb.SchedulerFlags
	OnePacket   bool
	OnRemoval   lb.Removal
	Persistence lb.Persistence
	Backends    []Backend
}

// Backend is a real server of the file. What was not given is zero; the weight is 1 then.
type Backend struct {
	Addr   netip.Addr
	Weight uint32
	Upper  uint32 // thresholds of connections, as lb.Backend has them
	Lower  uint32
	MAC    [6]byte
	Dev    string // name of the interface
	VLAN   uint16 // only with a MAC

	position string // "file:line:column" of the address
}

// State makes the file a state. The function hop turns what the file says of a backend's next hop into one, with the
// host's interfaces in hand; it is called for every backend, and for one that says neither MAC nor Dev may return
// the zero NextHop. An error of hop comes back with the backend's position in the file.
func (f File) State(hop func(Backend) (lb.NextHop, error)) (lb.State, error) {
	services := make([]lb.Service, len(f.Services))
	for i, s := range f.Services {
		services[i] = lb.Service{
			ServiceKey: s.ServiceKey, Ports: s.Ports, Scheduler: s.Scheduler, Flags: s.Flags, OnePacket: s.OnePacket,
			OnRemoval: s.OnRemoval, Persistence: s.Persistence,
			Backends: make([]lb.Backend, len(s.Backends)),
		}
		for j, b := range s.Backends {
			next, err := hop(b)
			if err != nil {
				return lb.State{}, fmt.Errorf("%s: backend %s of %s: %w", b.position, b.Addr, s.ServiceKey, err)
			}
			services[i].Backends[j] = lb.Backend{Addr: b.Addr, Weight: b.Weight, Upper: b.Upper, Lower: b.Lower, Hop: next}
		}
	}
	state, err := lb.NewState(services)
	state.Timeouts = f.Timeouts
	return state, err
}
