// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"xdplb/internal/lb"
)

// drainer is a director with one service of three backends, and its clients.
type drainer struct {
	Attachment
	lb.Service
	clients map[netip.AddrPort][6]byte // where the first packet of each went
}

func newDrainer(t testing.TB, change func(*lb.Service)) *drainer {
	t.Helper()
	d := &drainer{Attachment: director(t, small), clients: make(map[netip.AddrPort][6]byte)}
	d.Service = lb.Service{
		ServiceKey: lb.ServiceKey{Addr: addrPort(address(false, 1, 0), 80), Protocol: lb.TCP}, Scheduler: lb.RR, OnRemoval: lb.Keep,
	}
	change(&d.Service)
	is6 := d.Addr.Addr().Is6()
	for n := range 3 {
		hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 1, byte(n)}, Ifindex: d.Ifindex}
		d.Backends = append(d.Backends, lb.Backend{Addr: address(is6, 2, n), Weight: 30, Hop: hop})
	}
	mustChange(t, func(state *lb.State) error { return state.AddService(d.Service) })
	return d
}

// eachDrainer runs a test under each of some schedulers, with a number of clients that have connected.
func eachDrainer(t *testing.T, schedulers []lb.Scheduler, clients int, test func(*testing.T, *drainer)) {
	t.Helper()
	for _, scheduler := range schedulers {
		t.Run(scheduler.String(), func(t *testing.T) {
			t.Parallel()
			d := newDrainer(t, func(s *lb.Service) { s.Scheduler = scheduler })
			d.connect(t, 0, clients)
			test(t, d)
		})
	}
}

// client is the n-th client.
func (d *drainer) client(n int) netip.AddrPort {
	return addrPort(address(d.Addr.Addr().Is6(), 9, n), uint16(1000+n))
}

// send sends a packet of a client and returns where it goes; the zero address: nowhere.
func (d *drainer) send(t testing.TB, client netip.AddrPort, flags layers.TCP) (to [6]byte) {
	t.Helper()
	dp := opened(t)
	defer dp.Close()
	to, sent := sentTo(dp.program, d.Ifindex, frameTo(t, d.MAC, client, d.Addr, flags))
	if !sent {
		return [6]byte{}
	}
	return to
}

// connect lets some clients connect.
func (d *drainer) connect(t testing.TB, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		c := d.client(n)
		d.clients[c] = d.send(t, c, layers.TCP{SYN: true})
		if again := d.send(t, c, layers.TCP{ACK: true}); again != d.clients[c] {
			t.Fatalf("client %s: SYN to %x, ACK to %x", c, d.clients[c], again)
		}
	}
}

// of lists the clients that are with a backend.
func (d *drainer) of(mac [6]byte) (list []netip.AddrPort) {
	for client, to := range d.clients {
		if to == mac {
			list = append(list, client)
		}
	}
	return list
}

// busiest is the backend that has most clients.
func (d *drainer) busiest() lb.Backend {
	most := d.Backends[0]
	for _, b := range d.Backends[1:] {
		if len(d.of(b.Hop.MAC)) > len(d.of(most.Hop.MAC)) {
			most = b
		}
	}
	return most
}

func (d *drainer) remove(t testing.TB, b lb.Backend) {
	t.Helper()
	mustChange(t, func(s *lb.State) error { return s.DeleteBackend(d.ServiceKey, b.Addr) })
}

func (d *drainer) setRemoval(t testing.TB, removal lb.Removal) {
	t.Helper()
	mustChange(t, func(s *lb.State) error {
		return s.SetService(d.ServiceKey, func(s *lb.Service) error { s.OnRemoval = removal; return nil })
	})
}

// wantClients sends the next packet of each client, and counts those of a removed backend that reach it.
func (d *drainer) wantClients(t testing.TB, when string, removed lb.Backend, reached int) {
	t.Helper()
	got := 0
	for client, before := range d.clients {
		to := d.send(t, client, layers.TCP{ACK: true})
		switch {
		case before != removed.Hop.MAC && to != before:
			t.Errorf("%s: client %s moves from %x to %x", when, client, before, to)
		case before == removed.Hop.MAC && to == before:
			got++
		}
	}
	if got != reached {
		t.Errorf("%s: %d of %d clients reach the removed backend, want %d", when, got, len(d.of(removed.Hop.MAC)), reached)
	}
}

