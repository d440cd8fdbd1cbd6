// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The states, in short.
const (
	stateSYN         = xdplbFlowStateFLOW_SYN
	stateEstablished = xdplbFlowStateFLOW_ESTABLISHED
	stateFIN         = xdplbFlowStateFLOW_FIN
	stateTimeWait    = xdplbFlowStateFLOW_TIME_WAIT
	stateClosed      = xdplbFlowStateFLOW_CLOSED
	stateDatagram    = xdplbFlowStateFLOW_DATAGRAM
	stateUDP         = xdplbFlowStateFLOW_UDP
)

// template makes frames of many clients fast: all are one frame with another source.
type template []byte

// marks is how many the program has for connections on settled slots (MARKS in bpf/schedule.h).
const marks = 65536

func templateOf(flags tcpFlags, port uint16) template {
	return frame(ip4(), tcp(clientPort, port, flags))
}

// of is the frame from an IPv4 client; its checksums are the template's, which the program does not look at.
func (t template) of(client netip.AddrPort) []byte {
	const address, port = 14 + 12, 14 + 20
	out := slices.Clone(t)
	copy(out[address:], client.Addr().AsSlice())
	binary.BigEndian.PutUint16(out[port:], client.Port())
	return out
}

// clientNumber is another client for each number, scattered: numbers one behind the other would fill buckets evenly.
func clientNumber(n int) netip.AddrPort {
	random := mix64(uint64(n) + 1)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(random >> 16), byte(random >> 8), byte(random)}), uint16(random>>24))
}

var service4 = netip.AddrPortFrom(vip4, portPlain)

// clientsWith are the first n clients whose connections to a service have such a hash.
func (d *rig) clientsWith(n int, service netip.AddrPort, fits func(flowHash) bool) (clients []netip.AddrPort) {
	for i := 0; len(clients) < n; i++ {
		if client := clientNumber(i); fits(d.hashOf(client, service, unix.IPPROTO_TCP)) {
			clients = append(clients, client)
		}
	}
	return clients
}

// TestHashOfAFlow: the tests here and the program agree on where a flow belongs.
func TestHashOfAFlow(t *testing.T) {
	t.Parallel()
	d := newPair(t)
	for i := range 100 {
		port := uint16(3000 + 7*i)
		client, at := client4, service4
		in := frame(ip4(), tcp(port, portPlain, tcpFlags{syn: true}))
		if i%2 == 1 {
			client, at = client6, netip.AddrPortFrom(vip6, portPlain)
			in = frame(ip6(), tcp(port, portPlain, tcpFlags{syn: true}))
		}
		d.run(in)
		hash := d.hashOf(netip.AddrPortFrom(client, port), at, unix.IPPROTO_TCP)
		bucket := d.bucket(d.homeOf(hash))
		if way := slices.Index(bucket.Tag[:], hash.tag()); way < 0 || bucket.Entry[way].Status&statusCheck != hash.check() {
			t.Fatalf("%v: bucket %+v, want %+v in it", client, bucket, hash)
		}
	}
}

// TestHashScatters: of flows that are alike but for a number that counts up, hardly more crowd in a bucket than of any others,
// whatever the keys are.
func TestHashScatters(t *testing.T) {
	t.Parallel()
	const flows, home, spill, keys = 512, 205, 103, 500 // a table for 1,024 flows
	counting := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}) }
	random := rand.New(rand.NewPCG(1, 2))
	for name, flow := range map[string]func(n int) (client, at netip.AddrPort){
		"clients": func(n int) (client, at netip.AddrPort) { return netip.AddrPortFrom(counting(n), clientPort), service4 },
		"ports": func(n int) (client, at netip.AddrPort) {
			return netip.AddrPortFrom(client4, uint16(30000+n)), service4
		},
		"VIPs": func(n int) (client, at netip.AddrPort) {
			return netip.AddrPortFrom(client4, clientPort), netip.AddrPortFrom(counting(n), portPlain)
		},
		"VIP ports": func(n int) (client, at netip.AddrPort) {
			return netip.AddrPortFrom(client4, clientPort), netip.AddrPortFrom(vip4, uint16(n))
		},
	} {
		for range keys {
			var keys [len(xdplbMeta{}.HashKeys)]uint64
			for i := range keys {
				keys[i] = random.Uint64() | 1
			}
			var first [home]uint32
			var second [spill]uint32
			spilled, lost := 0, 0
			for n := range flows {
				client, at := flow(n)
				hash := hashFlow(keys, client, at, unix.IPPROTO_TCP)
				if first[hash.home(home)]++; first[hash.home(home)] <= ways {
					continue
				}
				spilled++
				if second[hash.spill(spill)]++; second[hash.spill(spill)] > ways {
					lost++
				}
			}
			if spilled > flows/4 || lost > 0 { // 12 of 512 is what random numbers give
				t.Errorf("%s: %d of %d spill, %d are lost, with the keys %x", name, spilled, flows, lost, keys)
			}
		}
	}
}

