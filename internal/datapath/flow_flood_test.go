// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
)

const floodTicks = 4 // FLOOD_TICKS of schedule.h

// earlyTick waits until a tick of the program's clock has just begun, so that what follows happens in one.
func earlyTick(t *testing.T) uint32 {
	t.Helper()
	for {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			t.Fatal(err)
		}
		const tick = 1 << 30
		part := now.Nano() % tick
		if part > 10_000_000 && part < tick/2 { // the program's clock is some milliseconds late
			return uint32(now.Nano() >> 30)
		}
		time.Sleep(time.Duration(min(tick-part, 5_000_000)))
	}
}

func (d *rig) cursor(service uint32) (cursor xdplbCursor) {
	d.tb.Helper()
	if err := d.maps["cursors"].Lookup(service, &cursor); err != nil {
		d.tb.Fatal(err)
	}
	return cursor
}

// flood sends n SYNs of as many clients, from the first number on.
func (d *rig) flood(t *testing.T, first, n int) {
	t.Helper()
	opening := templateOf(tcpFlags{syn: true}, portPlain)
	for i := range n {
		d.destination(t, opening.of(clientNumber(first+i)))
	}
}

// hashed is the real server that a flow gets in flood mode, of those in a table.
func (d *rig) hashed(client netip.AddrPort, slots []uint32) macAddr {
	hash := d.hashOf(client, service4, unix.IPPROTO_TCP)
	return realMAC(int(slots[uint64(hash.tag())*uint64(len(slots))>>32]) - 100)
}

// takingTurns is a service of rr with a table for floods, in which each real server stands three times and more.
func takingTurns(reals []uint32) virtual {
	s := tcpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_RR, reals...)
	for i := range 32 {
		s.flood = append(s.flood, reals[i*i*i%len(reals)])
	}
	return s
}