// wantNone lets new clients come, of whom none may reach a backend.
func (d *drainer) wantNone(t testing.TB, when string, removed lb.Backend) {
	t.Helper()
	for n := range 30 {
		if d.send(t, d.client(1000+n), layers.TCP{SYN: true}) == removed.Hop.MAC {
			t.Errorf("%s: a new connection goes to the removed backend", when)
		}
	}
}

// expireFlows makes all flows older than any timeout.
func expireFlows(t testing.TB) {
	t.Helper()
	ageFlows(t, uint32(xdplbTimeoutTIMEOUT_ESTABLISHED)+5)
}

func reap(t testing.TB) {
	t.Helper()
	if err := Reap(pinDir); err != nil {
		t.Fatal(err)
	}
}

// wantDraining compares how many backends drain, and looks whether all else is as it must be.
func wantDraining(t testing.TB, when string, want int) {
	t.Helper()
	func() {
		d, live := openLive(t)
		defer d.Close()
		if len(live.draining) != want {
			t.Errorf("%s: %d backends drain, want %d", when, len(live.draining), want)
		}
		inUse := 0
		for id := range d.backends.count {
			inUse += int(d.backends.get(id).InUse)
		}
		if inUse != live.backends {
			t.Errorf("%s: %d backend ids are in use, want %d", when, inUse, live.backends)
		}
	}()
	checkTidy(t)
	checkTables(t)
}

// TestDraining removes, under each scheduler, the backend that has most clients: kept, they go on until they are idle, and
// nobody else comes.
func TestDraining(t *testing.T) {
	t.Parallel()
	for i, scheduler := range lb.Schedulers() {
		for _, removal := range []lb.Removal{lb.Keep, lb.Reschedule} {
			t.Run(fmt.Sprintf("%s, %s", scheduler, removal), func(t *testing.T) {
				t.Parallel()
				testDraining(t, newDrainer(t, func(s *lb.Service) {
					s.Addr, s.Scheduler, s.OnRemoval = addrPort(address(i%2 == 1, 1, 0), 80), scheduler, removal
				}))
			})
		}
	}
}

func testDraining(t *testing.T, d *drainer) {
	d.connect(t, 0, 60)
	removed := d.busiest()
	kept, draining := len(d.of(removed.Hop.MAC)), 1
	if d.OnRemoval == lb.Reschedule {
		kept, draining = 0, 0
	}
	before := stats(t)[d.ServiceKey].Counters

	d.remove(t, removed)
	wantDraining(t, "removed", draining)
	state := snapshot(t)
	if service := state.Services[0]; len(service.Backends) != 2 || service.OnRemoval != d.OnRemoval {
		t.Errorf("removed, the service is %+v", service)
	}
	if kept != d.listed(t, removed) {
		t.Errorf("%d connections of the removed backend are listed, want %d", d.listed(t, removed), kept)
	}
	d.wantClients(t, "removed", removed, kept)
	d.wantNone(t, "removed", removed)
	after := stats(t)[d.ServiceKey]
	if _, found := after.Backends[removed.Addr]; found || after.Connections < before.Connections || after.Packets != before.Packets+60+30 {
		t.Errorf("before it had counted %+v, now %+v", before, after)
	}

	reap(t)
	wantDraining(t, "reaped while connections go on", draining)
	expireFlows(t)
	pastSettling(t)
	after = stats(t)[d.ServiceKey]
	reap(t)
	wantDraining(t, "reaped when they have expired", 0)
	if reaped := stats(t)[d.ServiceKey].Counters; reaped != after.Counters {
		t.Errorf("before it was reaped %+v were counted, now %+v", after.Counters, reaped)
	}
	d.wantClients(t, "reaped", removed, 0)
}