// TestFlowsOfOneTag: of flows with one tag in one bucket, the byte in the entry tells which is which.
func TestFlowsOfOneTag(t *testing.T) {
	t.Parallel()
	d := newPair(t, tableOf(1, 1))
	seen := map[uint32]netip.AddrPort{}
	var one, other netip.AddrPort
	for i := 0; !one.IsValid(); i++ {
		other = clientNumber(i)
		hash := d.hashOf(other, service4, unix.IPPROTO_TCP)
		if before, ok := seen[hash.tag()]; ok && d.hashOf(before, service4, unix.IPPROTO_TCP).check() != hash.check() {
			one = before
		}
		seen[hash.tag()] = other
	}
	opening, later := templateOf(tcpFlags{syn: true}, portPlain), templateOf(tcpFlags{ack: true}, portPlain)
	d.destination(t, opening.of(one))
	d.destination(t, opening.of(other))
	for client, want := range map[netip.AddrPort]macAddr{one: real1MAC, other: real2MAC} {
		if to := d.destination(t, later.of(client)); to != want {
			t.Errorf("%v: to %x, want %x", client, to, want)
		}
	}
	if got := len(d.flows()); got != 2 {
		t.Errorf("%d flows, want 2", got)
	}
}

// resident is an entry that a test finds in a bucket: how it got there does not matter.
type resident struct {
	state xdplbFlowState
	age   uint32
	gone  bool // its backend has been removed
}

