// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// hashOf is what the program makes of a tuple.
func (d *rig) hashOf(client, vip netip.AddrPort, protocol uint8) flowHash {
	return hashFlow(d.keys, client, vip, protocol)
}

// wordsOf are the words of an address as it lies in a packet.
func wordsOf(address netip.Addr) (words []uint32) {
	b := address.AsSlice()
	for ; len(b) > 0; b = b[4:] {
		words = append(words, binary.NativeEndian.Uint32(b))
	}
	return words
}

// homeOf and spillOf are the buckets that the flow may be in.
func (d *rig) homeOf(hash flowHash) uint32 { return hash.home(d.home) }

func (d *rig) spillOf(hash flowHash) uint32 { return d.home + hash.spill(d.spill) }

// Words of a bucket: entries, then tags and head, two in a word.
const bucketWords = 8

func (d *rig) bucket(index uint32) (bucket xdplbBucket) {
	for way := range ways {
		bucket.Entry[way] = entryOf(d.buckets.load(int(index)*bucketWords + int(way)))
	}
	var rest [6]uint32
	for i := range 3 {
		word := d.buckets.load(int(index)*bucketWords + int(ways) + i)
		rest[2*i], rest[2*i+1] = uint32(word), uint32(word>>32)
	}
	copy(bucket.Tag[:], rest[:ways])
	bucket.Head = rest[ways]
	return bucket
}

func (d *rig) setEntry(bucket uint32, way int, entry xdplbEntry) {
	d.buckets.store(int(bucket)*bucketWords+way, wordOf(entry))
}

func (d *rig) setHead(bucket, head uint32) {
	last := int(bucket)*bucketWords + bucketWords - 1
	d.buckets.store(last, d.buckets.load(last)&(1<<32-1)|uint64(head)<<32)
}

func entryOf(word uint64) xdplbEntry {
	return xdplbEntry{Target: uint32(word), Status: uint32(word >> 32)}
}

func wordOf(entry xdplbEntry) uint64 {
	return uint64(entry.Target) | uint64(entry.Status)<<32
}

// flows are the entries of the flow table.
func (d *rig) flows() (all []xdplbEntry) {
	for index := range d.home + d.spill {
		for way := range ways {
			if word := d.buckets.load(int(index)*bucketWords + int(way)); word != 0 {
				all = append(all, entryOf(word))
			}
		}
	}
	return all
}

// find is the flow's entry as a packet would find it, but for the note that something has spilled; nil: there is none.
func (d *rig) find(hash flowHash) *xdplbEntry {
	for _, index := range []uint32{d.homeOf(hash), d.spillOf(hash)} {
		bucket := d.bucket(index)
		for way, entry := range bucket.Entry {
			if bucket.Tag[way] == hash.tag() && entry.Status&statusCheck == hash.check() && wordOf(entry) != 0 {
				return &entry
			}
		}
	}
	return nil
}

// age lets time pass for the flow table: everything in it looks unused for some ticks more.
func (d *rig) age(ticks uint32) {
	for index := range d.home + d.spill {
		bucket := d.bucket(index)
		for way, entry := range bucket.Entry {
			if wordOf(entry) != 0 {
				d.setEntry(index, way, entry.aged(ticks))
			}
		}
		if bucket.Head&headSpilled != 0 {
			d.setHead(index, bucket.Head-ticks<<seenShift)
		}
	}
}

// aged is the entry as it will look after some ticks without a packet.
func (e xdplbEntry) aged(ticks uint32) xdplbEntry {
	e.Status -= ticks << seenShift
	return e
}

// idleFor is how many ticks ago an entry, or a bucket's head, was last seen.
func idleFor(t testing.TB, status uint32) uint32 { return (nowTicks(t) - status>>seenShift) & seenMask }

// Parts of a bucket's head.
const (
	headSpilled = uint32(xdplbHeadHEAD_SPILLED)
	headLocked  = uint32(xdplbHeadHEAD_LOCKED)
)

