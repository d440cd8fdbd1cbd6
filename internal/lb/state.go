// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"net/netip"
	"slices"
)

// State is a whole configuration: the services, each once, sorted by ServiceKey.Compare, which is the order of
// ipvsadm's listings; their backends, each once, sorted by address. The methods keep it so.
//
// Copies of a State share their services; who wants to edit one and keep the other uses Clone.
type State struct {
	Services []Service
	Timeouts Timeouts
}

// NewState sorts and validates services given in any order; it takes them over. It is what a reader of a whole file
// wants: adding 10,000 services one by one, in random order, moves them about all the time. Errors are as those of
// Validate; a service or backend given twice is an ErrExists.
func NewState(services []Service) (State, error) {
	for i := range services {
		services[i].sortBackends()
	}
	slices.SortStableFunc(services, func(a, b Service) int { return a.ServiceKey.Compare(b.ServiceKey) })
	state := State{Services: services}
	if err := state.Validate(); err != nil {
		return State{}, err
	}
	return state, nil
}

// Clone copies the state deeply.
func (s State) Clone() State {
	total := 0
	for i := range s.Services {
		total += len(s.Services[i].Backends)
	}
	clone := s
	clone.Services = slices.Clone(s.Services)
	// One array for all backends; each service's part is capped, so that it moves out when it grows.
	backends := make([]Backend, 0, total)
	for i := range clone.Services {
		service := &clone.Services[i]
		if service.Backends == nil {
			continue
		}
		start := len(backends)
		backends = append(backends, service.Backends...)
		service.Backends = backends[start:len(backends):len(backends)]
	}
	return clone
}

// Validate checks everything that this package promises about a state. Errors are ErrInvalid, or ErrExists for
// duplicates.
func (s State) Validate() error {
	if err := s.Timeouts.validate(); err != nil {
		return err
	}
	for i := range s.Services {
		service := &s.Services[i]
		if err := service.validate(); err != nil {
			return err
		}
		if i == 0 {
			continue
		}
		switch order := s.Services[i-1].ServiceKey.Compare(service.ServiceKey); {
		case order == 0:
			return serviceError(service.ServiceKey, ErrExists)
		case order > 0:
			return invalidf("service %s is out of order", service.ServiceKey)
		}
	}
	return CheckPorts(s.Services)
}

// Service finds a service. The pointer is into the state and good until services are added or deleted.
func (s *State) Service(key ServiceKey) (*Service, bool) {
	i, found := s.find(key)
	if !found {
		return nil, false
	}
	return &s.Services[i], true
}

// AddService adds a service with its backends, given in any order. Errors: ErrExists, ErrInvalid.
func (s *State) AddService(service Service) error {
	i, found := s.find(service.ServiceKey)
	if found {
		return serviceError(service.ServiceKey, ErrExists)
	}
	service.Backends = slices.Clone(service.Backends)
	service.sortBackends()
	if err := service.validate(); err != nil {
		return err
	}
	if err := CheckPorts(append(s.withPortsOf(&service, i), service)); err != nil {
		return err
	}
	s.Services = slices.Insert(s.Services, i, service)
	return nil
}

// SetService changes a service by the function edit, which gets a copy of it and may change all but its key. Where
// edit or the validation of its result fails, the state stays as it was. Errors: ErrNotFound, ErrInvalid, ErrExists
// (a backend twice), and edit's own, unwrapped.
func (s *State) SetService(key ServiceKey, edit func(*Service) error) error {
	i, found := s.find(key)
	if !found {
		return serviceError(key, ErrNotFound)
	}
	service := s.Services[i]
	service.Backends = slices.Clone(service.Backends)
	if err := edit(&service); err != nil {
		return err
	}
	if service.ServiceKey != key {
		return invalidf("service %s cannot become %s: add that one and delete this", key, service.ServiceKey)
	}
	service.sortBackends()
	if err := service.validate(); err != nil {
		return err
	}
	before := s.Services[i]
	s.Services[i] = service
	if err := CheckPorts(s.withPortsOf(&service, i)); err != nil {
		s.Services[i] = before
		return err
	}
	return nil
}

// withPortsOf copies the services that have the address and protocol of another, which is to stand at place i.
func (s *State) withPortsOf(service *Service, i int) []Service {
	low, high := i, i
	for low > 0 && s.Services[low-1].sharesPorts(service) {
		low--
	}
	for high < len(s.Services) && s.Services[high].sharesPorts(service) {
		high++
	}
	return slices.Clone(s.Services[low:high])
}

// DeleteService deletes a service and its backends. Error: ErrNotFound.
func (s *State) DeleteService(key ServiceKey) error {
	i, found := s.find(key)
	if !found {
		return serviceError(key, ErrNotFound)
	}
	s.Services = slices.Delete(s.Services, i, i+1)
	return nil
}

// AddBackend adds a backend to a service. Errors: ErrNotFound (the service), ErrExists, ErrInvalid.
func (s *State) AddBackend(key ServiceKey, backend Backend) error {
	service, found := s.Service(key)
	if !found {
		return serviceError(key, ErrNotFound)
	}
	i, found := service.find(backend.Addr)
	if found {
		return backendError(key, backend.Addr, ErrExists)
	}
	if err := service.validateBackend(&backend); err != nil {
		return err
	}
	service.Backends = slices.Insert(service.Backends, i, backend)
	return nil
}

// SetBackend changes a backend by the function edit, which gets a copy of it and may change all but its address. Where
// edit or the validation of its result fails, the state stays as it was. Errors: ErrNotFound (the service or the
// backend), ErrInvalid, and edit's own, unwrapped.
func (s *State) SetBackend(key ServiceKey, addr netip.Addr, edit func(*Backend) error) error {
	service, found := s.Service(key)
	if !found {
		return serviceError(key, ErrNotFound)
	}
	current, found := service.Backend(addr)
	if !found {
		return backendError(key, addr, ErrNotFound)
	}
	backend := *current
	if err := edit(&backend); err != nil {
		return err
	}
	if backend.Addr != addr {
		return invalidf("backend %s of %s cannot become %s: add that one and delete this", addr, key, backend.Addr)
	}
	if err := service.validateBackend(&backend); err != nil {
		return err
	}
	*current = backend
	return nil
}

// DeleteBackend deletes a backend from a service. Error: ErrNotFound (the service or the backend).
func (s *State) DeleteBackend(key ServiceKey, addr netip.Addr) error {
	service, found := s.Service(key)
	if !found {
		return serviceError(key, ErrNotFound)
	}
	i, found := service.find(addr)
	if !found {
		return backendError(key, addr, ErrNotFound)
	}
	service.Backends = slices.Delete(service.Backends, i, i+1)
	return nil
}

// find returns where the service is, or where it belongs.
func (s *State) find(key ServiceKey) (int, bool) {
	return slices.BinarySearchFunc(s.Services, key, func(service Service, key ServiceKey) int {
		return service.ServiceKey.Compare(key)
	})
}

// serviceError says in one sentence that a service already exists or does not: why is one of those sentinels.
func serviceError(key ServiceKey, why error) error {
	return fmt.Errorf("service %s %w", key, why)
}

func backendError(key ServiceKey, addr netip.Addr, why error) error {
	return fmt.Errorf("backend %s of %s %w", addr, key, why)
}