// TestWayOfANewFlow: all flows share one bucket and one spill bucket, and a new one comes.
func TestWayOfANewFlow(t *testing.T) {
	t.Parallel()
	const free = -1
	established := resident{state: stateEstablished, age: 100}
	full := [ways]resident{established, established, established, established, established}
	expired := resident{state: stateEstablished, age: uint32(xdplbTimeoutTIMEOUT_ESTABLISHED) + 1}
	opening := func(age uint32) resident { return resident{state: stateSYN, age: age} }
	single := func(age uint32) resident { return resident{state: stateDatagram, age: age} }
	answered := resident{state: stateUDP, age: 9}
	datagram, aSYN := frame(ip4(), udp(portPlain)), frame(ip4(), syn(portPlain))
	type counts = [xdplbEvictionEVICTION_COUNT]uint64
	d := newPair(t, tableOf(1, 1))
	for _, c := range []struct {
		name        string
		home, spill [ways]resident
		in          []byte
		bucket      uint32
		way         int
		evicted     counts
	}{
		{name: "empty", in: aSYN, way: free},
		{name: "free before expired", in: aSYN, way: free,
			home: [ways]resident{established, expired, opening(9), {}, established}},
		{name: "expired before embryonic", in: datagram, way: 2, evicted: counts{xdplbEvictionEVICTION_EXPIRED: 1},
			home: [ways]resident{established, opening(9), expired, established, established}},
		{name: "expired for a SYN", in: aSYN, way: 4, evicted: counts{xdplbEvictionEVICTION_EXPIRED: 1},
			home: [ways]resident{established, established, established, established, expired}},
		{name: "datagram that is idle for too long", in: aSYN, way: 0, evicted: counts{xdplbEvictionEVICTION_EXPIRED: 1},
			home: [ways]resident{{state: stateUDP, age: uint32(xdplbTimeoutTIMEOUT_UDP) + 1}, established, established, established, established}},
		{name: "datagram that is not", in: aSYN, bucket: 1, way: free, evicted: counts{xdplbEvictionEVICTION_SPILLED: 1},
			home: [ways]resident{{state: stateUDP, age: uint32(xdplbTimeoutTIMEOUT_UDP) - 2}, established, established, established, established}},
		{name: "closed", in: aSYN, way: 1, evicted: counts{xdplbEvictionEVICTION_EXPIRED: 1},
			home: [ways]resident{established, {state: stateClosed, age: 12}, established, established, established}},
		{name: "backend gone", in: aSYN, way: 3, evicted: counts{xdplbEvictionEVICTION_EXPIRED: 1},
			home: [ways]resident{established, opening(9), established, {state: stateEstablished, age: 1, gone: true}, established}},
		{name: "oldest embryonic", in: datagram, way: 3, evicted: counts{xdplbEvictionEVICTION_EMBRYONIC: 1},
			home: [ways]resident{opening(5), established, established, opening(9), opening(7)}},
		{name: "embryonic of another CPU's next tick is the youngest", in: datagram, way: 1,
			evicted: counts{xdplbEvictionEVICTION_EMBRYONIC: 1},
			home:    [ways]resident{opening(^uint32(0)), opening(2), established, established, established}},
		{name: "fourth SYN", in: aSYN, way: 1, evicted: counts{xdplbEvictionEVICTION_EMBRYONIC: 1},
			home: [ways]resident{opening(5), opening(9), opening(7), {}, {}}},
		{name: "fourth SYN beside young ones", in: aSYN, way: free, home: [ways]resident{opening(1), opening(0), opening(1), {}, {}}},
		{name: "fifth SYN beside young ones", in: aSYN, bucket: 1, way: free, evicted: counts{xdplbEvictionEVICTION_SPILLED: 1},
			home: [ways]resident{opening(1), opening(0), opening(1), {}, opening(0)}},
		{name: "fifth SYN, and the spill bucket has its four", in: aSYN, bucket: 1, way: 2,
			home:    [ways]resident{opening(1), opening(0), opening(0), {}, opening(0)},
			spill:   [ways]resident{opening(0), opening(0), opening(1), expired, opening(0)},
			evicted: counts{xdplbEvictionEVICTION_SPILLED: 1, xdplbEvictionEVICTION_EMBRYONIC: 1}},
		{name: "fifth SYN, and the spill bucket is full", in: aSYN, way: 3, evicted: counts{xdplbEvictionEVICTION_EMBRYONIC: 1},
			home: [ways]resident{opening(0), opening(0), expired, opening(1), opening(0)}, spill: full},
		{name: "fourth SYN beside one that is not young", in: aSYN, way: 2, evicted: counts{xdplbEvictionEVICTION_EMBRYONIC: 1},
			home: [ways]resident{opening(1), opening(0), opening(2), {}, {}}},
		{name: "third SYN", in: aSYN, way: free, home: [ways]resident{opening(5), opening(9), {}, {}, {}}},
		{name: "expired SYNs do not count", in: aSYN, way: free,
			home: [ways]resident{opening(5), opening(9), opening(60), {}, {}}},
		{name: "datagram behind three SYNs", in: datagram, way: 1, evicted: counts{xdplbEvictionEVICTION_EMBRYONIC: 1},
			home: [ways]resident{opening(5), opening(9), opening(7), {}, {}}},
		{name: "SYN behind three datagrams", in: aSYN, way: 1, evicted: counts{xdplbEvictionEVICTION_EMBRYONIC: 1},
			home: [ways]resident{single(5), single(9), single(7), {}, {}}},
		{name: "SYN behind three answered datagrams", in: aSYN, way: free, home: [ways]resident{answered, answered, answered, {}, {}}},
		{name: "all established", in: aSYN, bucket: 1, way: free, home: full,
			evicted: counts{xdplbEvictionEVICTION_SPILLED: 1}},
		{name: "handshakes under way", in: aSYN, bucket: 1, way: free, evicted: counts{xdplbEvictionEVICTION_SPILLED: 1},
			home: [ways]resident{opening(1), opening(0), established, established, established}},
		{name: "spill: handshakes under way", in: aSYN, bucket: 1, way: 2, home: full,
			spill:   [ways]resident{established, established, opening(1), established, established},
			evicted: counts{xdplbEvictionEVICTION_SPILLED: 1, xdplbEvictionEVICTION_EMBRYONIC: 1}},
		{name: "spill: expired", in: aSYN, bucket: 1, way: 3, home: full,
			spill:   [ways]resident{established, established, opening(7), expired, established},
			evicted: counts{xdplbEvictionEVICTION_SPILLED: 1, xdplbEvictionEVICTION_EXPIRED: 1}},
		{name: "spill: embryonic", in: aSYN, bucket: 1, way: 2, home: full,
			spill:   [ways]resident{established, established, opening(7), established, established},
			evicted: counts{xdplbEvictionEVICTION_SPILLED: 1, xdplbEvictionEVICTION_EMBRYONIC: 1}},
		{name: "home: handshakes under way, before an established one of the spill bucket", in: aSYN, way: 1,
			home: [ways]resident{established, opening(1), established, opening(0), established}, spill: full,
			evicted: counts{xdplbEvictionEVICTION_EMBRYONIC: 1}},
		{name: "nothing else will do", in: datagram, bucket: 1, way: 2, home: full,
			spill:   [ways]resident{established, established, {state: stateEstablished, age: 101}, established, established},
			evicted: counts{xdplbEvictionEVICTION_SPILLED: 1, xdplbEvictionEVICTION_ESTABLISHED: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			clear(d.buckets)
			for bucket, residents := range [][ways]resident{c.home, c.spill} {
				d.settle(t, uint32(bucket), residents)
			}
			before, counted := [2]xdplbBucket{d.bucket(0), d.bucket(1)}, d.evictions()
			to := d.destination(t, c.in)
			if again := d.destination(t, c.in); again != to {
				t.Errorf("to %x, then to %x", to, again)
			}
			changed := 0
			for bucket := range uint32(2) {
				for way, entry := range d.bucket(bucket).Entry {
					was := before[bucket].Entry[way]
					if entry == was {
						continue
					}
					changed++
					if bucket != c.bucket || (c.way == free && was.word() != 0) || (c.way != free && way != c.way) {
						t.Errorf("bucket %d, way %d was taken (%+v)", bucket, way, was)
					}
				}
			}
			if changed != 1 {
				t.Errorf("%d ways changed, want 1", changed)
			}
			evicted := d.evictions()
			for kind := range evicted {
				evicted[kind] -= counted[kind]
			}
			if diff := cmp.Diff(c.evicted, evicted); diff != "" {
				t.Errorf("evictions (-want +got):\n%s", diff)
			}
		})
	}
}