// eachFragment calls f for the entry of each datagram of which a first fragment was seen.
func (d *rig) eachFragment(f func(key xdplbFragmentKey, first xdplbEntry)) {
	d.tb.Helper()
	all := map[xdplbFragmentKey]xdplbEntry{}
	var key xdplbFragmentKey
	var first xdplbEntry
	entries := d.maps["fragments"].Iterate()
	for entries.Next(&key, &first) {
		all[key] = first
	}
	if err := entries.Err(); err != nil {
		d.tb.Fatal(err)
	}
	for key, first := range all {
		f(key, first)
	}
}

func (d *rig) ageFragments(ticks uint32) {
	d.tb.Helper()
	d.eachFragment(func(key xdplbFragmentKey, first xdplbEntry) {
		d.put("fragments", key, first.aged(ticks))
	})
}

func (d *rig) forgetFragments() {
	d.tb.Helper()
	d.eachFragment(func(key xdplbFragmentKey, _ xdplbEntry) {
		if err := d.maps["fragments"].Delete(key); err != nil {
			d.tb.Fatal(err)
		}
	})
}

// destination is the MAC address that a frame goes to; it must be forwarded.
func (d *rig) destination(t testing.TB, in []byte) macAddr {
	t.Helper()
	action, out := d.run(in)
	if action != xdpTX {
		t.Fatalf("verdict %d, want %d", action, xdpTX)
	}
	return macAddr(out[:6])
}

// wantFlows compares what the flow table holds; the time of the last packet is another test's.
func (d *rig) wantFlows(t *testing.T, when string, want ...xdplbEntry) {
	t.Helper()
	stable := cmp.Transformer("stable", func(e xdplbEntry) [2]uint32 { return [2]uint32{e.Target, uint32(e.state())} })
	if diff := cmp.Diff(want, d.flows(), stable, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: flows (-want +got):\n%s", when, diff)
	}
}

func flowTo(backend uint32, state xdplbFlowState) xdplbEntry {
	return newEntry(firstTarget(backend), state, 0, 0)
}

// firstTarget is a backend in the life that it has at first.
func firstTarget(backend uint32) uint32 { return targetOf(backend, generation(backend)) }

// eachFamily runs a test of flows under IPv4 and IPv6: f gets a network header from the client to the VIP.
func eachFamily(t *testing.T, f func(t *testing.T, ip func() gopacket.SerializableLayer)) {
	t.Run("IPv4", func(t *testing.T) {
		f(t, func() gopacket.SerializableLayer { return ip4() })
	})
	t.Run("IPv6", func(t *testing.T) {
		f(t, func() gopacket.SerializableLayer { return ip6() })
	})
}

// newPair is a director with two real servers by turns under both VIPs.
func newPair(tb testing.TB, change ...func(*ebpf.CollectionSpec)) *rig {
	tb.Helper()
	d := newRig(tb, change...)
	d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real1, real2)...)
	return d
}

func finAck() *layers.TCP { return tcp(clientPort, portPlain, tcpFlags{fin: true, ack: true}) }
func reset() *layers.TCP  { return tcp(clientPort, portPlain, tcpFlags{rst: true}) }