func TestFloodMode(t *testing.T) {
	t.Parallel()
	const rate, reals, service = 20, 8, 1
	d := newRig(t, floodAt(rate))
	turns := takingTurns(d.addReals(reals))
	d.publish(
		turns,
		udpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_RR, real1),
		tcpService("[fd00:172::9]:80", xdplbSchedulerSCHEDULER_RR, real1),
	)
	opening, later := templateOf(tcpFlags{syn: true}, portPlain), templateOf(tcpFlags{ack: true}, portPlain)
	old := clientNumber(1_000_000)
	home := d.destination(t, opening.of(old))
	d.run(later.of(old))

	now := earlyTick(t)
	d.turn(0)
	d.flood(t, 0, rate)
	if c := d.cursor(service); c.Floods != 0 || c.FloodUntil != 0 || len(d.flows()) != 1+rate {
		t.Fatalf("at the rate: %+v and %d flows, want no flood and %d flows", c, len(d.flows()), 1+rate)
	}
	d.flood(t, rate, 1)
	recorded := len(d.flows())
	if c := d.cursor(service); c.Floods != 1 || c.FloodUntil != now+floodTicks || recorded != 2+rate {
		t.Fatalf("over the rate: %+v and %d flows, want a flood until tick %d and %d flows", c, recorded, now+floodTicks, 2+rate)
	}

	for i := 100; i < 100+5*rate; i++ {
		client := clientNumber(i)
		if to, want := d.destination(t, opening.of(client)), d.hashed(client, turns.flood); to != want {
			t.Fatalf("SYN %d: to %x, want %x", i, to, want)
		}
	}
	if got := len(d.flows()); got != recorded {
		t.Errorf("%d flows recorded in flood mode", got-recorded)
	}
	if got, want := d.cursor(service).Next, uint64(6*rate+1); got != want {
		t.Errorf("%d turns counted, want %d", got, want)
	}
	if to := d.destination(t, later.of(old)); to != home {
		t.Errorf("established before: to %x, want %x", to, home)
	}
	for i := 100; i < 100+rate; i++ {
		client := clientNumber(i)
		for range 2 {
			if to, want := d.destination(t, later.of(client)), d.hashed(client, turns.flood); to != want {
				t.Fatalf("ACK %d: to %x, want %x", i, to, want)
			}
		}
		flow := d.find(d.hashOf(client, service4, unix.IPPROTO_TCP))
		if flow == nil || flow.state() != stateEstablished {
			t.Fatalf("ACK %d: flow %+v, want it established", i, flow)
		}
	}
	if got := len(d.flows()); got != recorded+rate {
		t.Errorf("%d flows, want %d", got, recorded+rate)
	}

	// a SYN from before the flood that is sent again, as it is for some seconds, has an entry already
	again := clientNumber(0)
	recordedTo := realMAC(int(d.find(d.hashOf(again, service4, unix.IPPROTO_TCP)).backend()) - 100)
	if d.hashed(again, turns.flood) == recordedTo {
		again = clientNumber(1) // the hash would send it to the same
		recordedTo = realMAC(int(d.find(d.hashOf(again, service4, unix.IPPROTO_TCP)).backend()) - 100)
	}
	if to := d.destination(t, opening.of(again)); to != recordedTo {
		t.Errorf("SYN from before the flood: to %x, want %x", to, recordedTo)
	}
	c := d.cursor(service)
	c.FloodSince = now - 9
	d.put("cursors", uint32(service), c)
	if to, want := d.destination(t, opening.of(again)), d.hashed(again, turns.flood); to != want {
		t.Errorf("the same long into the flood: to %x, want %x", to, want)
	}

	// what is no TCP of this service is not in flood mode
	flows := len(d.flows())
	d.run(frame(ip4(), udp(portPlain)))
	d.run(frame(ip6(), syn(portPlain)))
	if got := len(d.flows()); got != flows+2 {
		t.Errorf("%d flows of the other services recorded, want 2", got-flows)
	}
	if d.cursor(2).Floods != 0 || d.cursor(3).Floods != 0 {
		t.Error("the other services are in flood mode too")
	}

	// it goes on while the rate is exceeded, and is one flood
	c = d.cursor(service)
	c.Tick, c.FloodUntil = now-2, now+2
	d.put("cursors", uint32(service), c)
	d.flood(t, 1000, rate+1)
	if c := d.cursor(service); c.Floods != 1 || c.FloodUntil != now+floodTicks {
		t.Errorf("flood goes on: %+v, want until tick %d", c, now+floodTicks)
	}
}

func TestFloodEnds(t *testing.T) {
	t.Parallel()
	const rate, reals, service = 20, 8, 1
	d := newRig(t, floodAt(rate))
	turns := takingTurns(d.addReals(reals))
	d.publish(turns)
	opening, later := templateOf(tcpFlags{syn: true}, portPlain), templateOf(tcpFlags{ack: true}, portPlain)
	for _, c := range []struct {
		name     string
		ago      uint32 // ticks since its end
		flooded  bool
		reckoned bool // a packet from the middle of a connection
	}{
		{"last tick", ^uint32(0), true, true},
		{"end", 0, false, true},
		{"SYNs' timeout", uint32(xdplbTimeoutTIMEOUT_SYN) - 1, false, true},
		{"after it", uint32(xdplbTimeoutTIMEOUT_SYN), false, false},
		{"long after", 100_000, false, false},
	} {
		now := earlyTick(t)
		clear(d.buckets)
		d.put("cursors", uint32(service), xdplbCursor{Next: 5, Tick: now - 1, FloodUntil: now - c.ago, Floods: 1})
		fresh, stray := clientNumber(1), clientNumber(2)
		d.destination(t, opening.of(fresh))
		if got := len(d.flows()) == 0; got != c.flooded {
			t.Errorf("%s: in flood mode: %v, want %v", c.name, got, c.flooded)
		}
		reason, _, out := d.explain(later.of(stray))
		if got := reason == isTX; got != c.reckoned || (!got && reason != isNoConnection) {
			t.Errorf("%s: ACK of no flow: reason %s", c.name, nameOf(reason))
		} else if got && macAddr(out[:6]) != d.hashed(stray, turns.flood) {
			t.Errorf("%s: ACK of no flow to %x, want %x", c.name, out[:6], d.hashed(stray, turns.flood))
		}
		if got := d.find(d.hashOf(stray, service4, unix.IPPROTO_TCP)) != nil; got != c.reckoned {
			t.Errorf("%s: ACK of no flow recorded: %v, want %v", c.name, got, c.reckoned)
		}
	}
	now := earlyTick(t)
	d.put("cursors", uint32(service), xdplbCursor{FloodUntil: now, Floods: 1})
	d.flood(t, 100, rate+1)
	if got := d.cursor(service).Floods; got != 2 {
		t.Errorf("%d floods counted, want 2", got)
	}
	d.put("cursors", uint32(service), xdplbCursor{FloodUntil: now}) // as 0 is near the host's start
	if reason, _, _ := d.explain(later.of(clientNumber(999))); reason != isNoConnection {
		t.Errorf("never flooded: ACK of no flow: reason %s", nameOf(reason))
	}
}