// settle puts entries into a bucket, when a tick has just begun: the program's clock is a little late, and what it sees may
// be a tick ahead of it, no more.
func (d *rig) settle(t *testing.T, bucket uint32, residents [ways]resident) {
	t.Helper()
	now := earlyTick(t)
	for way, r := range residents {
		if r == (resident{}) {
			continue
		}
		entry := newEntry(firstTarget(real1), r.state, statusCheck, now-r.age)
		if r.gone {
			entry.Target = targetOf(real1, generation(real1)-1)
		}
		d.setEntry(bucket, way, entry)
	}
}

// spilledFlow is a director whose only home bucket is full, and a connection that has spilled.
func spilledFlow(t *testing.T) (d *rig, hash flowHash) {
	t.Helper()
	d = newPair(t, tableOf(1, 1))
	r := resident{state: stateEstablished}
	d.settle(t, 0, [ways]resident{r, r, r, r, r})
	if to := d.destination(t, frame(ip4(), syn(portPlain))); to != real1MAC {
		t.Fatalf("to %x, want %x", to, real1MAC)
	}
	return d, d.hashOf(netip.AddrPortFrom(client4, clientPort), service4, unix.IPPROTO_TCP)
}

// TestSpilledFlow: it is found as long as its home bucket says that something has spilled, and its packets see to that.
func TestSpilledFlow(t *testing.T) {
	t.Parallel()
	d, hash := spilledFlow(t)
	const timeout = uint32(xdplbTimeoutTIMEOUT_ESTABLISHED)
	for _, c := range []struct {
		name   string
		age    uint32 // of the note
		reason xdplbReason
	}{
		{"at once", 0, isTX},
		{"of another CPU's next tick", ^uint32(0), isTX},
		{"after a while", timeout - 2, isTX},
		{"after its timeout", timeout + 2, isNoConnection},
	} {
		d.setHead(0, headSpilled|(earlyTick(t)-c.age)<<seenShift)
		if reason, _, out := d.explain(frame(ip4(), ack(portPlain))); reason != c.reason {
			t.Errorf("%s: reason %s, want %s", c.name, nameOf(reason), nameOf(c.reason))
		} else if reason == isTX && macAddr(out[:6]) != real1MAC {
			t.Errorf("%s: to %x, want %x", c.name, out[:6], real1MAC)
		}
		head := d.bucket(0).Head
		if old := idleFor(t, head); c.reason == isTX && (head&headSpilled == 0 || old > 2) {
			t.Errorf("%s: note is %#x, and %d ticks old", c.name, head, old)
		}
	}
	if got := d.find(hash); got == nil || got.state() != stateEstablished {
		t.Errorf("spilled flow: %+v, want it established", got)
	}
	d.setHead(0, 0)
	if reason, _, _ := d.explain(frame(ip4(), ack(portPlain))); reason != isNoConnection {
		t.Errorf("without a note: reason %s, want %s", nameOf(reason), nameOf(isNoConnection))
	}
}