// listed is how many connections are listed with a backend.
func (d *drainer) listed(t testing.TB, b lb.Backend) (count int) {
	t.Helper()
	dp := opened(t)
	defer dp.Close()
	eachConnection(t, dp, func(c Connection) {
		if c.Backend == b.Addr {
			count++
		}
	})
	return count
}

// TestDrainingWithoutEntries: connections of a settled slot may have no entry. Those of a removed backend find it by the
// table of previous backends, and it does not end before they are known.
func TestDrainingWithoutEntries(t *testing.T) {
	t.Parallel()
	d := newDrainer(t, func(s *lb.Service) { s.Scheduler = lb.MH })
	d.connect(t, 0, 60)
	removed := d.busiest()
	clients := len(d.of(removed.Hop.MAC))
	d.remove(t, removed)
	forgetFlows(t)
	reap(t)
	wantDraining(t, "no connection is known", 1)
	d.wantClients(t, "no connection was known", removed, clients)
	d.wantNone(t, "no connection was known", removed)
	if listed := d.listed(t, removed); listed != clients {
		t.Errorf("%d connections are known, want %d", listed, clients)
	}

	forgetFlows(t)
	pastSettling(t)
	reap(t)
	wantDraining(t, "long after", 0)
	h := readHashed(t, d.ServiceKey)
	h.unsettledSlots(t)
	d.wantClients(t, "long after", removed, 0)
}

// TestDrainingAlone: connections go on, but for new ones there is no backend.
func TestDrainingAlone(t *testing.T) {
	t.Parallel()
	eachDrainer(t, []lb.Scheduler{lb.RR, lb.MH, lb.WLC}, 30, func(t *testing.T, d *drainer) {
		for _, b := range d.Backends {
			d.remove(t, b)
		}
		wantDraining(t, "all removed", 3)
		d.wantClients(t, "all removed", d.Backends[0], len(d.of(d.Backends[0].Hop.MAC)))
		if to := d.send(t, d.client(100), layers.TCP{SYN: true}); to != [6]byte{} {
			t.Errorf("a new connection goes to %x", to)
		}
	})
}

// TestDrainingEnds gives the connections of a removed backend up at once: by the service's setting, and with the service.
func TestDrainingEnds(t *testing.T) {
	t.Parallel()
	eachDrainer(t, []lb.Scheduler{lb.RR, lb.MH}, 30, func(t *testing.T, d *drainer) {
		removed := d.busiest()
		d.remove(t, removed)
		d.setRemoval(t, lb.Reschedule)
		wantDraining(t, "to be rescheduled", 0)
		d.wantClients(t, "to be rescheduled", removed, 0)
		d.setRemoval(t, lb.Keep)
		wantDraining(t, "kept again", 0)

		clear(d.clients)
		d.connect(t, 30, 60)
		rest := snapshot(t).Services[0].Backends
		d.remove(t, rest[0])
		wantDraining(t, "another removed", 1)
		mustChange(t, func(s *lb.State) error { return s.DeleteService(d.ServiceKey) })
		wantDraining(t, "without the service", 0)
		for client := range d.clients {
			if to := d.send(t, client, layers.TCP{ACK: true}); to != [6]byte{} {
				t.Errorf("without the service, a packet goes to %x", to)
			}
		}
	})
}

// TestDrainingReturns adds a removed backend again: while it drains, it takes its id, its connections and its counters back;
// later it is another one.
func TestDrainingReturns(t *testing.T) {
	t.Parallel()
	eachDrainer(t, []lb.Scheduler{lb.RR, lb.MH, lb.LC}, 60, func(t *testing.T, d *drainer) {
		removed := d.busiest()
		clients := len(d.of(removed.Hop.MAC))
		before := stats(t)[d.ServiceKey]
		id := readHashed(t, d.ServiceKey).ids[removed.Addr]
		d.remove(t, removed)

		back := removed
		back.Weight, back.Upper = 3, 1000
		add := func() { mustChange(t, func(s *lb.State) error { return s.AddBackend(d.ServiceKey, back) }) }
		add()
		wantDraining(t, "back", 0)
		if got := readHashed(t, d.ServiceKey).ids[removed.Addr]; got != id {
			t.Errorf("it comes back as id %d, was %d", got, id)
		}
		if after := stats(t)[d.ServiceKey]; !cmp.Equal(before, after, byAddr) {
			t.Errorf("before it had counted %+v, now %+v", before, after)
		}
		d.wantClients(t, "back", removed, clients)
		d.connect(t, 60, 120)
		if more := len(d.of(removed.Hop.MAC)) - clients; more == 0 {
			t.Error("it gets no new connection")
		}

		back.Upper = 0
		d.remove(t, removed)
		expireFlows(t)
		pastSettling(t)
		add()
		if got := readHashed(t, d.ServiceKey).ids[removed.Addr]; got == id {
			t.Error("later it comes back with the same id")
		}
		if late := stats(t)[d.ServiceKey].Backends[removed.Addr]; late != (BackendStats{}) {
			t.Errorf("later it begins with %+v", late)
		}
		wantDraining(t, "later", 0)
	})
}

