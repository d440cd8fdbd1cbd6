// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"xdplb/internal/lb"
)

// adoptive attaches, and makes a state with a service of each scheduler, family and protocol, with three backends each.
func adoptive(t testing.TB, capacity Capacity) (Attachment, lb.State) {
	t.Helper()
	attachment := director(t, capacity)
	var services []lb.Service
	for i, scheduler := range []lb.Scheduler{lb.RR, lb.WRR, lb.SH, lb.MH} {
		for j, protocol := range []lb.Protocol{lb.TCP, lb.UDP, lb.TCP, lb.UDP} {
			is6 := j >= 2
			service := lb.Service{
				ServiceKey: lb.ServiceKey{Addr: addrPort(address(is6, 1, i), 80), Protocol: protocol}, Scheduler: scheduler,
			}
			for n := range 3 {
				hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 1, byte(n)}, Ifindex: attachment.Ifindex}
				service.Backends = append(service.Backends, lb.Backend{Addr: address(is6, 2, n), Weight: 1, Hop: hop})
			}
			services = append(services, service)
		}
	}
	state, err := lb.NewState(services)
	if err != nil {
		t.Fatal(err)
	}
	return attachment, state
}

// elsewhere are connections to every service, the nth of which another load balancer has given to backend n % 3.
func elsewhere(state lb.State, clients int) (connections []Connection) {
	for _, s := range state.Services {
		for n := range clients {
			c := Connection{
				Service: s.ServiceKey, Client: addrPort(address(s.Addr.Addr().Is6(), 9, n), uint16(2000+n)),
				VIPPort: s.Addr.Port(), Backend: s.Backends[n%3].Addr, State: StateEstablished, Left: 600 * time.Second,
			}
			if s.Protocol == lb.UDP {
				c.State, c.Left = StateUDP, 200*time.Second
			}
			connections = append(connections, c)
		}
	}
	return connections
}

// packetOf makes a frame of a connection. flags are TCP's.
func packetOf(t testing.TB, mac [6]byte, c Connection, flags layers.TCP) []byte {
	t.Helper()
	at := netip.AddrPortFrom(c.Service.Addr.Addr(), c.VIPPort)
	in := frameTo(t, mac, c.Client, at, flags)
	if c.Service.Protocol == lb.TCP {
		return in
	}
	ethernet := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 99}, DstMAC: mac[:], EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer = &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: c.Client.Addr().AsSlice(), DstIP: at.Addr().AsSlice(),
	}
	if at.Addr().Is6() {
		ethernet.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{
			Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: c.Client.Addr().AsSlice(), DstIP: at.Addr().AsSlice(),
		}
	}
	udp := &layers.UDP{SrcPort: layers.UDPPort(c.Client.Port()), DstPort: layers.UDPPort(at.Port())}
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true}, ethernet, ip, udp, gopacket.Payload(make([]byte, 20)))
	if err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// opened opens the pins for reading until the test is over.
