// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// MaxWeight is the largest weight; the smallest, 0, quiesces a backend (no new flows, the old ones go on).
const MaxWeight = 1<<31 - 1

// MaxThreshold is the largest connection threshold.
const MaxThreshold = 1<<31 - 1

// MaxVLAN is the largest id that an 802.1Q tag can name (4095 is reserved).
const MaxVLAN = 4094

// MaxPersistence is how long a client can be kept with its backend at most.
const MaxPersistence = 31 * 24 * time.Hour

// DefaultPersistence is what LVS gives a persistent service that does not say how long
// (IPVS_SVC_PERSISTENT_TIMEOUT in ipvsadm's libipvs).
const DefaultPersistence = 6 * time.Minute

// ServiceKey names a virtual service. One with several ports is named by one of them, the first that its maker said.
type ServiceKey struct {
	Addr     netip.AddrPort // the VIP (unicast, not loopback, not IPv6 link-local, unmapped, no zone) and port
	Protocol Protocol
}

// Service is a virtual service with its backends, sorted by address. Only a persistent one can have port 0, which is
// all ports.
type Service struct {
	ServiceKey
	Ports       Ports // all of them, if there are several
	Scheduler   Scheduler
	Flags       SchedulerFlags
	Persistence Persistence
	OnePacket   bool // UDP: every packet is scheduled by itself, and no flow is kept
	OnRemoval   Removal
	Backends    []Backend
}

// Persistence keeps all connections of a client with one backend. The zero value is none.
type Persistence struct {
	Timeout time.Duration // since the client's last connection, in whole seconds up to MaxPersistence; 0: none
	Prefix  uint8         // how many leading bits of its address make a client: 32 or 128 for each by itself
	// Clients do not stay with a backend of weight 0, but for the connections that they have (LVS has it as one switch for
	// all services, the sysctl expire_quiescent_template).
	ExpireQuiescent bool
}

// Backend is a real server of one service.
type Backend struct {
	Addr   netip.Addr // RIP, of the service's family
	Weight uint32     // 0..MaxWeight
	// At Upper connections the backend takes no new ones, until it has fewer than Lower, or, with Lower 0, fewer than
	// three quarters of Upper. Upper 0: no limit, and Lower is 0 too.
	Upper, Lower uint32
	Hop          NextHop
}

// NextHop is where a backend's frames are sent. The zero MAC means that it is not known (yet): such a backend gets no
// new flows, unless it is the director itself.
type NextHop struct {
	Local   bool // the director's own stack; the rest is zero
	MAC     [6]byte
	Ifindex int    // of an attached interface
	VLAN    uint16 // 0: the frame keeps its tags as they are; 1..MaxVLAN: its outer tag gets this id, or one is pushed
	Static  bool   // MAC and interface were given by the operator and are not resolved again
}

// String names the service as listings do: "TCP 172.10.0.9:80", "UDP [2001:db8::64]:53".
func (k ServiceKey) String() string {
	return strings.ToUpper(k.Protocol.String()) + " " + k.Addr.String()
}

// Compare orders services as ipvsadm lists them: IPv4 before IPv6, then by protocol number, address and port.
func (k ServiceKey) Compare(other ServiceKey) int {
	return cmp.Or(
		cmp.Compare(k.Addr.Addr().BitLen(), other.Addr.Addr().BitLen()),
		cmp.Compare(k.Protocol, other.Protocol),
		k.Addr.Addr().Compare(other.Addr.Addr()),
		cmp.Compare(k.Addr.Port(), other.Addr.Port()),
	)
}

func (k ServiceKey) validate() error {
	if err := validateVIP(k.Addr.Addr()); err != nil {
		return err
	}
	return k.Protocol.validate()
}

// MustBeLocal says whether a backend of the service can only be the director itself: one of the VIP, or of a loopback
// address. Whether another address is the director's, the host knows.
func (k ServiceKey) MustBeLocal(backend netip.Addr) bool {
	return backend.IsLoopback() || backend == k.Addr.Addr()
}

// Backend finds a backend by its address. The pointer is into the service and good until its backends change.
func (s *Service) Backend(addr netip.Addr) (*Backend, bool) {
	i, found := s.find(addr)
	if !found {
		return nil, false
	}
	return &s.Backends[i], true
}

// find returns where the backend is, or where it belongs.
func (s *Service) find(addr netip.Addr) (int, bool) {
	return slices.BinarySearchFunc(s.Backends, addr, func(b Backend, addr netip.Addr) int {
		return b.Addr.Compare(addr)
	})
}

// sortBackends puts the backends in the order that every Service of a State has.
func (s *Service) sortBackends() {
	slices.SortStableFunc(s.Backends, func(a, b Backend) int { return a.Addr.Compare(b.Addr) })
}

// validate checks the service and its backends, which must be sorted and different.
func (s *Service) validate() error {
	if err := s.ServiceKey.validate(); err != nil {
		return fmt.Errorf("service %s: %w", s.ServiceKey, err)
	}
	if err := s.validateOptions(); err != nil {
		return fmt.Errorf("service %s: %w", s.ServiceKey, err)
	}
	for i := range s.Backends {
		if err := s.validateBackend(&s.Backends[i]); err != nil {
			return err
		}
		if i == 0 {
			continue
		}
		switch order := s.Backends[i-1].Addr.Compare(s.Backends[i].Addr); {
		case order == 0:
			return backendError(s.ServiceKey, s.Backends[i].Addr, ErrExists)
		case order > 0:
			return invalidf("backend %s of %s is out of order", s.Backends[i].Addr, s.ServiceKey)
		}
	}
	return nil
}