// TestDrainingMoves adds a draining backend again that has another MAC address now: its connections follow it there.
func TestDrainingMoves(t *testing.T) {
	t.Parallel()
	d := newDrainer(t, func(*lb.Service) {})
	d.connect(t, 0, 30)
	moved := d.Backends[0]
	d.remove(t, moved)
	moved.Weight, moved.Hop.MAC = 0, [6]byte{2, 0, 0, 0, 2, 0}
	mustChange(t, func(s *lb.State) error { return s.AddBackend(d.ServiceKey, moved) })
	for _, client := range d.of(d.Backends[0].Hop.MAC) {
		if to := d.send(t, client, layers.TCP{ACK: true}); to != moved.Hop.MAC {
			t.Errorf("a packet goes to %x, want %x", to, moved.Hop.MAC)
		}
	}
	checkTidy(t)
}

// TestDrainingOpensAnew: a SYN on the tuple of a kept connection opens another one, whatever the kept one's state.
func TestDrainingOpensAnew(t *testing.T) {
	t.Parallel()
	d := newDrainer(t, func(*lb.Service) {})
	d.connect(t, 0, 9)
	removed := d.Backends[0]
	d.remove(t, removed)
	kept := d.of(removed.Hop.MAC)
	if len(kept) != 3 {
		t.Fatalf("%d clients of the removed backend, want 3", len(kept))
	}
	if to := d.send(t, kept[1], layers.TCP{FIN: true, ACK: true}); to != removed.Hop.MAC {
		t.Errorf("a FIN goes to %x, want %x", to, removed.Hop.MAC)
	}
	for _, client := range kept[:2] {
		if to := d.send(t, client, layers.TCP{SYN: true}); to == removed.Hop.MAC {
			t.Errorf("the SYN of %s goes to the removed backend", client)
		}
	}
	expireFlows(t)
	if to := d.send(t, kept[2], layers.TCP{SYN: true}); to == removed.Hop.MAC {
		t.Error("a SYN on a connection that has expired goes to the removed backend")
	}
}

// TestDrainingClients: a client's connection stays with a removed backend, the client itself does not.
func TestDrainingClients(t *testing.T) {
	t.Parallel()
	d := newDrainer(t, func(s *lb.Service) { s.Persistence = lb.Persistence{Timeout: time.Hour, Prefix: 24} })
	d.connect(t, 0, 1)
	home := d.busiest()
	again := addrPort(address(false, 9, 1), 2000) // of the same network
	if to := d.send(t, again, layers.TCP{SYN: true}); to != home.Hop.MAC {
		t.Fatalf("its second connection goes to %x, want %x", to, home.Hop.MAC)
	}
	d.remove(t, home)
	d.wantClients(t, "removed", home, 1)
	dp := opened(t)
	eachConnection(t, dp, func(c Connection) {
		if c.IsTemplate() {
			t.Errorf("the template %+v is listed", c)
		}
	})
	if freed, err := dp.Sweep(t.Context()); err != nil || freed != 1 {
		t.Errorf("the sweep frees %d, %v; want the template", freed, err)
	}
	dp.Close()

	third := addrPort(address(false, 9, 2), 3000)
	other := d.send(t, third, layers.TCP{SYN: true})
	// what a kept connection sends does not call the client back
	if to := d.send(t, again, layers.TCP{ACK: true}); to != home.Hop.MAC {
		t.Errorf("the second connection moves to %x", to)
	}
	for port := range uint16(4) {
		if to := d.send(t, addrPort(address(false, 9, 3), 4000+port), layers.TCP{SYN: true}); to != other {
			t.Errorf("connection %d goes to %x, want %x", port, to, other)
		}
	}
}

