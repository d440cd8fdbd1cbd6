// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"xdplb/internal/lb"
)

// portWorld is services with one port, with several and with ranges, on one VIP and on others, FTP among them, each with one
// backend of a MAC address of its own.
func portWorld(t testing.TB, ifindex int) lb.State {
	t.Helper()
	var services []lb.Service
	for _, is6 := range []bool{false, true} {
		for i, s := range []struct {
			vip      int
			port     uint16
			ports    lb.Ports
			protocol lb.Protocol
			persists time.Duration
		}{
			{0, 80, "", lb.TCP, 0},
			{0, 8000, "443,8000-8099", lb.TCP, 0},
			{0, 9000, "1-79,81,9000,65000-65535", lb.TCP, 0},
			{0, 8000, "7999-8100", lb.UDP, 0},
			{1, 443, "443-444", lb.TCP, 0},
			{1, 80, "", lb.TCP, 0},
			{2, 1, "1-65535", lb.TCP, 0},
			{3, 8050, "", lb.TCP, 0},
			{4, 21, "", lb.TCP, time.Minute}, // all FTP, and what else has its address
			{4, 0, "", lb.TCP, time.Minute},
			{4, 80, "", lb.TCP, 0},
			{4, 8080, "", lb.TCP, 0},
			{4, 2000, "1000-1030,2000-2100,3000,65535", lb.TCP, 0},
			{4, 20, "", lb.UDP, 0},
			{5, 21, "", lb.TCP, time.Minute}, // FTP alone
			{6, 21, "", lb.TCP, 0},           // none: not persistent, its ports said, another protocol
			{7, 21, "20-21", lb.TCP, time.Minute},
			{8, 21, "", lb.UDP, time.Minute},
			{9, 21, "", lb.TCP, time.Minute}, // all of it is others'
			{9, 20, "", lb.TCP, 0},
			{9, 1024, "1000-65535", lb.TCP, 0},
		} {
			hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 1, byte(i)}, Ifindex: ifindex}
			service := lb.Service{
				ServiceKey: lb.ServiceKey{Addr: addrPort(address(is6, 1, s.vip), s.port), Protocol: s.protocol},
				Ports:      s.ports, Scheduler: lb.RR,
				Backends: []lb.Backend{{Addr: address(is6, 2, i), Weight: 1, Hop: hop}},
			}
			if s.persists > 0 {
				service.Persistence = lb.Persistence{Timeout: s.persists, Prefix: 32}
			}
			services = append(services, service)
		}
	}
	state, err := lb.NewState(services)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// ownerOf is where packets to an address and port must go: to who has the port, else to FTP if it may be a port of its data,
// else to port 0; the zero address: nowhere.
func ownerOf(state lb.State, at netip.AddrPort) (mac [6]byte) {
	for _, s := range state.Services {
		if s.Protocol != lb.TCP || s.Addr.Addr() != at.Addr() {
			continue
		}
		for _, r := range append(s.Ports.Ranges(), lb.PortRange{First: s.Addr.Port(), Last: s.Addr.Port()}) {
			if r.First <= at.Port() && at.Port() <= r.Last {
				return s.Backends[0].Hop.MAC
			}
		}
	}
	for _, port := range []uint16{21, 0} {
		s, found := state.Service(lb.ServiceKey{Addr: netip.AddrPortFrom(at.Addr(), port), Protocol: lb.TCP})
		if found && (port == 0 || s.Ports == "" && s.Persistence.Timeout > 0 && (at.Port() == 20 || at.Port() >= 1024)) {
			return s.Backends[0].Hop.MAC
		}
	}
	return mac
}