// TestFloodDuringChange: of the handshakes of a flood that are under way while another backend comes for one, few fail.
func TestFloodDuringChange(t *testing.T) {
	const clients, backends, rate = 500, 10, 5
	capacity := small
	capacity.FloodRate = rate
	for _, scheduler := range []lb.Scheduler{lb.RR, lb.WRR, lb.LC, lb.WLC, lb.SED, lb.NQ, lb.OVF, lb.TWOS, lb.LBLC, lb.LBLCR, lb.MH} {
		t.Run(scheduler.String(), func(t *testing.T) {
			attachment := director(t, capacity)
			backend := func(n int) lb.Backend {
				hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 1, byte(n)}, Ifindex: attachment.Ifindex}
				return lb.Backend{Addr: address(false, 2, n), Weight: 1 + uint32(n%3), Hop: hop}
			}
			service := lb.Service{ServiceKey: lb.ServiceKey{Addr: service4, Protocol: lb.TCP}, Scheduler: scheduler}
			for n := range backends {
				service.Backends = append(service.Backends, backend(n))
			}
			var d *Datapath
			publish := func() {
				t.Helper()
				if d != nil {
					d.Close()
				}
				mustChange(t, func(s *lb.State) error { s.Services = []lb.Service{service}; return nil })
				var err error
				if d, err = Open(pinDir); err != nil {
					t.Fatal(err)
				}
			}
			send := func(n int, flags layers.TCP) [6]byte {
				t.Helper()
				return d.send(t, attachment.Ifindex, frameTo(t, attachment.MAC, clientNumber(n), service4, flags))
			}
			publish()
			defer func() { d.Close() }()
			earlyTick(t)
			for n := range 2 * rate {
				send(n, layers.TCP{SYN: true})
			}
			var first [clients][6]byte
			for n := range first {
				first[n] = send(100+n, layers.TCP{SYN: true})
			}
			gone := service.Backends[3].Hop.MAC
			service.Backends = append(slices.Delete(service.Backends, 3, 4), backend(backends))
			publish()
			stay, move := 0, 0
			for n := range first {
				switch {
				case first[n] == gone:
				case send(100+n, layers.TCP{ACK: true}) == first[n]:
					stay++
				default:
					move++
				}
			}
			// the new one's share cannot be helped, a tenth or so; as much again is Maglev's with short tables
			if move > (stay+move)*3/10 {
				t.Errorf("%d handshakes moved, %d did not", move, stay)
			}
			if status, err := d.Status(); err != nil || status.Flows.Floods == 0 {
				t.Errorf("%+v, %v: this test shows nothing", status.Flows, err)
			}
		})
	}
}