// TestDrainingKeepsNoClient: a template of a removed backend that nobody has swept yet is not followed.
func TestDrainingKeepsNoClient(t *testing.T) {
	t.Parallel()
	d := newDrainer(t, func(s *lb.Service) { s.Persistence = lb.Persistence{Timeout: time.Hour, Prefix: 32} })
	d.connect(t, 0, 3)
	home := d.Backends[0]
	d.remove(t, home)
	for client, was := range d.clients {
		to := d.send(t, addrPort(client.Addr(), 4000), layers.TCP{SYN: true})
		if was == home.Hop.MAC && to == was || was != home.Hop.MAC && to != was {
			t.Errorf("the next connection of a client of %x goes to %x", was, to)
		}
	}
}

// TestDrainingPieces: later fragments of a kept connection's datagrams, and errors about its packets, follow it.
func TestDrainingPieces(t *testing.T) {
	t.Parallel()
	eachDrainer(t, []lb.Scheduler{lb.RR, lb.MH}, 30, func(t *testing.T, d *drainer) {
		removed := d.busiest()
		d.remove(t, removed)
		client, vip := d.of(removed.Hop.MAC)[0], d.Addr.Addr()
		between := []func(*layers.IPv4){from4(client.Addr()), to4(vip)}
		quoted := packet(ip4(from4(vip), to4(client.Addr())), tcp(d.Addr.Port(), client.Port(), tcpFlags{ack: true}), data(600))
		for _, in := range [][]byte{
			frame(ip4(append(between, fragment4(0, true))...), tcp(client.Port(), d.Addr.Port(), tcpFlags{ack: true}), data(1456)),
			frame(ip4(append(between, protocol4(6), fragment4(185, false))...), data(100)),
			frame(ip4(from4(router4), to4(vip)), icmp4(3, 4), quoted[:28]),
		} {
			copy(in, d.MAC[:])
			dp := opened(t)
			if to, sent := sentTo(dp.program, d.Ifindex, in); !sent || to != removed.Hop.MAC {
				t.Errorf("sent: %v, to %x, want %x", sent, to, removed.Hop.MAC)
			}
			dp.Close()
		}
	})
}

