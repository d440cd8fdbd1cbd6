// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Ports are the ports of a service that has several, as a list in ascending order with neither overlaps nor neighbours:
// "443,8000-8099". The zero value stands for the one port that is part of the service's name.
type Ports string

// PortRange is the ports from First to Last, both included.
type PortRange struct {
	First, Last uint16
}

func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Of is the address with the first port.
func (r PortRange) Of(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, r.First) }

// ParsePorts reads a list of ports and ranges such as "8000-8099,443", in any order. The error is an ErrInvalid and names
// the offending word.
func ParsePorts(list string) ([]PortRange, error) {
	var ranges []PortRange
	for word := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(word, "-")
		if !isRange {
			last = first
		}
		var r PortRange
		var err error
		if r.First, err = ParsePort(first); err != nil {
			return nil, err
		}
		if r.Last, err = ParsePort(last); err != nil {
			return nil, err
		}
		if r.First > r.Last {
			return nil, valuef("ports", "%q: the first is above the last", word)
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// NewPorts are the ports of a service whose name has the port own, and of some ranges, which may overlap.
func NewPorts(own uint16, ranges ...PortRange) Ports {
	ranges = append(slices.Clone(ranges), PortRange{own, own})
	slices.SortFunc(ranges, func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	merged := ranges[:1]
	for _, r := range ranges[1:] {
		if last := &merged[len(merged)-1]; int(r.First) <= int(last.Last)+1 {
			last.Last = max(last.Last, r.Last)
		} else {
			merged = append(merged, r)
		}
	}
	if len(merged) == 1 && merged[0] == (PortRange{own, own}) {
		return ""
	}
	words := make([]string, len(merged))
	for i, r := range merged {
		words[i] = r.String()
	}
	return Ports(strings.Join(words, ","))
}

// Ranges takes the list apart.
func (p Ports) Ranges() []PortRange {
	if p == "" {
		return nil
	}
	ranges, err := ParsePorts(string(p))
	if err != nil {
		return nil // not made by NewPorts: validate refuses it
	}
	return ranges
}

// validate checks the ports of a service whose name has the port own.
func (p Ports) validate(own uint16) error {
	if p == "" {
		return nil
	}
	ranges, err := ParsePorts(string(p))
	if err != nil {
		return err
	}
	if NewPorts(own, ranges...) != p || own == 0 {
		return invalidf("ports %s: want a list in order, with the service's port %d", p, own)
	}
	return nil
}

// allRanges are the service's ports: the list, or the one port. Port 0, which is what no other service has, is none.
func (s *Service) allRanges() []PortRange {
	switch port := s.Addr.Port(); {
	case s.Ports != "":
		return s.Ports.Ranges()
	case port == 0:
		return nil
	default:
		return []PortRange{{port, port}}
	}
}

// sharesPorts says whether the services have one address and protocol.
func (s *Service) sharesPorts(other *Service) bool {
	return s.Protocol == other.Protocol && s.Addr.Addr() == other.Addr.Addr()
}

// CheckPorts refuses services of one address and protocol that have a port in common. Those of one address and protocol
// must stand together, as those of a State do. The error is an ErrExists and names both.
func CheckPorts(services []Service) error {
	for len(services) > 0 {
		several := services[0].Ports != ""
		n := 1
		for ; n < len(services) && services[0].sharesPorts(&services[n]); n++ {
			several = several || services[n].Ports != ""
		}
		if several && n > 1 {
			if err := checkPorts(services[:n]); err != nil {
				return err
			}
		}
		services = services[n:]
	}
	return nil
}

// checkPorts is CheckPorts for services that all have the same address and protocol.
func checkPorts(services []Service) error {
	type owned struct {
		PortRange
		by *Service
	}
	var all []owned
	for i := range services {
		for _, r := range services[i].allRanges() {
			all = append(all, owned{r, &services[i]})
		}
	}
	slices.SortStableFunc(all, func(a, b owned) int { return cmp.Compare(a.First, b.First) })
	for i := 1; i < len(all); i++ {
		if before, this := &all[i-1], &all[i]; this.First <= before.Last {
			first, second := before.by, this.by
			if first.Addr.Port() > second.Addr.Port() {
				first, second = second, first
			}
			return fmt.Errorf("service %s: port %d %w in %s", second.ServiceKey, this.First, ErrExists, first.ServiceKey)
		}
	}
	return nil
}

// Ports of FTP: of a session's commands, and of the server's end of a data connection where the server opens that. Where
// the client does, the server's end is any of those that need no privilege.
const (
	ftpPort               = 21
	ftpDataPort           = 20
	firstUnprivilegedPort = 1024
)

// DataPorts are ports that the service gets beside its own where no other service has them (but for one of port 0): as in
// LVS, a persistent TCP service of port 21 is taken for FTP, whose client opens data connections to where its session is.
func (s *Service) DataPorts() []PortRange {
	if s.Addr.Port() != ftpPort || s.Protocol != TCP || s.Ports != "" || s.Persistence == (Persistence{}) {
		return nil
	}
	return []PortRange{{ftpDataPort, ftpDataPort}, {firstUnprivilegedPort, 1<<16 - 1}}
}

// ServiceOf finds the service to which packets to an address and port go: one that has the port, else the one that gets it
// with FTP's data, else the one of port 0. A persistence template's port 0 is also that of FTP. The pointer is as Service's.
func (s *State) ServiceOf(at ServiceKey) (*Service, bool) {
	if service, found := s.Service(at); found {
		return service, true
	}
	var second *Service
	port := at.Addr.Port()
	first, _ := s.find(ServiceKey{netip.AddrPortFrom(at.Addr.Addr(), 0), at.Protocol})
	for i := first; i < len(s.Services) && s.Services[i].sharesPorts(&Service{ServiceKey: at}); i++ {
		switch service := &s.Services[i]; {
		case contain(service.Ports.Ranges(), port):
			return service, true
		case service.Addr.Port() == 0, contain(service.DataPorts(), port), port == 0 && service.DataPorts() != nil:
			second = service // that of port 0 stands before the others
		}
	}
	return second, second != nil
}

func contain(ranges []PortRange, port uint16) bool {
	return slices.ContainsFunc(ranges, func(r PortRange) bool { return r.First <= port && port <= r.Last })
}

// TemplatePort is the port that LVS shows with a persistence template of the service: 0 if it is for any port.
func (s *Service) TemplatePort() uint16 {
	if s.DataPorts() != nil {
		return 0
	}
	return s.Addr.Port()
}