func opened(t testing.TB) *Datapath {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// wantNext sends the next packet of each connection, which must go to its backend.
func wantNext(t testing.TB, d *Datapath, attachment Attachment, state lb.State, connections []Connection) {
	t.Helper()
	wrong := 0
	for _, c := range connections {
		service, _ := state.Service(c.Service)
		backend, _ := service.Backend(c.Backend)
		if to := d.send(t, attachment.Ifindex, packetOf(t, attachment.MAC, c, layers.TCP{ACK: true})); to != backend.Hop.MAC {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d connections moved", wrong, len(connections))
	}
}

// TestTakeOver adopts connections of all kinds together with their services. Their next packets go to the backends that
// they had, and the listing shows them as they were given.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	attachment, state := adoptive(t, Capacity{Flows: 16384, Services: 64, Backends: 512})
	connections := elsewhere(state, 40)
	plan, done, err := TakeOver(pinDir, to(state), connections)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Adoption{Adopted: len(connections)}); done != want || len(plan.Changes) == 0 {
		t.Errorf("%+v, %d changes; want %+v", done, len(plan.Changes), want)
	}
	d := opened(t)
	type key struct {
		service lb.ServiceKey
		client  netip.AddrPort
	}
	want := make(map[key]Connection)
	for _, c := range connections {
		want[key{c.Service, c.Client}] = c
	}
	eachConnection(t, d, func(c Connection) {
		was := want[key{c.Service, c.Client}]
		if off := (was.Left - c.Left).Abs(); off > 4*Tick {
			t.Errorf("%s of %s has %s left, want %s", c.Client, c.Service, c.Left, was.Left)
		}
		if c.Left = was.Left; c != was {
			t.Errorf("listed %+v, want %+v", c, was)
		}
		delete(want, key{c.Service, c.Client})
	})
	if len(want) != 0 {
		t.Errorf("%d connections are not listed", len(want))
	}
	wantNext(t, d, attachment, state, connections)
	if t.Failed() {
		return
	}
	d.Close()

	// Once more: they are known.
	_, done, err = TakeOver(pinDir, func(*lb.State) error { return nil }, connections)
	if want := (Adoption{Known: len(connections)}); done != want || err != nil {
		t.Errorf("again: %+v, error %v; want %+v", done, err, want)
	}
	checkTidy(t)
}

// TestTakeOverLeavesOthersAlone: a connection that was opened here stays where it is, one that is over makes room.
func TestTakeOverLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	attachment, state := adoptive(t, small)
	mustChange(t, to(state))
	var connections []Connection
	for _, c := range elsewhere(state, 6) {
		if service, _ := state.Service(c.Service); service.Scheduler == lb.RR && c.Service.Protocol == lb.TCP {
			connections = append(connections, c)
		}
	}
	here := make([][6]byte, len(connections))
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range connections {
		here[i] = d.send(t, attachment.Ifindex, packetOf(t, attachment.MAC, c, layers.TCP{SYN: true}))
		if i%2 == 1 {
			fin := packetOf(t, attachment.MAC, c, layers.TCP{ACK: true})
			fin[len(fin)-20-20+13] |= 1
			d.send(t, attachment.Ifindex, fin)
		}
		connections[i].Backend = connections[(i+1)%3].Backend
		if service, _ := state.Service(c.Service); c.Service.Addr.Addr().Is6() {
			connections[i].Backend = service.Backends[i%3].Addr
		}
	}
	d.Close()
	_, done, err := TakeOver(pinDir, func(*lb.State) error { return nil }, connections)
	if want := (Adoption{Adopted: 6, Known: 6}); err != nil || done != want {
		t.Fatalf("%+v, error %v; want %+v", done, err, want)
	}
	d = opened(t)
	for i, c := range connections {
		service, _ := state.Service(c.Service)
		backend, _ := service.Backend(c.Backend)
		want := here[i]
		if i%2 == 1 {
			want = backend.Hop.MAC
		}
		if got := d.send(t, attachment.Ifindex, packetOf(t, attachment.MAC, c, layers.TCP{ACK: true})); got != want {
			t.Errorf("connection %d goes to %x, want %x", i, got, want)
		}
	}
}

// TestTakeOverLooksAtTheClock: a connection that is opened here while many others are adopted is no old one.
func TestTakeOverLooksAtTheClock(t *testing.T) {
	t.Parallel()
	attachment, state := adoptive(t, small)
	mustChange(t, to(state))
	d := opened(t)
	program, err := d.program.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	homeOf := func(c Connection) uint32 {
		return hashFlow(d.meta.HashKeys, c.Client, c.Service.Addr, uint8(c.Service.Protocol)).home(d.meta.FlowBuckets)
	}
	connections := elsewhere(state, 20)[:20] // TCP, rr
	next := 1
	for homeOf(connections[next]) == homeOf(connections[0]) {
		next++
	}
	first, later := connections[0], connections[next]
	d.Close()
	waited := false
	_, done, err := takeOver(pinDir, options{timeout: LockTimeout, after: func(string) error {
		if waited {
			return nil
		}
		waited = true
		time.Sleep(3 * Tick)
		if _, sent := sentTo(program, attachment.Ifindex, packetOf(t, attachment.MAC, later, layers.TCP{SYN: true})); !sent {
			t.Error("the SYN was not forwarded")
		}
		return nil
	}}, func(*lb.State) error { return nil }, []Connection{first, later})
	if want := (Adoption{Adopted: 1, Known: 1}); err != nil || done != want {
		t.Errorf("%+v, error %v; want %+v", done, err, want)
	}
}