// TestDrainingPeers: the director, removed from its own service, gets nothing from the peer any more but what goes on; the
// peer, removed, still sends what it has scheduled.
func TestDrainingPeers(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	peer := [6]byte{2, 0, 0, 0, 0, 5}
	state := peerWorld(t, attachment.Ifindex, peer)
	key := state.Services[0].ServiceKey
	state.Services[0].OnRemoval = lb.Keep
	own, other, last := state.Services[0].Backends[0], state.Services[0].Backends[1], state.Services[0].Backends[2]
	second := lb.Backend{Addr: address(false, 2, 9), Weight: 1, Hop: lb.NextHop{Local: true}}
	peersOf := func(when string, want ...[6]byte) {
		t.Helper()
		d, live := openLive(t)
		defer d.Close()
		var got [][6]byte
		for p, self := range readPeers(t, d) {
			if p.Service != live.services[key].Id {
				continue
			}
			got = append(got, p.Mac)
			if b := live.services[key].find(own.Addr); b == nil || self != b.id {
				t.Errorf("%s: the peer %x sends to backend id %d, want the director's, %+v", when, p.Mac, self, b)
			}
		}
		slices.SortFunc(got, func(a, b [6]byte) int { return slices.Compare(a[:], b[:]) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: peers (-want +got):\n%s", when, diff)
		}
	}
	mustChange(t, to(state))
	remove := func(b lb.Backend) { mustChange(t, func(s *lb.State) error { return s.DeleteBackend(key, b.Addr) }) }
	add := func(b lb.Backend) { mustChange(t, func(s *lb.State) error { return s.AddBackend(key, b) }) }
	peersOf("at first", peer, last.Hop.MAC)
	d := opened(t)
	for client := range 9 { // three stay with each
		from := addrPort(address(false, 9, client), 1000)
		sentTo(d.program, attachment.Ifindex, frameTo(t, attachment.MAC, from, key.Addr, layers.TCP{SYN: true}))
	}
	d.Close()
	remove(other)
	remove(last)
	peersOf("all peers drain", peer, last.Hop.MAC)
	add(second)
	remove(second)
	peersOf("another address of the director drains", peer, last.Hop.MAC)
	remove(own)
	peersOf("the director drains")
}

// TestDrainingNeedsRoom: what drains needs an id, until it is reaped.
func TestDrainingNeedsRoom(t *testing.T) {
	t.Parallel()
	attachment := director(t, Capacity{Flows: 1024, Services: 2, Backends: 4})
	d := &drainer{Attachment: attachment, clients: make(map[netip.AddrPort][6]byte)}
	service := func(n int, backends ...int) lb.Service {
		s := lb.Service{ServiceKey: lb.ServiceKey{Addr: addrPort(address(false, 1, n), 80), Protocol: lb.TCP}, Scheduler: lb.RR, OnRemoval: lb.Keep}
		for _, b := range backends {
			hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 1, byte(b)}, Ifindex: attachment.Ifindex}
			s.Backends = append(s.Backends, lb.Backend{Addr: address(false, 2, b), Weight: 1, Hop: hop})
		}
		return s
	}
	d.Service = service(0, 0, 1)
	mustChange(t, func(s *lb.State) error { return s.AddService(d.Service) })
	d.connect(t, 0, 4)
	replace := func(backends ...int) error {
		_, err := ChangeService(pinDir, d.ServiceKey, to(lb.State{Services: []lb.Service{service(0, backends...)}}))
		return err
	}
	if err := replace(2, 3); err != nil {
		t.Fatal(err)
	}
	wantDraining(t, "two of two replaced", 2)
	var full *CapacityError
	err := replace(3, 4)
	if !errors.As(err, &full) || *full != (CapacityError{What: "backends", Have: 4, Want: 5, Draining: 3}) {
		t.Errorf("error %v, want a CapacityError of 5 backends of which 3 drain", err)
	}
	_, err = ChangeService(pinDir, service(1).ServiceKey, func(s *lb.State) error { return s.AddService(service(1, 1)) })
	if !errors.As(err, &full) || full.Want != 5 || full.Draining != 2 {
		t.Errorf("another service: error %v, want a CapacityError of 5 backends of which 2 drain", err)
	}
	wantDraining(t, "refused", 2)
	expireFlows(t)
	if _, err := ChangeService(pinDir, service(1).ServiceKey, func(s *lb.State) error { return s.AddService(service(1, 1, 2)) }); err != nil {
		t.Error(err)
	}
	wantDraining(t, "idle", 0)
}

// TestReapingFails ends reaping after every step: the backend drains yet or is gone, and the next writer converges.
func TestReapingFails(t *testing.T) {
	t.Parallel()
	eachDrainer(t, []lb.Scheduler{lb.RR, lb.MH}, 0, func(t *testing.T, d *drainer) {
		failure := errors.New("injected")
		for step := 0; ; step++ {
			mustChange(t, to(lb.State{}))
			mustChange(t, func(s *lb.State) error { return s.AddService(d.Service) })
			d.connect(t, 0, 12)
			d.remove(t, d.Backends[0])
			expireFlows(t)
			pastSettling(t)
			before := stats(t)[d.ServiceKey].Counters
			left := step
			err := reapDraining(pinDir, options{LockTimeout, nil, func(string) error {
				if left--; left < 0 {
					return failure
				}
				return nil
			}})
			if err == nil {
				if step < 8 {
					t.Errorf("it has %d steps only", step)
				}
				break
			}
			if !errors.Is(err, failure) {
				t.Fatal(err)
			}
			checkTables(t)
			mustChange(t, func(*lb.State) error { return nil })
			checkTidy(t)
			reap(t)
			wantDraining(t, fmt.Sprintf("reaped after step %d and again", step), 0)
			if after := stats(t)[d.ServiceKey].Counters; after != before {
				t.Errorf("before %+v were counted, now %+v", before, after)
			}
		}
	})
}

