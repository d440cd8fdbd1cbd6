// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"errors"
	"fmt"
)

// ErrUnsupported is in the chain of every error about something that a state can say and the data plane cannot do yet.
var ErrUnsupported = errors.New("xdplb's data plane does not have it yet")

// Supported refuses the states that are valid but that the data plane cannot carry. It is the one place that knows: a
// feature is taken out here when the data plane gets it. The error is an ErrUnsupported and names the service and the
// feature.
func Supported(s State) error {
	for i := range s.Services {
		service := &s.Services[i]
		if what := service.unsupported(); what != "" {
			return fmt.Errorf("service %s: %s: %w", service.ServiceKey, what, ErrUnsupported)
		}
	}
	return nil
}

// unsupported names what the data plane cannot do for a service, or is "".
func (s *Service) unsupported() string {
	switch {
	case s.OnePacket && s.Persistence != Persistence{}:
		return "one-packet scheduling of a persistent service"
	}
	return ""
}