// TestLifeOfAConnection follows one connection through the states of its entry.
func TestLifeOfAConnection(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer) {
		d := newPair(t)
		steps := []struct {
			name string
			in   *layers.TCP
			to   macAddr
			flow xdplbEntry
		}{
			{"SYN", syn(portPlain), real1MAC, flowTo(real1, xdplbFlowStateFLOW_SYN)},
			{"SYN again", syn(portPlain), real1MAC, flowTo(real1, xdplbFlowStateFLOW_SYN)},
			{"ACK", ack(portPlain), real1MAC, flowTo(real1, xdplbFlowStateFLOW_ESTABLISHED)},
			{"ACK again", ack(portPlain), real1MAC, flowTo(real1, xdplbFlowStateFLOW_ESTABLISHED)},
			{"late SYN", syn(portPlain), real1MAC, flowTo(real1, xdplbFlowStateFLOW_ESTABLISHED)},
			{"FIN", finAck(), real1MAC, flowTo(real1, xdplbFlowStateFLOW_FIN)},
			{"last ACK", ack(portPlain), real1MAC, flowTo(real1, xdplbFlowStateFLOW_FIN)},
			{"SYN of the next connection", syn(portPlain), real2MAC, flowTo(real2, xdplbFlowStateFLOW_SYN)},
			{"its ACK", ack(portPlain), real2MAC, flowTo(real2, xdplbFlowStateFLOW_ESTABLISHED)},
			{"RST", reset(), real2MAC, flowTo(real2, xdplbFlowStateFLOW_CLOSED)},
			{"FIN behind it", finAck(), real2MAC, flowTo(real2, xdplbFlowStateFLOW_CLOSED)},
			{"SYN after RST", syn(portPlain), real1MAC, flowTo(real1, xdplbFlowStateFLOW_SYN)},
			{"RST right behind the SYN", reset(), real1MAC, flowTo(real1, xdplbFlowStateFLOW_SYN)},
			{"FIN right behind the SYN", finAck(), real1MAC, flowTo(real1, xdplbFlowStateFLOW_TIME_WAIT)},
			{"SYN after that", syn(portPlain), real2MAC, flowTo(real2, xdplbFlowStateFLOW_SYN)},
		}
		for _, step := range steps {
			if to := d.destination(t, frame(ip(), step.in)); to != step.to {
				t.Errorf("%s: to %x, want %x", step.name, to, step.to)
			}
			d.wantFlows(t, step.name, step.flow)
		}
		if got := d.counters(real1).Connections + d.counters(real2).Connections; got != 4 {
			t.Errorf("%d connections counted, want 4", got)
		}
	})
}

// TestLifeOnASettledSlot: the connection's packets go by the table alone, but its entry is kept up.
func TestLifeOnASettledSlot(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer) {
		d := newRig(t)
		d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_MH, real1)...)
		for _, step := range []struct {
			name  string
			in    *layers.TCP
			state xdplbFlowState
		}{
			{"SYN", syn(portPlain), xdplbFlowStateFLOW_SYN},
			{"ACK", ack(portPlain), xdplbFlowStateFLOW_ESTABLISHED},
			{"FIN", finAck(), xdplbFlowStateFLOW_FIN},
			{"last ACK", ack(portPlain), xdplbFlowStateFLOW_FIN},
			{"SYN of the next connection", syn(portPlain), xdplbFlowStateFLOW_SYN},
			{"its ACK", ack(portPlain), xdplbFlowStateFLOW_ESTABLISHED},
			{"RST", reset(), xdplbFlowStateFLOW_CLOSED},
		} {
			if to := d.destination(t, frame(ip(), step.in)); to != real1MAC {
				t.Errorf("%s: to %x, want %x", step.name, to, real1MAC)
			}
			d.wantFlows(t, step.name, flowTo(real1, step.state))
		}
	})
}

// TestSettledConnectionIsSampled: one in 64 packets of a connection on a settled slot keeps its entry alive, and none has to
// wait for long, however its numbers rise.
func TestSettledConnectionIsSampled(t *testing.T) {
	t.Parallel()
	sends := func(step uint32) func(uint32) []byte {
		return func(n uint32) []byte {
			data := ack(portPlain)
			data.Seq = step * n
			return frame(ip4(), data)
		}
	}
	receives := func(n uint32) []byte {
		data := ack(portPlain)
		data.Ack = 1460 * n
		return frame(ip4(), data)
	}
	association := func(n uint32) []byte {
		packet := sctp(clientPort, portPlain, chunkData)
		binary.BigEndian.PutUint32(packet.Payload[8:], 1460*n)
		return frame(ip4(), packet)
	}
	d := newRig(t, tableOf(1, 1))
	of := tcpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_MH, real1)
	also := of
	also.protocol = unix.IPPROTO_SCTP
	d.publish(of, also)
	tcpSYN, tcpACK := frame(ip4(), syn(portPlain)), frame(ip4(), ack(portPlain))
	for _, c := range []struct {
		name    string
		opening [][]byte
		packet  func(uint32) []byte
	}{
		{"724 bytes", [][]byte{tcpSYN, tcpACK}, sends(724)},
		{"1460 bytes", [][]byte{tcpSYN, tcpACK}, sends(1460)},
		{"receives", [][]byte{tcpSYN, tcpACK}, receives},
		{"SCTP", [][]byte{frame(ip4(), sctp(clientPort, portPlain, chunkInit)), association(0)}, association},
	} {
		t.Run(c.name, func(t *testing.T) {
			d.forget()
			for _, in := range c.opening {
				d.destination(t, in)
			}
			const packets, want = 64 * 64, 64
			kept, gap, longest := 0, 0, 0
			for n := range uint32(packets) {
				d.age(100)
				d.destination(t, c.packet(n))
				if gap++; idleFor(t, d.flows()[0].Status) < 50 {
					kept++
					gap = 0
				}
				longest = max(longest, gap)
			}
			if kept < want/2 || kept > want*2 || longest > 1000 {
				t.Errorf("%d of %d packets kept the entry alive, %d in a row did not; want about %d, and 1000 at most", kept, packets, longest, want)
			}
		})
	}
}