// clientSlot is the slot that a client of sh and mh hashes to.
func clientSlot(client netip.Addr, slots int) int {
	words := wordsOf(client)
	hash := mix64(uint64(words[0]))
	if client.Is6() {
		hash = mix64((uint64(words[0])<<32 | uint64(words[1])) ^ mix64(uint64(words[2])<<32|uint64(words[3])))
	}
	return int(uint64(uint32(hash)) * uint64(slots) >> 32)
}

// TestFloodOfHashedService: the client's slot is what it always is, so that nothing moves in a flood.
func TestFloodOfHashedService(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	client := clientNumber(77)
	opening, later := templateOf(tcpFlags{syn: true}, portPlain).of(client), templateOf(tcpFlags{ack: true}, portPlain).of(client)
	for _, c := range []struct {
		name      string
		scheduler xdplbScheduler
		slots     []uint32
		previous  []uint32
		to        macAddr
		opened    int // flows behind the SYN
		flows     int // and behind the ACK
	}{
		{"sh", xdplbSchedulerSCHEDULER_SH, []uint32{real1}, nil, real1MAC, 0, 1},
		{"mh, settled", xdplbSchedulerSCHEDULER_MH, []uint32{real1}, nil, real1MAC, 0, 0},
		// else the ACK, of no flow, would go where connections from before the change are
		{"mh, unsettled", xdplbSchedulerSCHEDULER_MH, []uint32{real1 | unsettled}, []uint32{real2}, real1MAC, 1, 1},
		{"mh, unsettled and new", xdplbSchedulerSCHEDULER_MH, []uint32{real1 | unsettled}, nil, real1MAC, 1, 1},
	} {
		clear(d.buckets)
		s := tcpService("172.10.0.9:80", c.scheduler, c.slots...)
		s.previous = c.previous
		d.publish(s)
		d.put("cursors", uint32(1), xdplbCursor{FloodUntil: nowTicks(t) + 20, Floods: 1})
		if to := d.destination(t, opening); to != c.to {
			t.Errorf("%s: SYN to %x, want %x", c.name, to, c.to)
		}
		if got := len(d.flows()); got != c.opened {
			t.Errorf("%s: %d flows behind the SYN, want %d", c.name, got, c.opened)
		}
		for range 2 {
			if to := d.destination(t, later); to != c.to {
				t.Errorf("%s: ACK to %x, want %x", c.name, to, c.to)
			}
		}
		if got := len(d.flows()); got != c.flows {
			t.Errorf("%s: %d flows behind the ACK, want %d", c.name, got, c.flows)
		}
	}
}

// TestFloodOverStaleEntry: a connection that begins in a flood does not follow what an earlier one of its tuple has left,
// whose backend is gone.
func TestFloodOverStaleEntry(t *testing.T) {
	t.Parallel()
	const reals = 8
	d := newRig(t)
	client := clientNumber(78)
	hash := d.hashOf(client, service4, unix.IPPROTO_TCP)
	opening, later := templateOf(tcpFlags{syn: true}, portPlain).of(client), templateOf(tcpFlags{ack: true}, portPlain).of(client)
	leave := func() {
		t.Helper()
		clear(d.buckets)
		d.put("cursors", uint32(1), xdplbCursor{})
		d.destination(t, opening)
		home := d.homeOf(hash)
		for way, entry := range d.bucket(home).Entry {
			if entry.word() != 0 {
				entry.Target = targetOf(entry.backend(), generation(entry.backend())-1)
				d.setEntry(home, way, entry)
			}
		}
		now := earlyTick(t)
		d.put("cursors", uint32(1), xdplbCursor{Next: 3, FloodSince: now, FloodUntil: now + 20, Floods: 1})
	}

	turns := takingTurns(d.addReals(reals))
	d.publish(turns)
	leave()
	for i, in := range [][]byte{opening, later, later} {
		if to, want := d.destination(t, in), d.hashed(client, turns.flood); to != want {
			t.Errorf("rr, packet %d: to %x, want %x", i, to, want)
		}
	}

	settled := tcpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_MH, real1)
	d.publish(settled)
	leave()
	if to := d.destination(t, opening); to != real1MAC {
		t.Errorf("mh: SYN to %x, want %x", to, real1MAC)
	}
	changed := tcpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_MH, real2|unsettled)
	changed.previous = []uint32{real1}
	d.publish(changed)
	for range 2 {
		if to := d.destination(t, later); to != real1MAC {
			t.Errorf("mh: ACK after the slot has changed to %x, want %x", to, real1MAC)
		}
	}
}