// TestSpilledFlowStartsAnew: the connection is over, the next one of the same tuple finds room at home. Nothing is left of
// the first, which might be found when the second is evicted.
func TestSpilledFlowStartsAnew(t *testing.T) {
	t.Parallel()
	d, hash := spilledFlow(t)
	d.run(frame(ip4(), finAck()))
	d.setEntry(0, 3, xdplbEntry{})
	if to := d.destination(t, frame(ip4(), syn(portPlain))); to != real2MAC {
		t.Fatalf("to %x, want %x", to, real2MAC)
	}
	if got := d.bucket(0); got.Tag[3] != hash.tag() || got.Entry[3].Target != firstTarget(real2) {
		t.Errorf("home bucket %+v, want the new flow in way 3", got)
	}
	if got := d.bucket(1); slices.ContainsFunc(got.Entry[:], func(e xdplbEntry) bool { return e.word() != 0 }) {
		t.Errorf("spill bucket %+v, want it empty", got)
	}
}

// TestSpilledFlowsOfOneTag: two flows that have spilled, and have one tag and one check, are told apart by where their
// home buckets are.
func TestSpilledFlowsOfOneTag(t *testing.T) {
	t.Parallel()
	d := newPair(t, tableOf(2, 64))
	clients := []netip.AddrPort{clientNumber(305_901), clientNumber(467_289)} // found by trying
	one, other := d.hashOf(clients[0], service4, unix.IPPROTO_TCP), d.hashOf(clients[1], service4, unix.IPPROTO_TCP)
	if one.tag() != other.tag() || one.check() != other.check() || d.homeOf(one) == d.homeOf(other) {
		t.Fatalf("%+v and %+v: this test shows nothing", one, other)
	}
	full := resident{state: stateEstablished}
	for bucket := range d.home {
		d.settle(t, bucket, [ways]resident{full, full, full, full, full})
	}
	opening, later := templateOf(tcpFlags{syn: true}, portPlain), templateOf(tcpFlags{ack: true}, portPlain)
	for _, frames := range []template{opening, later, later} {
		for i, want := range []macAddr{real1MAC, real2MAC} {
			if to := d.destination(t, frames.of(clients[i])); to != want {
				t.Errorf("flow %d: to %x, want %x", i, to, want)
			}
		}
	}
}