func TestLifeOfADatagramFlow(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer) {
		d := newPair(t)
		for range 5 {
			if to := d.destination(t, frame(ip(), udp(portPlain))); to != real1MAC {
				t.Errorf("to %x, want %x", to, real1MAC)
			}
		}
		d.wantFlows(t, "5 datagrams", flowTo(real1, xdplbFlowStateFLOW_UDP))
	})
}

// TestFlowsAreApart: what differs in any part of the 5-tuple is another flow.
func TestFlowsAreApart(t *testing.T) {
	t.Parallel()
	d := newPair(t)
	other4, other6 := netip.MustParseAddr("172.10.0.10"), netip.MustParseAddr("fd00:172::a")
	d.publish(append(append(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real1, real2),
		everywhere(portVLAN, xdplbSchedulerSCHEDULER_RR, real1, real2)...),
		udpService(netip.AddrPortFrom(other4, portPlain).String(), xdplbSchedulerSCHEDULER_RR, real1, real2),
		udpService(netip.AddrPortFrom(other6, portPlain).String(), xdplbSchedulerSCHEDULER_RR, real1, real2))...)
	frames := [][]byte{
		frame(ip4(), udp(portPlain)),
		frame(ip4(), udpFrom(clientPort+1, portPlain)),
		frame(ip4(), udpFrom(clientPort+256, portPlain)),
		frame(ip4(), udp(portVLAN)),
		frame(ip4(from4(router4)), udp(portPlain)),
		frame(ip4(), syn(portPlain)),
		frame(ip6(), udp(portPlain)),
		frame(ip6(), syn(portPlain)),
		frame(ip6(from6(router6)), udp(portPlain)),
		frame(ip6(), udp(portVLAN)),
		frame(ip4(to4(other4)), udp(portPlain)),
		frame(ip6(to6(other6)), udp(portPlain)),
	}
	for range 3 {
		for _, in := range frames {
			d.run(in)
		}
	}
	if got := d.counters(real1).Connections + d.counters(real2).Connections; got != uint64(len(frames)) {
		t.Errorf("%d connections, want %d", got, len(frames))
	}
}