// TestHashedConnectionIsNotRecordedFromItsMiddle, or a flood of ACKs would fill the table.
func TestHashedConnectionIsNotRecordedFromItsMiddle(t *testing.T) {
	t.Parallel()
	for name, scheduler := range map[string]xdplbScheduler{"sh": xdplbSchedulerSCHEDULER_SH, "mh": xdplbSchedulerSCHEDULER_MH} {
		d := newRig(t)
		const reals = 8
		d.publish(everywhere(portPlain, scheduler, d.addReals(reals)...)...)
		for i := range 50 {
			client := clientNumber(i).Addr()
			for _, flags := range []tcpFlags{{ack: true}, {fin: true, ack: true}, {rst: true}} {
				in := frame(ip4(from4(client)), tcp(clientPort, portPlain, flags))
				if to, want := d.destination(t, in), realMAC(clientSlot(client, reals)); to != want {
					t.Fatalf("%s, client %v: to %x, want %x", name, client, to, want)
				}
			}
		}
		d.destination(t, frame(ip6(), ack(portPlain)))
		d.wantFlows(t, name)
		for id := range uint32(reals) {
			if got := d.counters(100 + id).Connections; got != 0 {
				t.Errorf("%s: %d connections of backend %d counted", name, got, id)
			}
		}
	}
}