// checkPortsOf sends a packet of a new client to many ports of every VIP: all that begin or end a range, and their neighbours.
func checkPortsOf(t testing.TB, attachment Attachment, state lb.State, client uint16) {
	t.Helper()
	edges := []uint16{19, 20, 21, 22, 1023, 1024, 65535}
	for _, s := range state.Services {
		for _, r := range append(s.Ports.Ranges(), lb.PortRange{First: s.Addr.Port(), Last: s.Addr.Port()}) {
			edges = append(edges, r.First-1, r.First, r.First+1, r.Last-1, r.Last, r.Last+1)
		}
	}
	for port := 0; port < 1<<16; port += 1021 {
		edges = append(edges, uint16(port))
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	d := opened(t)
	defer d.Close()
	for _, is6 := range []bool{false, true} {
		for vip := range 11 {
			for _, port := range edges {
				at := addrPort(address(is6, 1, vip), port)
				frame := frameTo(t, attachment.MAC, addrPort(address(is6, 9, 0), client), at, layers.TCP{SYN: true})
				got, sent := sentTo(d.program, attachment.Ifindex, frame)
				if want := ownerOf(state, at); sent != (want != [6]byte{}) || sent && got != want {
					t.Errorf("%s: sent %v to %x, want %x", at, sent, got, want)
				}
			}
		}
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	attachment := director(t, Capacity{Flows: 1 << 16, Services: 64, Backends: 64})
	state := portWorld(t, attachment.Ifindex)
	mustChange(t, to(state))
	checkPortsOf(t, attachment, state, 1001)
	if diff := compareStates(state, snapshot(t)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// Other ports: nothing else of the service changes. Its backend and the flows to a port that stays are the same.
	key := lb.ServiceKey{Addr: addrPort(address(false, 1, 0), 8000), Protocol: lb.TCP}
	set := func(ports lb.Ports) func(*lb.State) error {
		return func(s *lb.State) error {
			return s.SetService(key, func(s *lb.Service) error { s.Ports = ports; return nil })
		}
	}
	before, liveBefore := openLive(t)
	idBefore := liveBefore.services[key].backends[0].id
	before.Close()
	if _, err := ChangeService(pinDir, key, set("443-445,8000-8050,8052-8055")); err != nil {
		t.Fatal(err)
	}
	state = snapshot(t)
	checkPortsOf(t, attachment, state, 1002)
	after, liveAfter := openLive(t)
	if got := liveAfter.services[key].backends[0].id; got != idBefore {
		t.Errorf("the backend has id %d, had %d", got, idBefore)
	}
	after.Close()
	checkTidy(t)

	// A change of one service sees the ports of all.
	_, err := ChangeService(pinDir, key, set("78,8000"))
	if !errors.Is(err, lb.ErrExists) {
		t.Errorf("a port of another service: %v", err)
	}
	other := lb.ServiceKey{Addr: addrPort(address(false, 1, 0), 8053), Protocol: lb.TCP}
	_, err = ChangeService(pinDir, other, func(s *lb.State) error {
		return s.AddService(lb.Service{ServiceKey: other, Scheduler: lb.RR})
	})
	if !errors.Is(err, lb.ErrExists) {
		t.Errorf("a service on a port of another: %v", err)
	}

	// FTP comes and goes with its persistence.
	ftp := lb.ServiceKey{Addr: addrPort(address(false, 1, 4), 21), Protocol: lb.TCP}
	for i, persistence := range []lb.Persistence{{}, {Timeout: time.Minute, Prefix: 32}} {
		_, err = ChangeService(pinDir, ftp, func(s *lb.State) error {
			return s.SetService(ftp, func(s *lb.Service) error { s.Persistence = persistence; return nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		checkPortsOf(t, attachment, snapshot(t), uint16(1100+i))
	}

	// Back to one port, and away.
	if _, err := ChangeService(pinDir, key, set("")); err != nil {
		t.Fatal(err)
	}
	checkPortsOf(t, attachment, snapshot(t), 1004)
	mustChange(t, func(s *lb.State) error { return s.DeleteService(key) })
	checkPortsOf(t, attachment, snapshot(t), 1005)
	mustChange(t, to(lb.State{}))
	checkPortsOf(t, attachment, lb.State{}, 1006)
	checkTidy(t)
}

// TestTooManyPorts: what does not fit is refused, and nothing is changed.
func TestTooManyPorts(t *testing.T) {
	t.Parallel()
	director(t, Capacity{Flows: 1024, Services: 2, Backends: 2})
	var ranges []lb.PortRange
	for port := uint16(2); port <= 2*1025; port += 2 {
		ranges = append(ranges, lb.PortRange{First: port, Last: port})
	}
	add := func(n int) error {
		_, err := Change(pinDir, func(s *lb.State) error {
			return s.AddService(lb.Service{
				ServiceKey: lb.ServiceKey{Addr: addrPort(address(false, 1, 0), 2), Protocol: lb.TCP},
				Ports:      lb.NewPorts(2, ranges[:n]...), Scheduler: lb.RR,
			})
		})
		return err
	}
	wantError(t, add(1025), "1025 ranges of ports", "room for 1024")
	if got := snapshot(t); len(got.Services) > 0 {
		t.Errorf("there are %d services", len(got.Services))
	}
	if err := add(1024); err != nil {
		t.Error(err)
	}
}