// TestIdleFlows ages a flow and looks where its next packet goes: to real1, where the flow is, or by turn to real2.
func TestIdleFlows(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer) {
		ackIn := func() gopacket.SerializableLayer { return ack(portPlain) }
		synIn := func() gopacket.SerializableLayer { return syn(portPlain) }
		finIn := func() gopacket.SerializableLayer { return finAck() }
		rstIn := func() gopacket.SerializableLayer { return reset() }
		udpIn := func() gopacket.SerializableLayer { return udp(portPlain) }
		d := newPair(t)
		type layer = func() gopacket.SerializableLayer
		for _, c := range []struct {
			name    string
			before  []layer
			timeout xdplbTimeout
			in      layer
			anew    bool // behind the timeout
		}{
			{"SYN behind SYN", []layer{synIn}, xdplbTimeoutTIMEOUT_SYN, synIn, true},
			{"ACK behind SYN", []layer{synIn}, xdplbTimeoutTIMEOUT_SYN, ackIn, false},
			{"SYN behind ACK", []layer{synIn, ackIn}, xdplbTimeoutTIMEOUT_ESTABLISHED, synIn, true},
			{"ACK behind ACK", []layer{synIn, ackIn}, xdplbTimeoutTIMEOUT_ESTABLISHED, ackIn, false},
			{"FIN behind ACK", []layer{synIn, ackIn}, xdplbTimeoutTIMEOUT_ESTABLISHED, finIn, false},
			{"ACK behind FIN", []layer{synIn, ackIn, finIn}, xdplbTimeoutTIMEOUT_FIN, ackIn, false},
			{"ACK behind RST", []layer{synIn, ackIn, rstIn}, xdplbTimeoutTIMEOUT_CLOSED, ackIn, false},
			{"datagram", []layer{udpIn}, xdplbTimeoutTIMEOUT_UDP, udpIn, true},
		} {
			t.Run(c.name, func(t *testing.T) {
				for _, age := range []uint32{1, uint32(c.timeout) - 3, uint32(c.timeout) + 2, 1 << 15} {
					d.forget()
					d.turn(0)
					for _, in := range c.before {
						d.run(frame(ip(), in()))
					}
					d.turn(1)
					d.age(age)
					want := real1MAC
					if c.anew && age > uint32(c.timeout) {
						want = real2MAC
					}
					if to := d.destination(t, frame(ip(), c.in())); to != want {
						t.Errorf("after %d ticks to %x, want %x", age, to, want)
					}
					if to := d.destination(t, frame(ip(), c.in())); to != want {
						t.Errorf("after %d ticks, again: to %x, want %x", age, to, want)
					}
				}
			})
		}
	})
}

// TestPacketsKeepFlowsAlive: each packet winds the clock of its flow up again; an ICMP error does not.
func TestPacketsKeepFlowsAlive(t *testing.T) {
	t.Parallel()
	d := newPair(t)
	for _, c := range []struct {
		name  string
		setup [][]byte
		in    []byte
		alive bool
	}{
		{"SYN", [][]byte{frame(ip4(), syn(portPlain))}, frame(ip4(), syn(portPlain)), true},
		{"ACK", [][]byte{frame(ip4(), syn(portPlain)), frame(ip4(), ack(portPlain))}, frame(ip4(), ack(portPlain)), true},
		{"datagram", [][]byte{frame(ip6(), udp(portPlain))}, frame(ip6(), udp(portPlain)), true},
		{"ICMP error", [][]byte{frame(ip4(), syn(portPlain)), frame(ip4(), ack(portPlain))},
			error4(3, 4, quote4(28)), false},
	} {
		d.forget()
		for _, in := range c.setup {
			d.run(in)
		}
		d.age(40)
		d.run(c.in)
		flows := d.flows()
		if len(flows) != 1 {
			t.Fatalf("%s: %d flows, want 1", c.name, len(flows))
		}
		if got := idleFor(t, flows[0].Status) < 10; got != c.alive {
			t.Errorf("%s: flow renewed: %v, want %v", c.name, got, c.alive)
		}
	}
}

// nowTicks is the program's clock.
func nowTicks(t testing.TB) uint32 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return uint32(now.Nano() >> 30)
}

// TestClockOfAnotherCPU: two CPUs may read the clock on both sides of a tick, so that a flow was last seen in what the
// other takes for the future. It is the very opposite of idle.
func TestClockOfAnotherCPU(t *testing.T) {
	t.Parallel()
	d := newPair(t)
	for name, in := range map[string][]byte{
		"datagram": frame(ip4(), udp(portPlain)),
		"SYN":      frame(ip6(), syn(portPlain)),
	} {
		want := d.destination(t, in)
		const future = ^uint32(0) // one tick ahead
		d.age(future)
		if to := d.destination(t, in); to != want {
			t.Errorf("%s: to %x, then to %x", name, want, to)
		}
	}
}