// filling is a table that connections fill by and by.
type filling struct {
	*rig
	opening, later template
	answers        func(flow int) bool // who sends more than a SYN
	flows          int
}

const (
	fillCapacity = 65_536
	fillReals    = 16
)

func newFilling(t *testing.T, answers func(flow int) bool) *filling {
	if testing.Short() {
		t.Skip("takes a second or two")
	}
	t.Parallel()
	home := uint32((fillCapacity + int(ways) - 1) / int(ways))
	d := newRig(t, tableOf(home, home/2))
	d.publish(tcpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_RR, d.addReals(fillReals)...))
	opening, later := templateOf(tcpFlags{syn: true}, portPlain), templateOf(tcpFlags{ack: true}, portPlain)
	return &filling{rig: d, opening: opening, later: later, answers: answers}
}

// add opens n connections.
func (f *filling) add(t *testing.T, n int) {
	t.Helper()
	for range n {
		client, want := clientNumber(f.flows), realMAC(f.flows%fillReals)
		packets := [][]byte{f.opening.of(client)}
		if f.answers(f.flows) {
			packets = append(packets, f.later.of(client))
		}
		for _, in := range packets {
			if to := f.destination(t, in); to != want {
				t.Fatalf("flow %d: to %x, want %x", f.flows, to, want)
			}
		}
		f.flows++
	}
}

// lookForAll sends a packet of each connection that was answered and returns how many were not known any more. The known
// ones must go where they went.
func (f *filling) lookForAll(t *testing.T) (lost int) {
	t.Helper()
	for i := range f.flows {
		if !f.answers(i) {
			continue
		}
		action, out := f.run(f.later.of(clientNumber(i)))
		switch {
		case action == xdpPass:
			lost++
		case action != xdpTX || macAddr(out[:6]) != realMAC(i%fillReals):
			t.Fatalf("flow %d: verdict %d to %x, want %x", i, action, out[:6], realMAC(i%fillReals))
		}
	}
	return lost
}

// TestFill fills a table for 65,536 flows by and by with connections, and looks for all of them.
func TestFill(t *testing.T) {
	f := newFilling(t, func(int) bool { return true })
	var lost int
	for _, percent := range []int{10, 50, 90, 150} {
		f.add(t, fillCapacity*percent/100-f.flows)
		evicted := f.evictions()
		lost = f.lookForAll(t)
		t.Logf("%d %%: evictions expired %d, embryonic %d, spilled %d, established %d; %d of %d flows lost", percent,
			evicted[xdplbEvictionEVICTION_EXPIRED], evicted[xdplbEvictionEVICTION_EMBRYONIC],
			evicted[xdplbEvictionEVICTION_SPILLED], evicted[xdplbEvictionEVICTION_ESTABLISHED], lost, f.flows)
		if uint64(lost) != evicted[xdplbEvictionEVICTION_ESTABLISHED] {
			t.Errorf("%d %%: %d flows lost, %d counted", percent, lost, evicted[xdplbEvictionEVICTION_ESTABLISHED])
		}
		if percent <= 50 && lost != 0 {
			t.Errorf("%d %%: %d flows lost, want none", percent, lost)
		}
		if n := evicted[xdplbEvictionEVICTION_EXPIRED] + evicted[xdplbEvictionEVICTION_EMBRYONIC]; n != 0 {
			t.Errorf("%d %%: %d evictions of expired and embryonic flows, of which there are none", percent, n)
		}
	}
	if lost == 0 {
		t.Error("150 %: no flow lost: this test shows nothing")
	}
	established := f.evictions()[xdplbEvictionEVICTION_ESTABLISHED]
	f.age(uint32(xdplbTimeoutTIMEOUT_ESTABLISHED) + 2)
	f.add(t, fillCapacity/10)
	evicted := f.evictions()
	if n := evicted[xdplbEvictionEVICTION_ESTABLISHED] - established; n != 0 {
		t.Errorf("%d established flows evicted among expired ones", n)
	}
	if evicted[xdplbEvictionEVICTION_EXPIRED] == 0 {
		t.Error("no expired flow evicted")
	}
}