// TestSettledSlots: connections of a settled slot go by the table alone; those of an unsettled one by their flow, or
// else to the slot's owner before.
func TestSettledSlots(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	at := netip.AddrPortFrom(client4, clientPort)
	for _, c := range []struct {
		name     string
		slots    []uint32
		previous []uint32
		flow     uint32 // backend of the connection's entry, 0: none
		in       []byte
		reason   xdplbReason
		to       macAddr
		records  uint32 // backend of the entry afterwards
	}{
		{name: "settled", slots: []uint32{real1}, in: frame(ip4(), ack(portPlain)), to: real1MAC},
		{name: "settled: entries are not looked at", slots: []uint32{real1}, flow: real2, in: frame(ip4(), ack(portPlain)), to: real1MAC, records: real2},
		{name: "settled: FIN", slots: []uint32{real1}, flow: real2, in: frame(ip4(), finAck()), to: real1MAC, records: real2},
		{name: "settled: a SYN follows its entry", slots: []uint32{real1}, flow: real2, in: frame(ip4(), syn(portPlain)), to: real2MAC, records: real2},
		{name: "settled: an ICMP error about a connection without an entry", slots: []uint32{real1}, in: error4(3, 4, quote4(28)), to: real1MAC},
		{name: "unsettled: an ICMP error about a connection without an entry", slots: []uint32{real1 | unsettled}, in: error4(3, 4, quote4(28)), reason: isICMPUnmatched},
		{name: "settled, others have an owner before", slots: []uint32{real1}, previous: []uint32{real2}, in: frame(ip4(), ack(portPlain)), to: real1MAC},
		{name: "unsettled: by its entry", slots: []uint32{real1 | unsettled}, previous: []uint32{real1}, flow: real2, in: frame(ip4(), ack(portPlain)), to: real2MAC, records: real2},
		{name: "unsettled: owner before", slots: []uint32{real1 | unsettled}, previous: []uint32{real2}, in: frame(ip4(), ack(portPlain)), to: real2MAC, records: real2},
		{name: "unsettled: new connection", slots: []uint32{real1 | unsettled}, previous: []uint32{real2}, in: frame(ip4(), syn(portPlain)), to: real1MAC, records: real1},
		{name: "unsettled: no owner before", slots: []uint32{real1 | unsettled}, previous: []uint32{0}, in: frame(ip4(), ack(portPlain)), to: real1MAC, records: real1},
		{name: "unsettled: nothing before", slots: []uint32{real1 | unsettled}, in: frame(ip4(), ack(portPlain)), to: real1MAC, records: real1},
		{name: "quiesced: owner before", slots: []uint32{unsettled}, previous: []uint32{real2}, in: frame(ip4(), ack(portPlain)), to: real2MAC, records: real2},
		{name: "quiesced: by its entry", slots: []uint32{unsettled}, previous: []uint32{real2}, flow: real1, in: frame(ip4(), ack(portPlain)), to: real1MAC, records: real1},
		{name: "quiesced: new connection", slots: []uint32{unsettled}, previous: []uint32{real2}, in: frame(ip4(), syn(portPlain)), reason: isNoBackend},
		{name: "no slots", in: frame(ip4(), ack(portPlain)), reason: isNoBackend},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer d.reportTo(t)()
			clear(d.buckets)
			s := tcpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_MH, c.slots...)
			s.previous = c.previous
			d.publish(s)
			hash := d.hashOf(at, service4, unix.IPPROTO_TCP)
			if c.flow != 0 {
				d.run(frame(ip4(), syn(portPlain)))
				if d.find(hash) == nil { // the slot takes none
					d.publish(tcpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_MH, real1))
					d.run(frame(ip4(), syn(portPlain)))
					d.publish(s)
				}
				home := d.homeOf(hash)
				for way, entry := range d.bucket(home).Entry {
					if entry.word() != 0 {
						entry.Target = firstTarget(c.flow)
						d.setEntry(home, way, entry)
					}
				}
			}
			reason, _, out := d.explain(c.in)
			if reason != c.reason {
				t.Fatalf("reason %s, want %s", nameOf(reason), nameOf(c.reason))
			}
			if reason == isTX && macAddr(out[:6]) != c.to {
				t.Errorf("to %x, want %x", out[:6], c.to)
			}
			got := uint32(0)
			if flow := d.find(hash); flow != nil {
				got = flow.backend()
			}
			if got != c.records {
				t.Errorf("afterwards its entry names backend %d, want %d", got, c.records)
			}
		})
	}
}

// TestFloodRate: the rate that was asked for at attach is the program's.
func TestFloodRate(t *testing.T) {
	t.Parallel()
	const rate = 5
	capacity := small
	capacity.FloodRate = rate
	attachment := director(t, capacity)
	key := lb.ServiceKey{Addr: service4, Protocol: lb.TCP}
	hop := lb.NextHop{MAC: real1MAC, Ifindex: attachment.Ifindex}
	mustChange(t, func(s *lb.State) error {
		return s.AddService(lb.Service{ServiceKey: key, Scheduler: lb.RR, Backends: []lb.Backend{{Addr: address(false, 2, 1), Weight: 1, Hop: hop}}})
	})
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	send := func(n int) {
		d.send(t, attachment.Ifindex, frameTo(t, attachment.MAC, clientNumber(n), service4, layers.TCP{SYN: true}))
	}
	earlyTick(t)
	for n := range rate {
		send(n)
	}
	for want := range 2 {
		status, err := d.Status()
		if err != nil {
			t.Fatal(err)
		}
		if status.Flows.Floods != uint64(want) || status.Flows.FloodRate != rate {
			t.Errorf("%d new connections: %+v, want %d floods", rate+want, status.Flows, want)
		}
		send(rate + want)
	}
}
