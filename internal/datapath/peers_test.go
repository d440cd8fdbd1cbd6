// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"xdplb/internal/lb"
)

// peerWorld is a service of each scheduler and family with a local backend, a peer, and one more backend, and one that has
// no local backend.
func peerWorld(t testing.TB, ifindex int, peer [6]byte) lb.State {
	t.Helper()
	var services []lb.Service
	for i, scheduler := range append(lb.Schedulers(), lb.RR) {
		for _, is6 := range []bool{false, true} {
			service := lb.Service{
				ServiceKey: lb.ServiceKey{Addr: addrPort(address(is6, 1, i), 80), Protocol: lb.TCP}, Scheduler: scheduler,
			}
			for n, hop := range []lb.NextHop{
				{Local: true}, {MAC: peer, Ifindex: ifindex}, {MAC: [6]byte{2, 0, 0, 0, 0, 8}, Ifindex: ifindex},
			} {
				if n == 0 && i == len(lb.Schedulers()) {
					continue
				}
				service.Backends = append(service.Backends, lb.Backend{Addr: address(is6, 2, n), Weight: 1, Hop: hop})
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

// TestPeers: what a service's other backend sends is the director's own, whatever the scheduler says and whatever is
// known of the flow; what others send is scheduled.
func TestPeers(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	peer, router := [6]byte{2, 0, 0, 0, 0, 5}, [6]byte{2, 0, 0, 0, 0, 1}
	state := peerWorld(t, attachment.Ifindex, peer)
	mustChange(t, to(state))
	d := opened(t)
	defer d.Close()
	send := func(from [6]byte, service lb.Service, client int, flags layers.TCP) (sent bool) {
		frame := frameTo(t, attachment.MAC, addrPort(address(service.Addr.Addr().Is6(), 9, client), 1000), service.Addr, flags)
		copy(frame[6:], from[:])
		_, sent = sentTo(d.program, attachment.Ifindex, frame)
		return sent
	}
	for _, s := range state.Services {
		isLocal := len(s.Backends) == 3
		forwarded := 0
		for client := range 8 {
			sent := send(peer, s, client, layers.TCP{SYN: true})
			again := send(peer, s, client, layers.TCP{ACK: true})
			if sent == isLocal || again == isLocal {
				t.Errorf("%s %s: what the peer sent was sent on: %v, %v, want %v", s.ServiceKey, s.Scheduler, sent, again, !isLocal)
			}
			// Known as the director's own, it stays that, whoever sends it; mh does not look, since its table says the
			// same on both directors.
			if isLocal && s.Scheduler != lb.MH && send(router, s, client, layers.TCP{ACK: true}) {
				t.Errorf("%s %s: a flow of the director's own was sent on", s.ServiceKey, s.Scheduler)
			}
			// Scheduled here, and then again by the peer: the peer has the last word.
			if send(router, s, 100+client, layers.TCP{SYN: true}) {
				forwarded++
				if isLocal && send(peer, s, 100+client, layers.TCP{ACK: true}) {
					t.Errorf("%s %s: a flow that the peer had sent back was sent on", s.ServiceKey, s.Scheduler)
				}
			}
		}
		single := s.Scheduler == lb.FO || s.Scheduler == lb.DH || s.Scheduler == lb.LBLC || s.Scheduler == lb.LBLCR
		if forwarded == 0 && !single {
			t.Errorf("%s %s: nothing from the router was sent on: this test shows nothing", s.ServiceKey, s.Scheduler)
		}
	}
	checkOwnFlows(t, d, state)
}

// TestPeersOnePacket: each datagram that a peer has scheduled is the director's own, a connection by itself, and no flow.
func TestPeersOnePacket(t *testing.T) {
	t.Parallel()
	const datagrams = 6
	attachment := director(t, small)
	peer, router := [6]byte{2, 0, 0, 0, 0, 5}, [6]byte{2, 0, 0, 0, 0, 1}
	state := peerWorld(t, attachment.Ifindex, peer)
	for i := range state.Services {
		s := &state.Services[i]
		s.Protocol, s.OnePacket = lb.UDP, true
		if i%3 == 0 {
			s.Persistence = lb.Persistence{Timeout: time.Minute, Prefix: 32}
		}
	}
	mustChange(t, to(state))
	d := opened(t)
	defer d.Close()
	forwarded := 0
	for _, s := range state.Services {
		isLocal := len(s.Backends) == 3
		own := func() BackendStats {
			all, err := d.Stats()
			if err != nil {
				t.Fatal(err)
			}
			return all[s.ServiceKey].Backends[s.Backends[0].Addr]
		}
		send := func(from [6]byte, client int) bool {
			frame := frameTo(t, attachment.MAC, addrPort(address(s.Addr.Addr().Is6(), 9, client), 1000), s.Addr, layers.TCP{})
			copy(frame[6:], from[:])
			protocol := 14 + 9 // the port numbers stay where they are
			if s.Addr.Addr().Is6() {
				protocol = 14 + 6
			}
			frame[protocol] = byte(lb.UDP)
			_, sent := sentTo(d.program, attachment.Ifindex, frame)
			return sent
		}
		before := own()
		for client := range datagrams {
			if sent := send(peer, client/2); sent == isLocal {
				t.Errorf("%s %s: what the peer sent was sent on: %v, want %v", s.ServiceKey, s.Scheduler, sent, !isLocal)
			}
		}
		if got := own(); isLocal && (got.Connections-before.Connections != datagrams || got.Packets-before.Packets != datagrams) {
			t.Errorf("%s %s: the director itself has %+v, had %+v", s.ServiceKey, s.Scheduler, got, before)
		}
		for client := range datagrams {
			if send(router, 100+client) && isLocal {
				forwarded++
			}
		}
	}
	if forwarded == 0 {
		t.Error("nothing from the router was sent on: this test shows nothing")
	}
	eachConnection(t, d, func(c Connection) {
		if !c.IsTemplate() {
			t.Errorf("a flow from %s to %s is recorded", c.Client, c.Service)
		}
	})
}

// checkOwnFlows looks at what was recorded and counted of the peer's flows.
func checkOwnFlows(t testing.TB, d *Datapath, state lb.State) {
	t.Helper()
	flows := map[lb.ServiceKey]int{}
	eachConnection(t, d, func(c Connection) {
		service, _ := state.Service(c.Service)
		for client := range 8 {
			if len(service.Backends) == 3 && c.Client == addrPort(address(c.Client.Addr().Is6(), 9, client), 1000) {
				flows[c.Service]++
				if backend, _ := service.Backend(c.Backend); !backend.Hop.Local {
					t.Errorf("%s from %s is %s's", c.Service, c.Client, c.Backend)
				}
			}
		}
	})
	all, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range state.Services {
		if len(s.Backends) < 3 {
			continue
		}
		if flows[s.ServiceKey] != 8 {
			t.Errorf("%s %s: %d flows of the peer are recorded, want 8", s.ServiceKey, s.Scheduler, flows[s.ServiceKey])
		}
		if own := all[s.ServiceKey].Backends[s.Backends[0].Addr]; own.Connections < 8 || own.Active < 8 || own.Packets < 16 {
			t.Errorf("%s %s: the director itself has %+v", s.ServiceKey, s.Scheduler, own)
		}
	}
}

// TestPeersFollowChanges compares the peers that packets see with the services, as those change.
func TestPeersFollowChanges(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	mac := [6]byte{2, 0, 0, 0, 0, 5}
	state := peerWorld(t, attachment.Ifindex, mac)
	key := state.Services[0].ServiceKey
	check := func(when string, want map[[6]byte]bool) {
		t.Helper()
		d, live := openLive(t)
		defer d.Close()
		got := map[[6]byte]bool{}
		id := live.services[key].Id
		for peer, self := range readPeers(t, d) {
			if peer.Service != id {
				continue
			}
			got[peer.Mac] = true
			if own := live.services[key].backends[0]; self != own.id || !own.Hop.Local {
				t.Errorf("%s: the director is backend %d, the peer's is %d", when, own.id, self)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	edit := func(n int, change func(*lb.Backend)) {
		t.Helper()
		mustChange(t, func(s *lb.State) error {
			service, _ := s.Service(key)
			change(&service.Backends[n])
			return nil
		})
	}
	other := [6]byte{2, 0, 0, 0, 0, 8}
	mustChange(t, to(state))
	check("at first", map[[6]byte]bool{mac: true, other: true})
	moved := [6]byte{2, 0, 0, 0, 0, 6}
	edit(1, func(b *lb.Backend) { b.Hop.MAC = moved })
	check("one moved", map[[6]byte]bool{moved: true, other: true})
	edit(2, func(b *lb.Backend) { b.Hop = lb.NextHop{} })
	check("one is lost", map[[6]byte]bool{moved: true})
	edit(1, func(b *lb.Backend) { b.Weight = 0 })
	check("the other is quiesced", map[[6]byte]bool{moved: true})
	edit(0, func(b *lb.Backend) { b.Hop = lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 0, 4}, Ifindex: attachment.Ifindex} })
	check("none is local", map[[6]byte]bool{})
	edit(0, func(b *lb.Backend) { b.Hop = lb.NextHop{Local: true} })
	check("one is again", map[[6]byte]bool{moved: true})
	mustChange(t, to(lb.State{}))
	d := opened(t)
	defer d.Close()
	if left := readPeers(t, d); len(left) > 0 {
		t.Errorf("without services there are the peers %v", left)
	}
}

func readPeers(t testing.TB, d *Datapath) map[xdplbPeer]uint32 {
	t.Helper()
	peers := make(map[xdplbPeer]uint32)
	var peer xdplbPeer
	var self uint32
	all := d.maps.Peers.Iterate()
	for all.Next(&peer, &self) {
		peers[peer] = self
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return peers
}