// TestRemovedBackend: with the backend's generation all of its flows are stale, of any kind and age, and so are those of
// its successor under the same id.
func TestRemovedBackend(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer) {
		d := newPair(t)
		setup := func() {
			d.forget()
			d.turn(0)
			d.run(frame(ip(), syn(portPlain)))
			d.run(frame(ip(), ack(portPlain)))
			d.run(frame(ip(), udp(portPlain)))
			d.turn(0)
			d.run(frame(ip(), tcp(clientPort+1, portPlain, tcpFlags{syn: true})))
			d.turn(1)
		}
		frames := map[string][]byte{
			"ACK of an established connection": frame(ip(), ack(portPlain)),
			"SYN of an established connection": frame(ip(), syn(portPlain)),
			"datagram":                         frame(ip(), udp(portPlain)),
			"second SYN":                       frame(ip(), tcp(clientPort+1, portPlain, tcpFlags{syn: true})),
			"ACK of the handshake":             frame(ip(), tcp(clientPort+1, portPlain, tcpFlags{ack: true})),
		}
		for name, in := range frames {
			setup()
			if to := d.destination(t, in); to != real1MAC {
				t.Errorf("%s, before: to %x, want %x", name, to, real1MAC)
			}
			setup()
			d.setGeneration(real1, generation(real1)+1)
			if to := d.destination(t, in); to != real2MAC {
				t.Errorf("%s: to %x, want %x", name, to, real2MAC)
			}
			connections := d.counters(real2).Connections
			if to := d.destination(t, in); to != real2MAC {
				t.Errorf("%s, again: to %x, want %x", name, to, real2MAC)
			}
			if got := d.counters(real2).Connections; got != connections {
				t.Errorf("%s, again: counted as %d connections more", name, got-connections)
			}
			d.setGeneration(real1, generation(real1))
		}
		setup()
		d.setGeneration(real1, generation(real1)+1)
		quoted := error4(3, 4, quote4(28))
		if ip().LayerType() == layers.LayerTypeIPv6 {
			quoted = error6(2, 0, quote6(48))
		}
		if reason, _, _ := d.explain(quoted); reason != isICMPUnmatched {
			t.Errorf("ICMP error: reason %s, want %s", nameOf(reason), nameOf(isICMPUnmatched))
		}
	})
}

// TestEntryGivenToANewFlow: nothing of the flow before stays in it.
func TestEntryGivenToANewFlow(t *testing.T) {
	t.Parallel()
	d := newPair(t)
	for _, in := range []*layers.TCP{syn(portPlain), ack(portPlain), finAck()} {
		d.run(frame(ip4(), in))
	}
	d.age(uint32(xdplbTimeoutTIMEOUT_FIN) + 2)
	d.setGeneration(real1, generation(real1)+1)
	if to := d.destination(t, frame(ip4(), ack(portPlain))); to != real2MAC {
		t.Fatalf("to %x, want %x", to, real2MAC)
	}
	d.wantFlows(t, "taken over", flowTo(real2, xdplbFlowStateFLOW_ESTABLISHED))
	if ticks := idleFor(t, d.flows()[0].Status); ticks >= 10 {
		t.Errorf("taken over: idle for %d ticks", ticks)
	}
}

// TestQuiescedBackend: a backend of weight 0 gets nothing new and keeps what it has. A SYN is new, whatever its tuple had
// before: who closed a connection without a word, or waits for the answer of a dead backend, need not try again.
func TestQuiescedBackend(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer) {
		d := newPair(t)
		of := func(port uint16, flags tcpFlags) []byte { return frame(ip(), tcp(port, portPlain, flags)) }
		open, later := tcpFlags{syn: true}, tcpFlags{ack: true}
		datagram := frame(ip(), udp(portPlain))
		d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real1)...)
		for _, in := range [][]byte{of(1, open), of(1, later), of(2, open), of(3, open), of(3, later), of(4, open), of(4, later), datagram} {
			d.run(in)
		}
		d.weigh(real1, 0)
		d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real2)...)
		for _, step := range []struct {
			name string
			in   []byte
			to   macAddr
		}{
			{"established", of(1, later), real1MAC},
			{"datagram", datagram, real1MAC},
			{"SYN sent again", of(2, open), real2MAC},
			{"its answer", of(2, later), real2MAC},
			{"SYN on an established connection", of(3, open), real2MAC},
			{"its answer", of(3, later), real2MAC},
		} {
			if to := d.destination(t, step.in); to != step.to {
				t.Errorf("%s: to %x, want %x", step.name, to, step.to)
			}
		}
		d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR)...)
		for kind, in := range map[string][]byte{"established": of(1, later), "datagram": datagram} {
			if to := d.destination(t, in); to != real1MAC {
				t.Errorf("all quiesced, %s: to %x, want %x", kind, to, real1MAC)
			}
		}
		for kind, in := range map[string][]byte{"new": of(9, open), "on an established connection": of(4, open)} {
			if reason, _, _ := d.explain(in); reason != isNoBackend {
				t.Errorf("all quiesced, SYN %s: %s, want %s", kind, nameOf(reason), nameOf(isNoBackend))
			}
		}
	})
}