// TestTakeOverRefusals changes nothing.
func TestTakeOverRefusals(t *testing.T) {
	t.Parallel()
	_, state := adoptive(t, small)
	connections := elsewhere(state, 1)
	for _, test := range []struct {
		spoil func(*Connection)
		words string
	}{
		{func(c *Connection) { c.Service.Protocol = lb.SCTP }, "its service SCTP 10.1.0.1:80 does not exist"},
		{func(c *Connection) { c.Backend = address(false, 2, 7) }, "backend 10.2.0.8 of TCP 10.1.0.1:80 does not exist"},
	} {
		spoilt := append([]Connection{}, connections...)
		test.spoil(&spoilt[0])
		_, _, err := TakeOver(pinDir, to(state), spoilt)
		wantError(t, err, test.words)
		if !errors.Is(err, lb.ErrNotFound) {
			t.Errorf("error %v is no ErrNotFound", err)
		}
	}
	if got := snapshot(t); len(got.Services) != 0 {
		t.Errorf("%d services, want none", len(got.Services))
	}
}

// TestTakeOverFullTable: what finds room is found by its packets, and the others are counted.
func TestTakeOverFullTable(t *testing.T) {
	t.Parallel()
	attachment, state := adoptive(t, Capacity{Flows: 5, Services: 64, Backends: 512}) // one bucket, and one for the rest
	connections := elsewhere(state, 3)[:13]
	_, done, err := TakeOver(pinDir, to(state), connections)
	if want := (Adoption{Adopted: 10, NoRoom: 3}); err != nil || done != want {
		t.Fatalf("%+v, error %v; want %+v", done, err, want)
	}
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	wantNext(t, d, attachment, state, connections[:10])
	d.Close()
	_, done, err = TakeOver(pinDir, to(state), connections)
	if want := (Adoption{Known: 10, NoRoom: 3}); err != nil || done != want {
		t.Errorf("again: %+v, error %v; want %+v", done, err, want)
	}
	d = opened(t)
	listed := make(map[string]bool)
	eachConnection(t, d, func(c Connection) { listed[c.Client.String()+c.Service.String()] = true })
	if len(listed) != 10 {
		t.Errorf("%d connections listed, want 10", len(listed))
	}
}

// TestTakeOverBesidePackets adopts while two CPUs open connections in the same buckets: no packet finds a bucket's
// entries mixed up, no connection moves, and all buckets are open at the end.
func TestTakeOverBesidePackets(t *testing.T) {
	t.Parallel()
	attachment, state := adoptive(t, Capacity{Flows: 4096, Services: 64, Backends: 512})
	mustChange(t, to(state))
	d := opened(t)
	program, err := d.program.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	d.Close()
	var service lb.Service
	for _, s := range state.Services {
		if s.Scheduler == lb.RR && s.Protocol == lb.TCP && s.Addr.Addr().Is4() {
			service = s
		}
	}
	type opening struct {
		client netip.AddrPort
		to     [6]byte
	}
	var stop atomic.Bool
	results := make(chan []opening, 2)
	for cpu := range 2 {
		go func() {
			var all []opening
			for n := 0; !stop.Load(); n++ {
				c := Connection{Service: service.ServiceKey, VIPPort: service.Addr.Port(), Client: addrPort(address(false, 20+cpu, n%600), uint16(3000+n/600))}
				if to, sent := sentTo(program, attachment.Ifindex, packetOf(t, attachment.MAC, c, layers.TCP{SYN: true})); sent && len(all) < 600 {
					// One of which only a SYN was seen may have made room for another since.
					again, found := sentTo(program, attachment.Ifindex, packetOf(t, attachment.MAC, c, layers.TCP{ACK: true}))
					all = append(all, opening{c.Client, to})
					if found && again != to {
						t.Errorf("%s: the SYN went to %x, the ACK to %x", c.Client, to, again)
					}
				}
			}
			results <- all
		}()
	}
	connections := elsewhere(state, 60)
	_, done, err := TakeOver(pinDir, func(*lb.State) error { return nil }, connections)
	stop.Store(true)
	sent := append(<-results, <-results...)
	if err != nil || done.Adopted+done.NoRoom != len(connections) || done.NoRoom > len(connections)/10 {
		t.Errorf("%+v of %d, error %v", done, len(connections), err)
	}
	d = opened(t)
	if done.NoRoom == 0 {
		wantListed(t, d, state, connections)
	}
	for i := range d.meta.FlowBuckets + d.meta.SpillBuckets {
		if head := d.bucket(t, int(i)).Head; head&uint32(xdplbHeadHEAD_LOCKED) != 0 {
			t.Errorf("bucket %d is locked", i)
		}
	}
	t.Logf("%+v beside %d connections opened", done, len(sent))
}

