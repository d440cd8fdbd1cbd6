// SPDX-License-Identifier: Apache-2.0

package lb_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"xdplb/internal/lb"
)

// byValue lets cmp compare netip's types with ==.
var byValue = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}

func key(t testing.TB, word string) lb.ServiceKey {
	t.Helper()
	k, err := lb.ParseServiceKey(word, "tcp")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func addr(word string) netip.Addr { return netip.MustParseAddr(word) }

// reference is the reference cluster: one service, two backends.
func reference(t testing.TB) lb.State {
	t.Helper()
	state, err := lb.NewState([]lb.Service{{
		ServiceKey: key(t, "172.10.0.9:80"),
		Scheduler:  lb.RR,
		Backends:   []lb.Backend{{Addr: addr("192.168.60.9"), Weight: 1}, {Addr: addr("192.168.60.8"), Weight: 1}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func TestStateIsSortedAsIpvsadmLists(t *testing.T) {
	t.Parallel()
	want := []string{
		"TCP 9.0.0.1:443", "TCP 172.10.0.9:80", "TCP 172.10.0.9:443", "TCP 172.10.0.10:80", "UDP 1.0.0.1:53",
		"TCP [2001:db8::64]:80", "UDP [2001:db8::1]:53",
	}
	services := make([]lb.Service, 0, len(want))
	for _, name := range want {
		var protocol, word string
		if _, err := fmt.Sscan(name, &protocol, &word); err != nil {
			t.Fatal(err)
		}
		k, err := lb.ParseServiceKey(word, protocol)
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, lb.Service{ServiceKey: k, Scheduler: lb.WRR})
	}
	rand.Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })

	var added lb.State
	for _, s := range services {
		if err := added.AddService(s); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, names(added)); diff != "" {
		t.Errorf("AddService (-want +got):\n%s", diff)
	}
	made, err := lb.NewState(services)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(added, made, byValue); diff != "" {
		t.Errorf("NewState differs from AddService (-want +got):\n%s", diff)
	}
}

func names(s lb.State) []string {
	var list []string
	for _, service := range s.Services {
		list = append(list, service.String())
	}
	return list
}

func TestStateEdits(t *testing.T) {
	t.Parallel()
	s := reference(t)
	k := s.Services[0].ServiceKey
	steps := []error{
		s.AddBackend(k, lb.Backend{Addr: addr("192.168.60.10"), Weight: 5}),
		s.AddBackend(k, lb.Backend{Addr: addr("192.168.60.1"), Weight: 0}),
		s.SetBackend(k, addr("192.168.60.9"), func(b *lb.Backend) error { b.Weight = 7; return nil }),
		s.DeleteBackend(k, addr("192.168.60.8")),
		s.SetService(k, func(s *lb.Service) error { s.Scheduler = lb.MH; return nil }),
		s.AddService(lb.Service{ServiceKey: key(t, "172.10.0.8:80"), Scheduler: lb.SH}),
		s.AddService(lb.Service{ServiceKey: key(t, "172.10.0.7:80"), Scheduler: lb.SH}),
		s.DeleteService(key(t, "172.10.0.8:80")),
		s.Validate(),
	}
	for i, err := range steps {
		if err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	want := lb.State{Services: []lb.Service{
		{ServiceKey: key(t, "172.10.0.7:80"), Scheduler: lb.SH},
		{ServiceKey: k, Scheduler: lb.MH, Backends: []lb.Backend{
			{Addr: addr("192.168.60.1")},
			{Addr: addr("192.168.60.9"), Weight: 7},
			{Addr: addr("192.168.60.10"), Weight: 5},
		}},
	}}
	if diff := cmp.Diff(want, s, byValue); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStateRefusals(t *testing.T) {
	t.Parallel()
	k, missing, v6 := key(t, "172.10.0.9:80"), key(t, "172.10.0.9:443"), key(t, "[2001:db8::64]:80")
	own := errors.New("the caller's own")
	backend := func(word string) lb.Backend { return lb.Backend{Addr: addr(word), Weight: 1} }
	setHop := func(hop lb.NextHop) func(s *lb.State) error {
		return func(s *lb.State) error {
			return s.SetBackend(k, addr("192.168.60.8"), func(b *lb.Backend) error { b.Hop = hop; return nil })
		}
	}
	setService := func(edit func(*lb.Service)) func(s *lb.State) error {
		return func(s *lb.State) error {
			return s.SetService(k, func(service *lb.Service) error { edit(service); return nil })
		}
	}
	tests := []struct {
		name string
		edit func(*lb.State) error
		is   error
		want string
	}{
		{"add service twice", func(s *lb.State) error { return s.AddService(lb.Service{ServiceKey: k, Scheduler: lb.RR}) },
			lb.ErrExists, "service TCP 172.10.0.9:80 already exists"},
		{"add service with a backend twice", func(s *lb.State) error {
			return s.AddService(lb.Service{ServiceKey: missing, Scheduler: lb.RR,
				Backends: []lb.Backend{backend("192.168.60.8"), backend("192.168.60.9"), backend("192.168.60.8")}})
		}, lb.ErrExists, "backend 192.168.60.8 of TCP 172.10.0.9:443 already exists"},
		{"add service without scheduler", func(s *lb.State) error { return s.AddService(lb.Service{ServiceKey: missing}) },
			lb.ErrInvalid, "service TCP 172.10.0.9:443: scheduler 0 is unknown: want rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos"},
		{"add service without key", func(s *lb.State) error { return s.AddService(lb.Service{Scheduler: lb.RR}) },
			lb.ErrInvalid, "service PROTOCOL 0 invalid AddrPort: VIP has no address"},
		{"add service with a link-local VIP", func(s *lb.State) error {
			return s.AddService(lb.Service{Scheduler: lb.RR,
				ServiceKey: lb.ServiceKey{Addr: netip.MustParseAddrPort("[fe80::1]:80"), Protocol: lb.TCP}})
		}, lb.ErrInvalid, "service TCP [fe80::1]:80: VIP fe80::1 is a link-local address: real servers, which have it on lo, would not take packets for it"},
		{"add service on port 0", func(s *lb.State) error {
			return s.AddService(lb.Service{Scheduler: lb.RR,
				ServiceKey: lb.ServiceKey{Addr: netip.MustParseAddrPort("172.10.0.9:0"), Protocol: lb.UDP}})
		}, lb.ErrInvalid, "service UDP 172.10.0.9:0: port 0: want 1 to 65535 without persistence"},
		{"add service of another protocol", func(s *lb.State) error {
			return s.AddService(lb.Service{Scheduler: lb.RR, ServiceKey: lb.ServiceKey{Addr: k.Addr, Protocol: 1}})
		}, lb.ErrInvalid, "service PROTOCOL 1 172.10.0.9:80: protocol 1: want tcp, udp or sctp"},
		{"scheduler flags", setService(func(s *lb.Service) { s.Flags = 8 }), lb.ErrInvalid,
			"service TCP 172.10.0.9:80: scheduler flags 0x8: want at most 0x7"},
		{"no removal", setService(func(s *lb.Service) { s.OnRemoval = 2 }), lb.ErrInvalid,
			"service TCP 172.10.0.9:80: removal 2 is unknown: want reschedule or keep"},
		{"one packet of TCP", setService(func(s *lb.Service) { s.OnePacket = true }), lb.ErrInvalid,
			"service TCP 172.10.0.9:80: one-packet scheduling is for UDP only"},
		{"persistence without a time", setService(func(s *lb.Service) { s.Persistence.Prefix = 24 }), lb.ErrInvalid,
			"service TCP 172.10.0.9:80: persistence for 0s: want whole seconds, 1s to 744h0m0s"},
		{"persistence of a fraction", setService(func(s *lb.Service) { s.Persistence.Timeout = 1500 * time.Millisecond }), lb.ErrInvalid,
			"service TCP 172.10.0.9:80: persistence for 1.5s: want whole seconds, 1s to 744h0m0s"},
		{"persistence too long", setService(func(s *lb.Service) { s.Persistence.Timeout = lb.MaxPersistence + time.Second }), lb.ErrInvalid,
			"service TCP 172.10.0.9:80: persistence for 744h0m1s: want whole seconds, 1s to 744h0m0s"},
		{"persistence of /33", setService(func(s *lb.Service) { s.Persistence = lb.Persistence{Timeout: time.Second, Prefix: 33} }), lb.ErrInvalid,
			"service TCP 172.10.0.9:80: persistence of /33: want /0 to /32"},
		{"persistence of all of IPv6", func(s *lb.State) error {
			return s.AddService(lb.Service{ServiceKey: v6, Scheduler: lb.RR, Persistence: lb.Persistence{Timeout: time.Second}})
		}, lb.ErrInvalid, "service TCP [2001:db8::64]:80: persistence of /0: want /1 to /128"},
		{"lower threshold alone", setService(func(s *lb.Service) { s.Backends[0].Lower = 1 }), lb.ErrInvalid,
			"backend 192.168.60.8 of TCP 172.10.0.9:80: the lower threshold 1 needs an upper one"},
		{"thresholds upside down", setService(func(s *lb.Service) { s.Backends[0].Lower, s.Backends[0].Upper = 2, 1 }), lb.ErrInvalid,
			"backend 192.168.60.8 of TCP 172.10.0.9:80: the lower threshold 2 is above the upper 1"},
		{"threshold too large", setService(func(s *lb.Service) { s.Backends[0].Upper = 1 << 31 }), lb.ErrInvalid,
			"backend 192.168.60.8 of TCP 172.10.0.9:80: threshold 2147483648: want 0 to 2147483647"},
		{"set missing service", func(s *lb.State) error { return s.SetService(missing, func(*lb.Service) error { return nil }) },
			lb.ErrNotFound, "service TCP 172.10.0.9:443 does not exist"},
		{"set service's key", func(s *lb.State) error {
			return s.SetService(k, func(s *lb.Service) error { s.ServiceKey = missing; return nil })
		}, lb.ErrInvalid, "service TCP 172.10.0.9:80 cannot become TCP 172.10.0.9:443: add that one and delete this"},
		{"set service's backends wrongly", func(s *lb.State) error {
			return s.SetService(k, func(s *lb.Service) error { s.Backends[0].Weight = 1 << 31; return nil })
		}, lb.ErrInvalid, "backend 192.168.60.8 of TCP 172.10.0.9:80: weight 2147483648: want 0 to 2147483647"},
		{"set service fails", func(s *lb.State) error {
			return s.SetService(k, func(s *lb.Service) error { s.Scheduler = lb.MH; s.Backends[0].Weight = 9; return own })
		}, own, "the caller's own"},
		{"delete missing service", func(s *lb.State) error { return s.DeleteService(missing) },
			lb.ErrNotFound, "service TCP 172.10.0.9:443 does not exist"},
		{"add backend to missing service", func(s *lb.State) error { return s.AddBackend(missing, backend("192.168.60.8")) },
			lb.ErrNotFound, "service TCP 172.10.0.9:443 does not exist"},
		{"add backend twice", func(s *lb.State) error { return s.AddBackend(k, backend("192.168.60.8")) },
			lb.ErrExists, "backend 192.168.60.8 of TCP 172.10.0.9:80 already exists"},
		{"add IPv6 backend to IPv4", func(s *lb.State) error { return s.AddBackend(k, backend("2001:db8::8")) },
			lb.ErrInvalid, "backend 2001:db8::8 is IPv6, the service TCP 172.10.0.9:80 is IPv4"},
		{"add IPv4 backend to IPv6", func(s *lb.State) error {
			return s.AddService(lb.Service{ServiceKey: v6, Scheduler: lb.RR, Backends: []lb.Backend{backend("192.168.60.8")}})
		}, lb.ErrInvalid, "backend 192.168.60.8 is IPv4, the service TCP [2001:db8::64]:80 is IPv6"},
		{"add multicast backend", func(s *lb.State) error { return s.AddBackend(k, backend("224.0.0.1")) },
			lb.ErrInvalid, "service TCP 172.10.0.9:80: backend 224.0.0.1 is a multicast address"},
		{"set missing backend", func(s *lb.State) error {
			return s.SetBackend(k, addr("192.168.60.7"), func(*lb.Backend) error { return nil })
		}, lb.ErrNotFound, "backend 192.168.60.7 of TCP 172.10.0.9:80 does not exist"},
		{"set backend of missing service", func(s *lb.State) error {
			return s.SetBackend(missing, addr("192.168.60.8"), func(*lb.Backend) error { return nil })
		}, lb.ErrNotFound, "service TCP 172.10.0.9:443 does not exist"},
		{"set backend's address", func(s *lb.State) error {
			return s.SetBackend(k, addr("192.168.60.8"), func(b *lb.Backend) error { b.Addr = addr("192.168.60.7"); return nil })
		}, lb.ErrInvalid, "backend 192.168.60.8 of TCP 172.10.0.9:80 cannot become 192.168.60.7: add that one and delete this"},
		{"set backend fails", func(s *lb.State) error {
			return s.SetBackend(k, addr("192.168.60.8"), func(b *lb.Backend) error { b.Weight = 9; return own })
		}, own, "the caller's own"},
		{"group MAC", setHop(lb.NextHop{MAC: [6]byte{1, 0, 0x5e, 0, 0, 1}}), lb.ErrInvalid,
			"backend 192.168.60.8 of TCP 172.10.0.9:80: MAC 01:00:5e:00:00:01 is a group address, not one host's"},
		{"VLAN 4095", setHop(lb.NextHop{VLAN: 4095}), lb.ErrInvalid,
			"backend 192.168.60.8 of TCP 172.10.0.9:80: VLAN 4095: want 0 to 4094"},
		{"negative interface", setHop(lb.NextHop{Ifindex: -1}), lb.ErrInvalid,
			"backend 192.168.60.8 of TCP 172.10.0.9:80: interface index -1 is negative"},
		{"delete missing backend", func(s *lb.State) error { return s.DeleteBackend(k, addr("192.168.60.7")) },
			lb.ErrNotFound, "backend 192.168.60.7 of TCP 172.10.0.9:80 does not exist"},
		{"delete backend of missing service", func(s *lb.State) error { return s.DeleteBackend(missing, addr("192.168.60.8")) },
			lb.ErrNotFound, "service TCP 172.10.0.9:443 does not exist"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := reference(t)
			err := tt.edit(&s)
			if !errors.Is(err, tt.is) {
				t.Fatalf("got %v, want an error that is %q", err, tt.is)
			}
			if err.Error() != tt.want {
				t.Errorf("\n got %q\nwant %q", err, tt.want)
			}
			if diff := cmp.Diff(reference(t), s, byValue); diff != "" {
				t.Errorf("the refused edit changed the state (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidateOrder(t *testing.T) {
	t.Parallel()
	sorted := reference(t)
	sorted.Services[0].Backends[0], sorted.Services[0].Backends[1] = sorted.Services[0].Backends[1], sorted.Services[0].Backends[0]
	if err := sorted.Validate(); !errors.Is(err, lb.ErrInvalid) {
		t.Errorf("backends out of order: got %v", err)
	}
	a, b := lb.Service{ServiceKey: key(t, "1.0.0.1:80"), Scheduler: lb.RR}, lb.Service{ServiceKey: key(t, "1.0.0.2:80"), Scheduler: lb.RR}
	if err := (lb.State{Services: []lb.Service{b, a}}).Validate(); !errors.Is(err, lb.ErrInvalid) {
		t.Errorf("services out of order: got %v", err)
	}
	if err := (lb.State{Services: []lb.Service{a, a}}).Validate(); !errors.Is(err, lb.ErrExists) {
		t.Errorf("service twice: got %v", err)
	}
	if _, err := lb.NewState([]lb.Service{b, a, b}); !errors.Is(err, lb.ErrExists) {
		t.Errorf("NewState, service twice: got %v", err)
	}
}

func TestCloneIsDeep(t *testing.T) {
	t.Parallel()
	original := reference(t)
	if err := original.AddService(lb.Service{ServiceKey: key(t, "172.10.0.10:80"), Scheduler: lb.RR,
		Backends: []lb.Backend{{Addr: addr("192.168.60.8")}}}); err != nil {
		t.Fatal(err)
	}
	want := original.Clone()
	clone := original.Clone()
	first, second := clone.Services[0].ServiceKey, clone.Services[1].ServiceKey
	for i, err := range []error{
		clone.AddBackend(first, lb.Backend{Addr: addr("192.168.60.77")}),
		clone.SetBackend(first, addr("192.168.60.8"), func(b *lb.Backend) error { b.Weight = 9; return nil }),
		clone.DeleteBackend(first, addr("192.168.60.9")),
		clone.SetService(second, func(s *lb.Service) error { s.Scheduler = lb.SH; return nil }),
	} {
		if err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	if diff := cmp.Diff(want, original, byValue); diff != "" {
		t.Errorf("editing a clone changed the original (-want +got):\n%s", diff)
	}
	if got := clone.Services[1].Backends; len(got) != 1 || got[0].Addr != addr("192.168.60.8") {
		t.Errorf("editing one service of a clone changed its neighbour: %v", got)
	}
}

// random makes a valid state out of few keys, so that two of them overlap.
func random(t testing.TB, r *rand.Rand) lb.State {
	t.Helper()
	var services []lb.Service
	for i := range 12 {
		if r.IntN(2) == 0 {
			continue
		}
		ip, backendIP := netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i/2)}), "192.168.60.%d"
		if i%3 == 0 {
			ip, backendIP = netip.AddrFrom16([16]byte{0x20, 1, 15: byte(1 + i/2)}), "2001:db8::%d"
		}
		service := lb.Service{
			ServiceKey: lb.ServiceKey{Addr: netip.AddrPortFrom(ip, uint16(80+i%2)), Protocol: []lb.Protocol{lb.TCP, lb.UDP}[i%2]},
			Scheduler:  lb.Schedulers()[r.IntN(14)],
			Flags:      lb.SchedulerFlags(r.IntN(8)),
			OnePacket:  i%2 == 1 && r.IntN(2) == 0,
			OnRemoval:  lb.Removal(r.IntN(2)),
		}
		if r.IntN(2) == 0 {
			service.Persistence = lb.Persistence{Timeout: time.Duration(1+r.IntN(2)) * time.Minute, Prefix: uint8(24 + r.IntN(2))}
		}
		for j := range 6 {
			if r.IntN(2) == 0 {
				continue
			}
			service.Backends = append(service.Backends, lb.Backend{
				Addr:   addr(fmt.Sprintf(backendIP, j+1)),
				Weight: uint32(r.IntN(2)),
				Upper:  uint32(2 + r.IntN(2)),
				Lower:  uint32(r.IntN(2)),
				Hop:    lb.NextHop{Ifindex: r.IntN(2), VLAN: uint16(r.IntN(2)), Static: r.IntN(4) == 0},
			})
		}
		services = append(services, service)
	}
	state, err := lb.NewState(services)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// large makes services x backends, in order.
func large(t testing.TB, services, backends int) lb.State {
	t.Helper()
	list := make([]lb.Service, services)
	for i := range list {
		list[i] = lb.Service{
			ServiceKey: lb.ServiceKey{
				Addr:     netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80),
				Protocol: lb.TCP,
			},
			Scheduler: lb.WRR,
			Backends:  make([]lb.Backend, backends),
		}
		for j := range list[i].Backends {
			list[i].Backends[j] = lb.Backend{Addr: netip.AddrFrom4([4]byte{10, 2, byte(j >> 8), byte(j)}), Weight: 1}
		}
	}
	state, err := lb.NewState(list)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func BenchmarkWritePath(b *testing.B) {
	for _, size := range []struct{ services, backends int }{{10000, 10}, {1000, 100}} {
		b.Run(fmt.Sprintf("%dx%d", size.services, size.backends), func(b *testing.B) {
			state := large(b, size.services, size.backends)
			for b.Loop() {
				next := state.Clone()
				last := next.Services[len(next.Services)-1].ServiceKey
				if err := next.DeleteBackend(last, addr("10.2.0.3")); err != nil {
					b.Fatal(err)
				}
				if err := next.Validate(); err != nil {
					b.Fatal(err)
				}
				if n := len(lb.Diff(state, next).Changes); n != 1 {
					b.Fatalf("%d changes, want 1", n)
				}
			}
		})
	}
}

func BenchmarkAddServices(b *testing.B) {
	services := large(b, 10000, 10).Services
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })
	for b.Loop() {
		var s lb.State
		for _, service := range services {
			if err := s.AddService(service); err != nil {
				b.Fatal(err)
			}
		}
	}
}