// TestBucketThatStaysLocked: what cannot be recorded is dropped, since its next packet might go elsewhere. Packets of
// known flows need no lock.
func TestBucketThatStaysLocked(t *testing.T) {
	t.Parallel()
	d := newPair(t)
	known := frame(ip4(), udp(portPlain))
	d.run(known)
	for index := range d.home + d.spill {
		d.setHead(index, headLocked)
	}
	for name, in := range map[string][]byte{"SYN": frame(ip4(), syn(portPlain)), "datagram": frame(ip6(), udp(portPlain))} {
		if reason, _, _ := d.explain(in); reason != isFlowTableFull {
			t.Errorf("%s: reason %s, want %s", name, nameOf(reason), nameOf(isFlowTableFull))
		}
	}
	if to := d.destination(t, known); to != real1MAC {
		t.Errorf("known flow: to %x, want %x", to, real1MAC)
	}
	d.wantFlows(t, "locked", flowTo(real1, xdplbFlowStateFLOW_UDP))
	if got := d.counters(real1).Connections + d.counters(real2).Connections; got != 1 {
		t.Errorf("%d connections counted, want the 1 that was recorded", got)
	}
	for index := range d.home + d.spill {
		d.setHead(index, 0)
	}
	if to := d.destination(t, frame(ip4(), syn(portPlain))); to != real1MAC {
		t.Errorf("SYN again: to %x, want %x: the one that was dropped has taken the turn", to, real1MAC)
	}
}

// TestSynFlood: more SYNs than the table holds push no established connection out.
func TestSynFlood(t *testing.T) {
	t.Parallel()
	d := newPair(t)
	const established = 200
	to := map[uint16]macAddr{}
	for port := uint16(1000); port < 1000+established; port++ {
		to[port] = d.destination(t, frame(ip4(), tcp(port, portPlain, tcpFlags{syn: true})))
		d.run(frame(ip4(), tcp(port, portPlain, tcpFlags{ack: true})))
	}
	for port := range 4 * flowBuckets * int(ways) {
		if action, _ := d.run(frame(ip4(from4(router4)), tcp(uint16(port), portPlain, tcpFlags{syn: true}))); action != xdpTX {
			t.Fatalf("SYN %d: verdict %d, want %d", port, action, xdpTX)
		}
	}
	for port, want := range to {
		if got := d.destination(t, frame(ip4(), tcp(port, portPlain, tcpFlags{ack: true}))); got != want {
			t.Errorf("connection of port %d: to %x, want %x", port, got, want)
		}
	}
	if got := d.evictions()[xdplbEvictionEVICTION_ESTABLISHED]; got != 0 {
		t.Errorf("%d established connections evicted", got)
	}
}

// evictions are the counts by kind, of all CPUs.
func (d *rig) evictions() (sums [xdplbEvictionEVICTION_COUNT]uint64) {
	d.tb.Helper()
	for kind := range sums {
		var each []uint64
		if err := d.maps["evictions"].Lookup(uint32(kind), &each); err != nil {
			d.tb.Fatal(err)
		}
		for _, n := range each {
			sums[kind] += n
		}
	}
	return sums
}