// TestFillMixed fills a table with connections of which each third is never answered: those give way, and another one only
// where both its buckets are full of established ones, of which there are few.
func TestFillMixed(t *testing.T) {
	f := newFilling(t, func(flow int) bool { return flow%3 > 0 })
	for _, percent := range []int{10, 50, 90, 150} {
		f.add(t, fillCapacity*percent/100-f.flows)
		lost := uint64(f.lookForAll(t))
		evicted := f.evictions()
		t.Logf("%d %%: evictions embryonic %d, spilled %d, established %d", percent, evicted[xdplbEvictionEVICTION_EMBRYONIC],
			evicted[xdplbEvictionEVICTION_SPILLED], evicted[xdplbEvictionEVICTION_ESTABLISHED])
		if lost != evicted[xdplbEvictionEVICTION_ESTABLISHED] || percent <= 50 && lost > 0 || lost > uint64(f.flows/100) {
			t.Errorf("%d %%: %d established flows lost, %d counted", percent, lost, evicted[xdplbEvictionEVICTION_ESTABLISHED])
		}
		if percent == 150 && evicted[xdplbEvictionEVICTION_EMBRYONIC] == 0 {
			t.Errorf("%d %%: no embryonic flow gave way: this test shows nothing", percent)
		}
	}
}

// TestReplacedWays replaces the entries of one bucket on one CPU while another one sends packets of the flows that were
// there. The flows belong to two services with one backend each: whose packet arrives at the other's backend has been
// taken for another flow. All have the same second tag, so that the tag alone keeps them apart.
func TestReplacedWays(t *testing.T) {
	d := newRig(t, tableOf(1, 1))
	d.publish(
		tcpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_RR, real1),
		tcpService("172.10.0.9:81", xdplbSchedulerSCHEDULER_RR, real2),
	)
	const packets = 200_000
	var frames [2][2][][]byte // by service: opening ones, later ones
	for i := range frames {
		port := uint16(portPlain + i)
		clients := d.clientsWith(12, netip.AddrPortFrom(vip4, port), func(h flowHash) bool { return h.check() == statusCheck })
		for _, client := range clients {
			frames[i][0] = append(frames[i][0], templateOf(tcpFlags{syn: true}, port).of(client))
			frames[i][1] = append(frames[i][1], templateOf(tcpFlags{ack: true}, port).of(client))
		}
	}
	own := [2]macAddr{real1MAC, real2MAC}
	var known [2]atomic.Int64
	onEachCPU(t, func(worker, workers int) {
		if worker > 1 {
			return
		}
		for i := range packets / 2 {
			flow := i / 3 % len(frames[worker][0])
			kind := min(i%3, 1)
			action, out := d.run(frames[worker][kind][flow])
			if action != xdpTX {
				continue
			}
			if to := macAddr(out[:6]); to != own[worker] {
				t.Errorf("packet %d of service %d to %x, want %x", i, worker, to, own[worker])
				return
			}
			if kind == 1 {
				known[worker].Add(1)
			}
		}
	})
	for i := range known {
		if known[i].Load() == 0 {
			t.Errorf("service %d: no flow was ever known: this test shows nothing", i)
		}
	}
	if got := d.evictions(); got[xdplbEvictionEVICTION_EMBRYONIC]+got[xdplbEvictionEVICTION_ESTABLISHED] < packets/20 {
		t.Errorf("evictions %v: this test shows nothing", got)
	}
	for bucket := range uint32(2) {
		for _, entry := range d.bucket(bucket).Entry {
			if id := entry.backend(); entry.word() != 0 && id != real1 && id != real2 {
				t.Errorf("bucket %d holds %+v", bucket, entry)
			}
		}
		if d.bucket(bucket).Head&headLocked != 0 {
			t.Errorf("bucket %d stays locked", bucket)
		}
	}
}
