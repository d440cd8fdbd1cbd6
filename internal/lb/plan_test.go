// SPDX-License-Identifier: Apache-2.0

package lb_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lb"
)

// apply does one change to a state by the editing methods, and checks that what it says of the state before is true.
func apply(s *lb.State, c lb.Change) error {
	edit := func(current *lb.Columns) error {
		if *current != c.Before {
			return fmt.Errorf("%s: before is %+v, the state has %+v", c, c.Before, *current)
		}
		*current = c.After
		return nil
	}
	if c.Service == (lb.ServiceKey{}) {
		columns := lb.Columns{Timeouts: s.Timeouts}
		err := edit(&columns)
		s.Timeouts = columns.Timeouts
		return err
	}
	if c.Backend.IsValid() {
		switch c.Verb {
		case lb.Add:
			return s.AddBackend(c.Service, backendOf(c.Backend, c.After))
		case lb.Delete:
			return s.DeleteBackend(c.Service, c.Backend)
		}
		return s.SetBackend(c.Service, c.Backend, func(b *lb.Backend) error {
			columns := lb.Columns{Weight: b.Weight, Upper: b.Upper, Lower: b.Lower, Hop: b.Hop}
			err := edit(&columns)
			*b = backendOf(b.Addr, columns)
			return err
		})
	}
	switch c.Verb {
	case lb.Add:
		return s.AddService(serviceOf(c.Service, c.After))
	case lb.Delete:
		if service, ok := s.Service(c.Service); ok && len(service.Backends) > 0 {
			return fmt.Errorf("%s: it still has backends", c)
		}
		return s.DeleteService(c.Service)
	}
	return s.SetService(c.Service, func(service *lb.Service) error {
		columns := lb.Columns{
			Scheduler: service.Scheduler, Flags: service.Flags, Persistence: service.Persistence, OnePacket: service.OnePacket,
			OnRemoval: service.OnRemoval,
		}
		err := edit(&columns)
		backends := service.Backends
		*service = serviceOf(service.ServiceKey, columns)
		service.Backends = backends
		return err
	})
}

func serviceOf(key lb.ServiceKey, c lb.Columns) lb.Service {
	return lb.Service{
		ServiceKey: key, Scheduler: c.Scheduler, Flags: c.Flags, Persistence: c.Persistence, OnePacket: c.OnePacket,
		OnRemoval: c.OnRemoval,
	}
}

func backendOf(addr netip.Addr, c lb.Columns) lb.Backend {
	return lb.Backend{Addr: addr, Weight: c.Weight, Upper: c.Upper, Lower: c.Lower, Hop: c.Hop}
}

func TestDiffLeadsFromOneStateToTheOther(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		from, to := random(t, r), random(t, r)
		fromBefore, toBefore := from.Clone(), to.Clone()
		plan := lb.Diff(from, to)
		got := from.Clone()
		for _, change := range plan.Changes {
			if change.Before == change.After && change.Verb == lb.Set {
				t.Errorf("seed %d: %s changes nothing", seed, change)
			}
			if err := apply(&got, change); err != nil {
				t.Fatalf("seed %d: applying %s: %v", seed, change, err)
			}
		}
		if diff := cmp.Diff(to, got, byValue); diff != "" {
			t.Fatalf("seed %d: the plan does not lead there (-want +got):\n%s", seed, diff)
		}
		if !lb.Diff(from, from.Clone()).Empty() {
			t.Errorf("seed %d: Diff(x, x) is not empty", seed)
		}
		if diff := cmp.Diff([]lb.State{fromBefore, toBefore}, []lb.State{plan.From, plan.To}, byValue); diff != "" {
			t.Errorf("seed %d: Diff changed its arguments (-want +got):\n%s", seed, diff)
		}
	}
}

func TestPlanReads(t *testing.T) {
	t.Parallel()
	from := lb.State{Services: []lb.Service{
		{ServiceKey: key(t, "172.10.0.8:80"), Scheduler: lb.SH, Backends: []lb.Backend{{Addr: addr("192.168.60.8"), Weight: 1}}},
		{ServiceKey: key(t, "172.10.0.9:80"), Scheduler: lb.RR, Backends: []lb.Backend{
			{Addr: addr("192.168.60.8"), Weight: 1},
			{Addr: addr("192.168.60.9"), Weight: 1},
			{Addr: addr("192.168.60.10"), Weight: 1},
			{Addr: addr("192.168.60.11"), Weight: 1},
		}},
	}}
	hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 0, 8}, Ifindex: 3, VLAN: 100, Static: true}
	to := lb.State{Services: []lb.Service{
		{ServiceKey: key(t, "172.10.0.9:80"), Scheduler: lb.SH, Flags: lb.SHPort, OnRemoval: lb.Keep,
			Persistence: lb.Persistence{Timeout: 6 * time.Minute, Prefix: 24}, Backends: []lb.Backend{
				{Addr: addr("192.168.60.8"), Weight: 2, Upper: 100, Lower: 50},
				{Addr: addr("192.168.60.10"), Weight: 1, Hop: hop},
				{Addr: addr("192.168.60.11"), Weight: 0, Hop: lb.NextHop{MAC: hop.MAC, Ifindex: 3}},
			}},
		{ServiceKey: key(t, "[2001:db8::64]:80"), Scheduler: lb.MH, Flags: lb.MHFallback | lb.MHPort | lb.Flag3,
			Backends: []lb.Backend{{Addr: addr("2001:db8::8"), Weight: 1, Upper: 9}}},
	}}
	want := []string{
		"- backend 192.168.60.8 of TCP 172.10.0.8:80",
		"- service TCP 172.10.0.8:80",
		"~ service TCP 172.10.0.9:80 scheduler rr -> sh, options none -> sh-port, persistent for 6m0s by /24, on-removal keep",
		"~ backend 192.168.60.8 of TCP 172.10.0.9:80 weight 1 -> 2, thresholds 0/0 -> 100/50",
		"- backend 192.168.60.9 of TCP 172.10.0.9:80",
		"~ backend 192.168.60.10 of TCP 172.10.0.9:80 next hop unknown -> 02:00:00:00:00:08 on interface 3, VLAN 100, static",
		"~ backend 192.168.60.11 of TCP 172.10.0.9:80 weight 1 -> 0, next hop unknown -> 02:00:00:00:00:08 on interface 3",
		"+ service TCP [2001:db8::64]:80 mh, mh-fallback,mh-port,flag-3",
		"+ backend 2001:db8::8 of TCP [2001:db8::64]:80 weight 1, thresholds 9/0",
	}
	var got []string
	for _, change := range lb.Diff(from, to).Changes {
		got = append(got, change.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