// TestFlowOnTwoCPUs sends the first packets of the same flows on all CPUs at once. Each flow has one backend, whoever
// came first, and is one connection.
func TestFlowOnTwoCPUs(t *testing.T) {
	const flows = 3000
	datagram := func(port uint16) []byte { return frame(ip6(), udpFrom(port, portPlain)) }
	for name, c := range map[string]struct {
		frame func(port uint16) []byte
		full  bool // all home buckets: the flows spill
	}{
		"SYN":              {func(port uint16) []byte { return frame(ip4(), tcp(port, portPlain, tcpFlags{syn: true})) }, false},
		"datagram":         {datagram, false},
		"spilled datagram": {datagram, true},
	} {
		frame := c.frame
		t.Run(name, func(t *testing.T) {
			d := newPair(t, tableOf(8*flowBuckets, 8*flowBuckets)) // SYNs may have a part only of each bucket
			for index := range d.home {
				if r := (resident{state: stateEstablished}); c.full {
					d.settle(t, index, [ways]resident{r, r, r, r, r})
				}
			}
			var frames [][]byte
			for port := range uint16(flows) {
				frames = append(frames, frame(1024+port))
			}
			var to [4][flows]macAddr
			var meeting meetingPoint
			onEachCPU(t, func(worker, workers int) {
				for i, in := range frames {
					meeting.wait(i, workers)
					if action, out := d.run(in); action == xdpTX {
						to[worker][i] = macAddr(out[:6])
					}
				}
				meeting.wait(flows, workers)
				for i := range frames {
					for other := range workers {
						one, two := to[worker][i], to[other][i]
						if one != two && one != (macAddr{}) && two != (macAddr{}) {
							t.Errorf("flow %d: to %x and to %x", i, one, two)
							return
						}
					}
				}
			})
			d.wantFewUnlocked(t, flows)
			if got := d.counters(real1).Connections + d.counters(real2).Connections; got != flows {
				t.Errorf("%d connections, want %d", got, flows)
			}
		})
	}
}

// wantFewUnlocked allows for packets that were dropped because another CPU held their bucket's lock. It is held for less
// than a microsecond, but for the thread of BPF_PROG_TEST_RUN that is put off meanwhile, as no interrupt's packet is.
func (d *rig) wantFewUnlocked(t *testing.T, packets uint64) {
	t.Helper()
	reasons := d.reasons()
	if n := reasons[isFlowTableFull]; n > packets/100 {
		t.Errorf("%d of %d packets dropped at a locked bucket", n, packets)
	}
	for reason, n := range reasons {
		if verdict := verdictOf(xdplbReason(reason)); n > 0 && verdict != xdpTX && xdplbReason(reason) != isFlowTableFull {
			t.Errorf("%d packets counted as %s", n, nameOf(xdplbReason(reason)))
		}
	}
}

// TestCounters counts what a backend got: packets, and their bytes of IP, without Ethernet, tags and padding.
func TestCounters(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	frames := [][]byte{
		frame(ip4(), syn(portPlain)),
		frame(tag(4), ip4(), ack(portPlain), data(960)),
		padded(frame(ip6(), udp(portPlain), data(52)), 7),
		frame(ip4(ttl(1)), ack(portPlain)), // not sent
		frame(ip4(), syn(portUnserved)),    // not ours
		frame(ip4(fragment4(0, true)), udp(portPlain), data(972)),
		later4(),
		error4(3, 4, quote4(28)),
	}
	for _, in := range frames {
		d.run(in)
	}
	want := xdplbCounters{Connections: 3, Packets: 6, Bytes: 40 + 1000 + 100 + 1000 + 120 + 56}
	if got := d.counters(real1); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
	redirected := frame(ip6(), udp(portElsewhere), data(2))
	d.run(redirected)
	want = xdplbCounters{Connections: 1, Packets: 1, Bytes: 50}
	if got := d.counters(real1Elsewhere); got != want {
		t.Errorf("counters of the other interface's backend %+v, want %+v", got, want)
	}
}

// TestEveryPacketIsCountedOnce runs every frame of the tables and compares the sums.
func TestEveryPacketIsCountedOnce(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	frames := allFrames()
	byVerdict := map[uint32]uint64{}
	for _, in := range frames {
		action, _ := d.run(in)
		byVerdict[action]++
	}
	counted := map[uint32]uint64{}
	for reason, n := range d.reasons() {
		if n > 0 {
			counted[verdictOf(xdplbReason(reason))] += n
		}
	}
	if diff := cmp.Diff(byVerdict, counted); diff != "" {
		t.Errorf("verdicts (-met +counted):\n%s", diff)
	}
}
