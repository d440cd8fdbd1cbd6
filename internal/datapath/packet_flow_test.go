// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// flows are the entries of a flow table, whatever their keys.
func (d *rig) flows(table string) []xdplbFlow {
	d.tb.Helper()
	var all []xdplbFlow
	d.eachFlow(table, func(_ []byte, flow xdplbFlow) { all = append(all, flow) })
	return all
}

func (d *rig) eachFlow(table string, f func(key []byte, flow xdplbFlow)) {
	d.tb.Helper()
	type entry struct {
		key  []byte
		flow xdplbFlow
	}
	var all []entry
	var e entry
	entries := d.maps[table].Iterate()
	for entries.Next(&e.key, &e.flow) {
		all = append(all, e)
		e.key = nil
	}
	if err := entries.Err(); err != nil {
		d.tb.Fatal(err)
	}
	for _, e := range all {
		f(e.key, e.flow)
	}
}

// age makes all flows of a table look unused for some ticks more.
func (d *rig) age(table string, ticks uint32) {
	d.tb.Helper()
	d.eachFlow(table, func(key []byte, flow xdplbFlow) {
		flow.Seen -= ticks
		d.put(table, key, flow)
	})
}

func (d *rig) forgetIn(table string) {
	d.tb.Helper()
	d.eachFlow(table, func(key []byte, _ xdplbFlow) {
		if err := d.maps[table].Delete(key); err != nil {
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

// flowTables compares what the tables hold; the time of the last packet is another test's.
func (d *rig) wantFlows(t *testing.T, when string, want map[string][]xdplbFlow) {
	t.Helper()
	got := map[string][]xdplbFlow{}
	for _, name := range []string{"flows4", "flows6", "syns4", "syns6"} {
		if flows := d.flows(name); len(flows) > 0 {
			got[name] = flows
		}
	}
	ignored := cmp.Options{cmpopts.IgnoreFields(xdplbFlow{}, "Seen"), cmpopts.IgnoreFields(xdplbFlow{}, "_"), cmpopts.IgnoreFields(xdplbTarget{}, "_")}
	if diff := cmp.Diff(want, got, ignored); diff != "" {
		t.Errorf("%s: flows (-want +got):\n%s", when, diff)
	}
}

func flowTo(backend uint32, state xdplbFlowState) []xdplbFlow {
	return []xdplbFlow{{Target: xdplbTarget{Backend: backend, Generation: generation(backend)}, State: uint32(state)}}
}

// eachFamily runs a test of flows under IPv4 and IPv6: f gets a network header from the client to the VIP, and the
// ending of the tables' names.
func eachFamily(t *testing.T, f func(t *testing.T, ip func() gopacket.SerializableLayer, family string)) {
	t.Run("IPv4", func(t *testing.T) {
		f(t, func() gopacket.SerializableLayer { return ip4() }, "4")
	})
	t.Run("IPv6", func(t *testing.T) {
		f(t, func() gopacket.SerializableLayer { return ip6() }, "6")
	})
}

// newPair is a director with two real servers by turns under both VIPs.
func newPair(tb testing.TB) *rig {
	tb.Helper()
	d := newRig(tb)
	d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real1, real2)...)
	return d
}

func finAck() *layers.TCP { return tcp(clientPort, portPlain, tcpFlags{fin: true, ack: true}) }
func reset() *layers.TCP  { return tcp(clientPort, portPlain, tcpFlags{rst: true}) }

// TestLifeOfAConnection follows one connection through the tables.
func TestLifeOfAConnection(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer, family string) {
		d := newPair(t)
		steps := []struct {
			name   string
			in     *layers.TCP
			to     macAddr
			tables map[string][]xdplbFlow
		}{
			{"SYN", syn(portPlain), real1MAC, map[string][]xdplbFlow{
				"syns" + family: flowTo(real1, xdplbFlowStateFLOW_SYN)}},
			{"SYN again", syn(portPlain), real1MAC, map[string][]xdplbFlow{
				"syns" + family: flowTo(real1, xdplbFlowStateFLOW_SYN)}},
			{"ACK", ack(portPlain), real1MAC, map[string][]xdplbFlow{
				"flows" + family: flowTo(real1, xdplbFlowStateFLOW_ESTABLISHED)}},
			{"ACK again", ack(portPlain), real1MAC, map[string][]xdplbFlow{
				"flows" + family: flowTo(real1, xdplbFlowStateFLOW_ESTABLISHED)}},
			{"late SYN", syn(portPlain), real1MAC, map[string][]xdplbFlow{
				"flows" + family: flowTo(real1, xdplbFlowStateFLOW_ESTABLISHED)}},
			{"FIN", finAck(), real1MAC, map[string][]xdplbFlow{
				"flows" + family: flowTo(real1, xdplbFlowStateFLOW_FIN)}},
			{"last ACK", ack(portPlain), real1MAC, map[string][]xdplbFlow{
				"flows" + family: flowTo(real1, xdplbFlowStateFLOW_FIN)}},
			{"SYN of the next connection", syn(portPlain), real2MAC, map[string][]xdplbFlow{
				"syns" + family: flowTo(real2, xdplbFlowStateFLOW_SYN)}},
			{"its ACK", ack(portPlain), real2MAC, map[string][]xdplbFlow{
				"flows" + family: flowTo(real2, xdplbFlowStateFLOW_ESTABLISHED)}},
			{"RST", reset(), real2MAC, map[string][]xdplbFlow{
				"flows" + family: flowTo(real2, xdplbFlowStateFLOW_CLOSED)}},
			{"FIN behind it", finAck(), real2MAC, map[string][]xdplbFlow{
				"flows" + family: flowTo(real2, xdplbFlowStateFLOW_CLOSED)}},
			{"SYN after RST", syn(portPlain), real1MAC, map[string][]xdplbFlow{
				"syns" + family: flowTo(real1, xdplbFlowStateFLOW_SYN)}},
			{"RST right behind the SYN", reset(), real1MAC, map[string][]xdplbFlow{
				"flows" + family: flowTo(real1, xdplbFlowStateFLOW_CLOSED)}},
		}
		for _, step := range steps {
			if to := d.destination(t, frame(ip(), step.in)); to != step.to {
				t.Errorf("%s: to %x, want %x", step.name, to, step.to)
			}
			d.wantFlows(t, step.name, step.tables)
		}
		if got := d.counters(real1).Connections + d.counters(real2).Connections; got != 3 {
			t.Errorf("%d connections counted, want 3", got)
		}
	})
}

func TestLifeOfADatagramFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer, family string) {
		d := newPair(t)
		for range 5 {
			if to := d.destination(t, frame(ip(), udp(portPlain))); to != real1MAC {
				t.Errorf("to %x, want %x", to, real1MAC)
			}
		}
		d.wantFlows(t, "5 datagrams", map[string][]xdplbFlow{"flows" + family: flowTo(real1, xdplbFlowStateFLOW_UDP)})
	})
}

// TestFlowsAreApart: what differs in any part of the 5-tuple is another flow.
func TestFlowsAreApart(t *testing.T) {
	d := newPair(t)
	d.publish(append(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real1, real2),
		everywhere(portVLAN, xdplbSchedulerSCHEDULER_RR, real1, real2)...)...)
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
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer, family string) {
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
			table   string
			timeout xdplbTimeout
			in      layer
			anew    bool // behind the timeout
		}{
			{"SYN behind SYN", []layer{synIn}, "syns", xdplbTimeoutTIMEOUT_SYN, synIn, true},
			{"ACK behind SYN", []layer{synIn}, "syns", xdplbTimeoutTIMEOUT_SYN, ackIn, false},
			{"SYN behind ACK", []layer{synIn, ackIn}, "flows", xdplbTimeoutTIMEOUT_ESTABLISHED, synIn, true},
			{"ACK behind ACK", []layer{synIn, ackIn}, "flows", xdplbTimeoutTIMEOUT_ESTABLISHED, ackIn, false},
			{"FIN behind ACK", []layer{synIn, ackIn}, "flows", xdplbTimeoutTIMEOUT_ESTABLISHED, finIn, false},
			{"ACK behind FIN", []layer{synIn, ackIn, finIn}, "flows", xdplbTimeoutTIMEOUT_FIN, ackIn, false},
			{"ACK behind RST", []layer{synIn, ackIn, rstIn}, "flows", xdplbTimeoutTIMEOUT_CLOSED, ackIn, false},
			{"datagram", []layer{udpIn}, "flows", xdplbTimeoutTIMEOUT_UDP, udpIn, true},
		} {
			t.Run(c.name, func(t *testing.T) {
				for _, age := range []uint32{1, uint32(c.timeout) - 3, uint32(c.timeout) + 2, 1 << 20} {
					d.forget()
					d.turn(0)
					for _, in := range c.before {
						d.run(frame(ip(), in()))
					}
					d.turn(1)
					d.age(c.table+family, age)
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
	d := newPair(t)
	for _, c := range []struct {
		name  string
		setup [][]byte
		table string
		in    []byte
		alive bool
	}{
		{"SYN", [][]byte{frame(ip4(), syn(portPlain))}, "syns4", frame(ip4(), syn(portPlain)), true},
		{"ACK", [][]byte{frame(ip4(), syn(portPlain)), frame(ip4(), ack(portPlain))}, "flows4", frame(ip4(), ack(portPlain)), true},
		{"datagram", [][]byte{frame(ip6(), udp(portPlain))}, "flows6", frame(ip6(), udp(portPlain)), true},
		{"ICMP error", [][]byte{frame(ip4(), syn(portPlain)), frame(ip4(), ack(portPlain))}, "flows4",
			error4(3, 4, quote4(28)), false},
	} {
		d.forget()
		for _, in := range c.setup {
			d.run(in)
		}
		d.age(c.table, 40)
		d.run(c.in)
		flows := d.flows(c.table)
		if len(flows) != 1 {
			t.Fatalf("%s: %d flows, want 1", c.name, len(flows))
		}
		if got := nowTicks(t)-flows[0].Seen < 10; got != c.alive {
			t.Errorf("%s: flow renewed: %v, want %v", c.name, got, c.alive)
		}
	}
}

// nowTicks is the program's clock.
func nowTicks(t *testing.T) uint32 {
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
	d := newPair(t)
	for name, in := range map[string][]byte{
		"datagram": frame(ip4(), udp(portPlain)),
		"SYN":      frame(ip6(), syn(portPlain)),
	} {
		want := d.destination(t, in)
		const future = ^uint32(0) // one tick ahead
		d.age("flows4", future)
		d.age("syns6", future)
		if to := d.destination(t, in); to != want {
			t.Errorf("%s: to %x, then to %x", name, want, to)
		}
	}
}

// TestRemovedBackend: with the backend's generation all of its flows are stale, of any kind and age, and so are those of
// its successor under the same id.
func TestRemovedBackend(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer, family string) {
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
		if family == "6" {
			quoted = error6(2, 0, quote6(48))
		}
		if reason, _, _ := d.explain(quoted); reason != isICMPUnmatched {
			t.Errorf("ICMP error: reason %d, want %d", reason, isICMPUnmatched)
		}
	})
}

// TestEntryGivenToANewFlow: nothing of the flow before stays in it.
func TestEntryGivenToANewFlow(t *testing.T) {
	d := newPair(t)
	for _, in := range []*layers.TCP{syn(portPlain), ack(portPlain), finAck()} {
		d.run(frame(ip4(), in))
	}
	d.age("flows4", uint32(xdplbTimeoutTIMEOUT_FIN)+2)
	d.setGeneration(real1, generation(real1)+1)
	if to := d.destination(t, frame(ip4(), ack(portPlain))); to != real2MAC {
		t.Fatalf("to %x, want %x", to, real2MAC)
	}
	d.wantFlows(t, "taken over", map[string][]xdplbFlow{"flows4": flowTo(real2, xdplbFlowStateFLOW_ESTABLISHED)})
	if idle := nowTicks(t) - d.flows("flows4")[0].Seen; idle >= 10 {
		t.Errorf("taken over: idle for %d ticks", idle)
	}
}

// TestQuiescedBackend: without a slot in the table a backend gets nothing new and keeps what it has.
func TestQuiescedBackend(t *testing.T) {
	d := newPair(t)
	established := frame(ip4(), ack(portPlain))
	opening := tcp(clientPort+1, portPlain, tcpFlags{syn: true})
	d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real1)...)
	d.run(frame(ip4(), syn(portPlain)))
	d.run(established)
	d.run(frame(ip4(), opening))
	d.run(frame(ip6(), udp(portPlain)))
	for _, slots := range [][]uint32{{real2}, nil} {
		d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, slots...)...)
		for kind, in := range map[string][]byte{
			"established": established, "opening": frame(ip4(), opening), "datagram": frame(ip6(), udp(portPlain)),
		} {
			if to := d.destination(t, in); to != real1MAC {
				t.Errorf("slots %v, %s: to %x, want %x", slots, kind, to, real1MAC)
			}
		}
	}
	if reason, _, _ := d.explain(frame(ip4(), udp(portPlain))); reason != isNoBackend {
		t.Errorf("new flow: reason %d, want %d", reason, isNoBackend)
	}
}