// wantListed wants every connection that is listed to be with its backend.
func wantListed(t testing.TB, d *Datapath, state lb.State, connections []Connection) {
	t.Helper()
	backend := make(map[string]netip.Addr)
	for _, c := range connections {
		backend[c.Service.String()+c.Client.String()] = c.Backend
	}
	eachConnection(t, d, func(c Connection) {
		if want, ours := backend[c.Service.String()+c.Client.String()]; ours && c.Backend != want {
			t.Errorf("%s of %s is with %s, want %s", c.Client, c.Service, c.Backend, want)
		}
	})
}

// eachConnection visits what is listed.
func eachConnection(t testing.TB, d *Datapath, visit func(Connection)) {
	t.Helper()
	list, err := d.Connections()
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	list.Walk(func(c Connection) bool {
		visit(c)
		return true
	})
}

// sentTo runs the program on a frame, and says where it sends it, if it does.
func sentTo(program *ebpf.Program, ifindex int, frame []byte) (to [6]byte, sent bool) {
	context := struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }{
		DataEnd: uint32(len(frame)), IngressIfindex: uint32(ifindex),
	}
	out := make([]byte, len(frame)+64)
	verdict, err := program.Run(&ebpf.RunOptions{Data: frame, DataOut: out, Context: context, Repeat: 1})
	return [6]byte(out), err == nil && verdict == 3
}

// TestTakeOverAndPacketsTakeTurns: while a packet has a bucket, nothing is written there, and the reverse.
func TestTakeOverAndPacketsTakeTurns(t *testing.T) {
	t.Parallel()
	attachment, state := adoptive(t, Capacity{Flows: 5, Services: 64, Backends: 512})
	mustChange(t, to(state))
	d := opened(t)
	buckets, err := mapArray[xdplbBucket](d.maps.Flows)
	if err != nil {
		t.Fatal(err)
	}
	defer buckets.close()
	program, err := d.program.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	d.Close()
	connections := elsewhere(state, 2)[:2]
	stranger := connections[1]
	open := func() bool {
		_, sent := sentTo(program, attachment.Ifindex, packetOf(t, attachment.MAC, stranger, layers.TCP{SYN: true}))
		return sent
	}
	head := &buckets.values[0].Head
	atomic.StoreUint32(head, uint32(xdplbHeadHEAD_LOCKED)) // as a packet would
	left := make(chan bool, 1)
	go func() {
		time.Sleep(50 * time.Millisecond)
		left <- buckets.values[0].load(0) == xdplbEntry{}
		atomic.StoreUint32(head, 0)
	}()
	noEdit := func(*lb.State) error { return nil }
	var during []bool
	_, done, err := takeOver(pinDir, options{timeout: LockTimeout, after: func(step string) error {
		if step != "adopting connections" {
			during = append(during, open())
		}
		return nil
	}}, noEdit, connections[:1])
	if err != nil || done.Adopted != 1 {
		t.Fatalf("%+v, error %v", done, err)
	}
	if !<-left {
		t.Error("a connection was written while a packet had the bucket")
	}
	if diff := cmp.Diff([]bool{false, false, false, false}, during); diff != "" {
		t.Errorf("packets recorded while connections were written (-want +got):\n%s", diff)
	}
	if !open() {
		t.Error("the bucket stays locked")
	}
}