// TestDrainingKilled kills the writer after every step of each change that lets a backend drain, or ends that. Connections
// that are kept before and after are kept meanwhile, and the next writer converges.
func TestDrainingKilled(t *testing.T) {
	t.Parallel()
	for _, scheduler := range []lb.Scheduler{lb.RR, lb.MH} {
		for _, test := range []struct {
			name     string
			removed  bool // before the change
			edit     func(*lb.State, *drainer, lb.Backend) error
			kept     bool // during the change, and after it
			draining int
		}{
			{"begins", false, func(s *lb.State, d *drainer, b lb.Backend) error {
				return s.DeleteBackend(d.ServiceKey, b.Addr)
			}, true, 1},
			{"returns", true, func(s *lb.State, d *drainer, b lb.Backend) error {
				return s.AddBackend(d.ServiceKey, b)
			}, true, 0},
			{"is given up", true, func(s *lb.State, d *drainer, _ lb.Backend) error {
				return s.SetService(d.ServiceKey, func(s *lb.Service) error { s.OnRemoval = lb.Reschedule; return nil })
			}, false, 0},
		} {
			t.Run(scheduler.String()+" "+test.name, func(t *testing.T) {
				t.Parallel()
				d := newDrainer(t, func(s *lb.Service) { s.Scheduler = scheduler })
				for step := 0; ; step++ {
					mustChange(t, to(lb.State{}))
					mustChange(t, func(s *lb.State) error { return s.AddService(d.Service) })
					clear(d.clients)
					d.connect(t, 0, 12)
					b := d.busiest()
					clients := len(d.of(b.Hop.MAC))
					if test.removed {
						d.remove(t, b)
					}
					state := snapshot(t)
					if err := test.edit(&state, d, b); err != nil {
						t.Fatal(err)
					}
					if !startChild(t, state, step).wasKilled(t) {
						if step < 8 {
							t.Errorf("the change has %d steps only", step)
						}
						break
					}
					checkTables(t)
					if test.kept {
						d.wantClients(t, fmt.Sprintf("killed after step %d", step), b, clients)
					}
					mustChange(t, func(*lb.State) error { return nil })
					checkTidy(t)
					checkTables(t)
					if test.kept {
						d.wantClients(t, fmt.Sprintf("killed after step %d, and repaired", step), b, clients)
					}
					mustChange(t, to(state))
					wantDraining(t, fmt.Sprintf("killed after step %d, and done again", step), test.draining)
					if !test.kept {
						clients = 0
					}
					d.wantClients(t, "done again", b, clients)
				}
			})
		}
	}
}

// wasKilled waits for a child that kills itself, unless it has fewer steps than it was told.
func (c child) wasKilled(t testing.TB) bool {
	t.Helper()
	err := c.cmd.Wait()
	if status := c.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() && status.Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("the child: %v", err)
	}
	return false
}

// TestDrainingZeroed: zeroing takes what draining backends have counted, and what they count afterwards stays the service's.
func TestDrainingZeroed(t *testing.T) {
	t.Parallel()
	d := newDrainer(t, func(*lb.Service) {})
	d.connect(t, 0, 30)
	removed := d.Backends[2]
	d.remove(t, removed)
	if err := Zero(pinDir, d.ServiceKey); err != nil {
		t.Fatal(err)
	}
	want := func(when string, packets uint64) {
		t.Helper()
		if got := stats(t)[d.ServiceKey].Counters; got.Connections != 0 || got.Packets != packets {
			t.Errorf("%s: %+v were counted, want %d packets", when, got, packets)
		}
		checkTidy(t)
	}
	want("zeroed", 0)
	d.wantClients(t, "zeroed", removed, 10)
	want("a packet each", 30)
	d.setRemoval(t, lb.Reschedule)
	want("given up", 30)
}