// validateOptions checks what LVS's options set.
func (s *Service) validateOptions() error {
	if err := s.Scheduler.validate(); err != nil {
		return err
	}
	if err := s.Ports.validate(s.Addr.Port()); err != nil {
		return err
	}
	switch {
	case s.OnRemoval > Keep:
		return invalidf("%s is unknown: want reschedule or keep", s.OnRemoval)
	case s.Flags&^allFlags != 0:
		return invalidf("scheduler flags %#x: want at most %#x", uint8(s.Flags), uint8(allFlags))
	case s.OnePacket && s.Protocol != UDP:
		return invalidf("one-packet scheduling is for UDP only")
	case s.Persistence == Persistence{} && s.Addr.Port() == 0:
		return invalidf("port 0: want 1 to 65535 without persistence")
	}
	return s.Persistence.validate(s.Addr.Addr().BitLen())
}

// validate checks the persistence of a service whose addresses have so many bits.
func (p Persistence) validate(bits int) error {
	least := 0
	if bits == 128 {
		least = 1 // as LVS has it
	}
	switch prefix := int(p.Prefix); {
	case p == Persistence{}:
	case p.Timeout <= 0 || p.Timeout > MaxPersistence || p.Timeout%time.Second != 0:
		return invalidf("persistence for %s: want whole seconds, 1s to %s", p.Timeout, MaxPersistence)
	case prefix < least || prefix > bits:
		return invalidf("persistence of /%d: want /%d to /%d", prefix, least, bits)
	}
	return nil
}

// validateBackend checks one backend of the service by itself.
func (s *Service) validateBackend(b *Backend) error {
	if err := validateBackendAddr(b.Addr); err != nil {
		return fmt.Errorf("service %s: %w", s.ServiceKey, err)
	}
	vip := s.Addr.Addr()
	switch {
	case s.MustBeLocal(b.Addr) && b.Hop.Known() && !b.Hop.Local:
		return invalidf("backend %s of %s is the director itself: it has no MAC address", b.Addr, s.ServiceKey)
	case b.Addr.Is4() && !vip.Is4():
		return invalidf("backend %s is IPv4, the service %s is IPv6", b.Addr, s.ServiceKey)
	case !b.Addr.Is4() && vip.Is4():
		return invalidf("backend %s is IPv6, the service %s is IPv4", b.Addr, s.ServiceKey)
	case b.Weight > MaxWeight:
		return invalidf("backend %s of %s: weight %d: want 0 to %d", b.Addr, s.ServiceKey, b.Weight, MaxWeight)
	case b.Lower > 0 && b.Upper == 0:
		return invalidf("backend %s of %s: the lower threshold %d needs an upper one", b.Addr, s.ServiceKey, b.Lower)
	case b.Lower > b.Upper:
		return invalidf("backend %s of %s: the lower threshold %d is above the upper %d",
			b.Addr, s.ServiceKey, b.Lower, b.Upper)
	case b.Upper > MaxThreshold:
		return invalidf("backend %s of %s: threshold %d: want 0 to %d", b.Addr, s.ServiceKey, b.Upper, MaxThreshold)
	}
	if err := b.Hop.validate(); err != nil {
		return fmt.Errorf("backend %s of %s: %w", b.Addr, s.ServiceKey, err)
	}
	return nil
}

// Known says whether frames can be sent there: a backend with an unknown next hop gets no new flows.
func (h NextHop) Known() bool {
	return h.Local || h.MAC != [6]byte{}
}

// String describes the next hop in one line: "02:00:00:00:00:08 on interface 3, VLAN 100, static", "local", "unknown".
func (h NextHop) String() string {
	var b strings.Builder
	if h.Local {
		return "local"
	}
	if h.Known() {
		fmt.Fprintf(&b, "%02x:%02x:%02x:%02x:%02x:%02x", h.MAC[0], h.MAC[1], h.MAC[2], h.MAC[3], h.MAC[4], h.MAC[5])
	} else {
		b.WriteString("unknown")
	}
	if h.Ifindex != 0 {
		fmt.Fprintf(&b, " on interface %d", h.Ifindex)
	}
	if h.VLAN != 0 {
		fmt.Fprintf(&b, ", VLAN %d", h.VLAN)
	}
	if h.Static {
		b.WriteString(", static")
	}
	return b.String()
}

func (h NextHop) validate() error {
	switch {
	case h.Local && h != NextHop{Local: true}:
		return invalidf("a local backend has no MAC address, interface or VLAN")
	case h.MAC[0]&1 != 0:
		return invalidf("MAC %02x:%02x:%02x:%02x:%02x:%02x is a group address, not one host's",
			h.MAC[0], h.MAC[1], h.MAC[2], h.MAC[3], h.MAC[4], h.MAC[5])
	case h.VLAN > MaxVLAN:
		return invalidf("VLAN %d: want 0 to %d", h.VLAN, MaxVLAN)
	case h.Ifindex < 0:
		return invalidf("interface index %d is negative", h.Ifindex)
	}
	return nil
}