// TestTakeOverKilled ends it after each of its writes. The next writer opens the bucket, and what was adopted until then
// and what is adopted after it goes where it went.
func TestTakeOverKilled(t *testing.T) {
	t.Parallel()
	attachment, state := adoptive(t, Capacity{Flows: 5, Services: 64, Backends: 512})
	mustChange(t, to(state))
	connections := elsewhere(state, 1)[:6] // five at home, and one more
	killed := errors.New("killed")
	noEdit := func(*lb.State) error { return nil }
	for end := 1; ; end++ {
		if end == 5 {
			end = 21 // the second to fifth are as the first
		}
		steps, last := 0, ""
		_, _, err := takeOver(pinDir, options{timeout: LockTimeout, after: func(step string) error {
			steps, last = steps+1, step
			if steps == end {
				return killed
			}
			return nil
		}}, noEdit, connections)
		if err == nil {
			if steps != 26 {
				t.Errorf("%d steps, want 4 for a connection at home, 5 for another, and 1", steps)
			}
			break
		}
		mustChange(t, noEdit)
		what := fmt.Sprintf("ended after step %d, %s", end, last)
		d, err := Open(pinDir)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if head := d.bucket(t, i).Head; head&uint32(xdplbHeadHEAD_LOCKED) != 0 {
				t.Fatalf("%s: bucket %d is still locked", what, i)
			}
		}
		if words := [2]uint64{d.config.load(configHome), d.config.load(configSpill)}; words != [2]uint64{} {
			t.Errorf("%s: config says %v", what, words)
		}
		d.Close()
		_, done, err := TakeOver(pinDir, noEdit, connections)
		if err != nil || done.Adopted+done.Known != len(connections) {
			t.Fatalf("%s: %+v, error %v", what, done, err)
		}
		if d, err = Open(pinDir); err != nil {
			t.Fatal(err)
		}
		wantNext(t, d, attachment, state, connections)
		if t.Failed() {
			t.Fatal(what)
		}
		for i := range 2 {
			if err := d.maps.Flows.Put(uint32(i), xdplbBucket{}); err != nil {
				t.Fatal(err)
			}
		}
		d.Close()
	}
}

// TestOpenLockedSparesPackets: a bucket that a packet has locked is not opened, though a killed process had named it.
func TestOpenLockedSparesPackets(t *testing.T) {
	t.Parallel()
	director(t, small)
	d := opened(t)
	buckets, err := mapArray[xdplbBucket](d.maps.Flows)
	if err != nil {
		t.Fatal(err)
	}
	defer buckets.close()
	var stop atomic.Bool
	ended := make(chan uint32)
	go func() { // as packets on another CPU, one after the other
		head := &buckets.values[2].Head
		for !stop.Load() {
			atomic.StoreUint32(head, uint32(xdplbHeadHEAD_LOCKED))
			time.Sleep(time.Millisecond)
			if !atomic.CompareAndSwapUint32(head, uint32(xdplbHeadHEAD_LOCKED), 0) {
				t.Error("the bucket was opened while a packet had it")
			}
			time.Sleep(time.Millisecond)
		}
		ended <- atomic.LoadUint32(head)
	}()
	for range 10 {
		d.config.store(configHome, 3)
		if err := d.openLocked(); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	if diff := cmp.Diff(uint32(0), <-ended); diff != "" {
		t.Errorf("head (-want +got):\n%s", diff)
	}
	if got := d.config.load(configHome); got != 0 {
		t.Errorf("config says %d, want 0", got)
	}
}