// TestSynFlood: more SYNs than their table holds push no established connection out.
func TestSynFlood(t *testing.T) {
	d := newPair(t)
	const established = 200
	to := map[uint16]macAddr{}
	for port := uint16(1000); port < 1000+established; port++ {
		to[port] = d.destination(t, frame(ip4(), tcp(port, portPlain, tcpFlags{syn: true})))
		d.run(frame(ip4(), tcp(port, portPlain, tcpFlags{ack: true})))
	}
	for port := range 4 * flowRoom {
		if reason, _ := d.run(frame(ip4(from4(router4)), tcp(uint16(port), portPlain, tcpFlags{syn: true}))); reason != xdpTX {
			t.Fatalf("SYN %d: verdict %d, want %d", port, reason, xdpTX)
		}
	}
	if got := len(d.flows("flows4")); got != established {
		t.Errorf("%d established connections left, want %d", got, established)
	}
	for port, want := range to {
		if got := d.destination(t, frame(ip4(), tcp(port, portPlain, tcpFlags{ack: true}))); got != want {
			t.Errorf("connection of port %d: to %x, want %x", port, got, want)
		}
	}
}

// TestFlowOnTwoCPUs sends the first packets of the same flows on all CPUs at once. Each flow has one backend, whoever
// came first, and is one connection.
func TestFlowOnTwoCPUs(t *testing.T) {
	const flows = 3000
	frameOf := map[string]func(port uint16) []byte{
		"SYN":      func(port uint16) []byte { return frame(ip4(), tcp(port, portPlain, tcpFlags{syn: true})) },
		"datagram": func(port uint16) []byte { return frame(ip6(), udpFrom(port, portPlain)) },
	}
	for name, frame := range frameOf {
		t.Run(name, func(t *testing.T) {
			d := newPair(t)
			var frames [][]byte
			for port := range uint16(flows) {
				frames = append(frames, frame(1024+port))
			}
			var to [4][flows]macAddr
			var meeting meetingPoint
			onEachCPU(t, func(worker, workers int) {
				for i, in := range frames {
					meeting.wait(i, workers)
					_, out := d.run(in)
					to[worker][i] = macAddr(out[:6])
				}
				meeting.wait(flows, workers)
				for i := range frames {
					for other := range workers {
						if to[other][i] != to[worker][i] {
							t.Errorf("flow %d: to %x and to %x", i, to[worker][i], to[other][i])
							return
						}
					}
				}
			})
			if got := d.counters(real1).Connections + d.counters(real2).Connections; got != flows {
				t.Errorf("%d connections, want %d", got, flows)
			}
		})
	}
}

// TestCounters counts what a backend got: packets, and their bytes of IP, without Ethernet, tags and padding.
func TestCounters(t *testing.T) {
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
