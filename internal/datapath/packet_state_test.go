// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
)

// chunk is an SCTP chunk's type (RFC 9260 3.2).
type chunk byte

const (
	chunkData chunk = iota
	chunkInit
	chunkInitAck
	chunkSack
	chunkHeartbeat
	chunkHeartbeatAck
	chunkAbort
	chunkShutdown
	chunkShutdownAck
	chunkError
	chunkCookieEcho
	chunkCookieAck
	chunkECNE
	chunkCWR
	chunkShutdownComplete
)

// sctpPacket is a common header and chunks.
type sctpPacket struct{ gopacket.Payload }

// sctp is a packet whose chunks have five bytes of content each, and so three of padding.
func sctp(from, to uint16, chunks ...chunk) sctpPacket {
	bytes := []byte{byte(from >> 8), byte(from), byte(to >> 8), byte(to), 1, 2, 3, 4, 0xc5, 0xc6, 0xc7, 0xc8}
	for _, c := range chunks {
		bytes = append(bytes, byte(c), 0, 0, 9, 1, 2, 3, 4, 5, 0, 0, 0)
	}
	return sctpPacket{bytes}
}

// event is a packet in LVS's words, and what its tables say that it makes of each state.
type event struct {
	name    string
	packets []gopacket.SerializableLayer // each of which is such an event
	next    string                       // one for each column
}

// stateTable is a protocol's part of "INPUT-ONLY" in the kernel's ip_vs_proto_tcp.c or ip_vs_proto_sctp.c: the columns that
// are reached from a client's first packet.
type stateTable struct {
	protocol uint8
	columns  string
	paths    map[string][]gopacket.SerializableLayer // to each state
	events   []event
}

func tcpTable() stateTable {
	flags := func(f tcpFlags) gopacket.SerializableLayer { return tcp(clientPort, portPlain, f) }
	opening, answer := flags(tcpFlags{syn: true}), flags(tcpFlags{ack: true})
	end, abort := flags(tcpFlags{fin: true, ack: true}), flags(tcpFlags{rst: true})
	type path = []gopacket.SerializableLayer
	return stateTable{
		protocol: unix.IPPROTO_TCP,
		columns:  "SYN_RECV ESTABLISHED FIN_WAIT TIME_WAIT CLOSE",
		paths: map[string][]gopacket.SerializableLayer{
			"SYN_RECV": {opening}, "ESTABLISHED": {opening, answer}, "FIN_WAIT": {opening, answer, end},
			"TIME_WAIT": {opening, end}, "CLOSE": {opening, answer, abort},
		},
		events: []event{
			{"syn", path{opening, flags(tcpFlags{syn: true, fin: true})}, "SYN_RECV ESTABLISHED SYN_RECV SYN_RECV SYN_RECV"},
			{"fin", path{end, flags(tcpFlags{fin: true})}, "TIME_WAIT FIN_WAIT FIN_WAIT TIME_WAIT CLOSE"},
			{"ack", path{answer}, "ESTABLISHED ESTABLISHED FIN_WAIT TIME_WAIT CLOSE"},
			{"rst", path{
				abort, flags(tcpFlags{rst: true, ack: true}), flags(tcpFlags{rst: true, syn: true, fin: true, ack: true}),
			}, "SYN_RECV CLOSE CLOSE CLOSE CLOSE"},
		},
	}
}

func sctpTable() stateTable {
	type path = []gopacket.SerializableLayer
	with := func(chunks ...chunk) gopacket.SerializableLayer { return sctp(clientPort, portPlain, chunks...) }
	packets := func(kinds ...chunk) (all path) {
		for _, kind := range kinds {
			all = append(all, with(kind))
		}
		return all
	}
	return stateTable{
		protocol: unix.IPPROTO_SCTP,
		columns:  "INIT1 INIT C-ECHOED ESTABLISHED S-RECEIVED CLOSED",
		paths: map[string][]gopacket.SerializableLayer{
			"INIT1": packets(chunkInit), "INIT": packets(chunkInit, chunkInit), "C-ECHOED": packets(chunkInit, chunkInitAck),
			"ESTABLISHED": packets(chunkInit, chunkCookieEcho), "CLOSED": packets(chunkInit, chunkAbort),
			"S-RECEIVED": packets(chunkInit, chunkCookieEcho, chunkShutdown),
		},
		events: []event{
			{"data", append(packets(chunkData, chunkSack, chunkHeartbeat, chunkHeartbeatAck, chunkECNE, chunkCWR, 15, 192, 255),
				with(chunkData, chunkAbort)), "INIT1 INIT C-ECHOED ESTABLISHED S-RECEIVED CLOSED"},
			// where LVS stays CLOSED or goes to INIT, another association begins
			{"init", packets(chunkInit), "INIT INIT C-ECHOED ESTABLISHED S-RECEIVED INIT1"},
			{"init ack", packets(chunkInitAck), "C-ECHOED C-ECHOED C-ECHOED ESTABLISHED S-RECEIVED CLOSED"},
			{"cookie echo", append(packets(chunkCookieEcho), with(chunkCookieEcho, chunkData)),
				"ESTABLISHED ESTABLISHED C-ECHOED ESTABLISHED S-RECEIVED CLOSED"},
			{"cookie ack", packets(chunkCookieAck), "INIT1 INIT ESTABLISHED ESTABLISHED S-RECEIVED CLOSED"},
			{"shutdown", packets(chunkShutdown), "INIT1 INIT C-ECHOED S-RECEIVED S-RECEIVED CLOSED"},
			{"shutdown ack", packets(chunkShutdownAck), "INIT INIT C-ECHOED CLOSED S-RECEIVED CLOSED"},
			{"shutdown complete", packets(chunkShutdownComplete), "CLOSED CLOSED C-ECHOED ESTABLISHED CLOSED CLOSED"},
			{"error", packets(chunkError), "INIT1 INIT C-ECHOED ESTABLISHED S-RECEIVED CLOSED"},
			{"abort", append(packets(chunkAbort), with(chunkCookieEcho, chunkAbort), with(chunkCookieAck, chunkAbort)),
				"CLOSED CLOSED CLOSED CLOSED CLOSED CLOSED"},
		},
	}
}

func udpTable() stateTable {
	datagram := udp(portPlain)
	return stateTable{
		protocol: unix.IPPROTO_UDP, columns: "UDP",
		paths:  map[string][]gopacket.SerializableLayer{"UDP": {datagram}},
		events: []event{{"datagram", []gopacket.SerializableLayer{datagram}, "UDP"}},
	}
}

// TestStateTable sends each kind of packet in each state that LVS's tables can come to, and compares the next state, and
// whether the connection counts as active.
func TestStateTable(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer) {
		d := newRig(t)
		loads := mapMemory(t, d.maps["loads"])
		for _, table := range []stateTable{tcpTable(), sctpTable(), udpTable()} {
			var services []virtual
			for _, vip := range []netip.Addr{vip4, vip6} {
				services = append(services, virtual{
					at: netip.AddrPortFrom(vip, portPlain), protocol: table.protocol, scheduler: xdplbSchedulerSCHEDULER_LC,
					slots: []uint32{real1}, members: []uint32{real1, 1},
				})
			}
			d.publish(services...)
			columns := strings.Fields(table.columns)
			for _, event := range table.events {
				for i, want := range strings.Fields(event.next) {
					for n, in := range event.packets {
						d.forget()
						clear(loads)
						for _, before := range table.paths[columns[i]] {
							d.destination(t, frame(ip(), before))
						}
						where := fmt.Sprintf("%s, packet %d, in %s", event.name, n, columns[i])
						d.wantState(t, loads, where+", before", columns[i])
						d.destination(t, frame(ip(), in))
						d.wantState(t, loads, where, want)
					}
				}
			}
		}
	})
}

// wantState compares the state of the only flow, and what its backend is loaded with.
func (d *rig) wantState(t *testing.T, loads mapped, where, want string) {
	t.Helper()
	flows := d.flows()
	if len(flows) != 1 {
		t.Fatalf("%s: %d flows, want 1", where, len(flows))
	}
	if got := stateOf(flows[0]); string(got) != want {
		t.Errorf("%s: %s, LVS comes to %s", where, got, want)
	}
	wantActive := int64(0)
	if want == "ESTABLISHED" {
		wantActive = 1
	}
	if active, inactive := splitLoad(loads.load(2 * real1)); active != wantActive || inactive != 1-wantActive {
		t.Errorf("%s: %d active and %d inactive, want %d and %d", where, active, inactive, wantActive, 1-wantActive)
	}
}

// TestWhatIsNoOpening: a packet without flags and a SYN with ACK pass for an ACK.
func TestWhatIsNoOpening(t *testing.T) {
	t.Parallel()
	d := newPair(t)
	for _, flags := range []tcpFlags{{}, {syn: true, ack: true}} {
		in := frame(ip4(), tcp(clientPort, portPlain, flags))
		d.forget()
		if reason, _, _ := d.explain(in); reason != isNoConnection {
			t.Errorf("%+v of no flow: %s, want %s", flags, nameOf(reason), nameOf(isNoConnection))
		}
		d.turn(0)
		d.destination(t, frame(ip4(), syn(portPlain)))
		d.destination(t, in)
		d.wantFlows(t, fmt.Sprintf("%+v", flags), flowTo(real1, xdplbFlowStateFLOW_ESTABLISHED))
	}
}

// timeoutCase is a state, and what LVS says of its timeout: the seconds, or the one that can be set.
type timeoutCase struct {
	state xdplbFlowState
	left  func(lb.Timeouts) time.Duration
}

func timeoutCases() []timeoutCase {
	seconds := func(n int) func(lb.Timeouts) time.Duration {
		return func(lb.Timeouts) time.Duration { return time.Duration(n) * time.Second }
	}
	tcp := func(t lb.Timeouts) time.Duration { return t.OrDefault().TCP }
	fin := func(t lb.Timeouts) time.Duration { return t.OrDefault().TCPFin }
	udp := func(t lb.Timeouts) time.Duration { return t.OrDefault().UDP }
	return []timeoutCase{
		{xdplbFlowStateFLOW_SYN, seconds(60)}, {xdplbFlowStateFLOW_ESTABLISHED, tcp}, {xdplbFlowStateFLOW_FIN, fin},
		{xdplbFlowStateFLOW_TIME_WAIT, seconds(120)}, {xdplbFlowStateFLOW_CLOSED, seconds(10)},
		{xdplbFlowStateFLOW_DATAGRAM, udp}, {xdplbFlowStateFLOW_UDP, udp},
		{xdplbFlowStateFLOW_SCTP_NONE, seconds(61)}, {xdplbFlowStateFLOW_INIT1, seconds(4)},
		{xdplbFlowStateFLOW_INIT, seconds(61)}, {xdplbFlowStateFLOW_COOKIE_ECHOED, seconds(61)},
		{xdplbFlowStateFLOW_SCTP_ESTABLISHED, seconds(900)}, {xdplbFlowStateFLOW_SHUTDOWN_RECEIVED, seconds(61)},
		{xdplbFlowStateFLOW_SCTP_CLOSED, seconds(61)},
	}
}

// someTimeouts are LVS's, short ones and the longest.
func someTimeouts() []lb.Timeouts {
	return []lb.Timeouts{
		{},
		{TCP: 20 * time.Second, TCPFin: 7 * time.Second, UDP: 5 * time.Second},
		{TCP: lb.MaxTimeout, TCPFin: 3 * time.Hour, UDP: 2 * time.Hour},
	}
}

// TestTimeoutOfEachState lets time pass for an entry in a bucket that is full but for it: a new flow takes its way when
// its timeout is over, and not before.
func TestTimeoutOfEachState(t *testing.T) {
	t.Parallel()
	d := newPair(t, tableOf(1, 1))
	for _, set := range someTimeouts() {
		for side := range uint32(2) {
			d.put("timeouts", side, newTimeouts(set))
		}
		for _, c := range timeoutCases() {
			const margin = 2 // ticks: of rounding, and of a clock that goes on
			timeout := uint32(c.left(set) >> tickShift)
			for age, want := range map[uint32]uint64{timeout - min(timeout, margin): 0, timeout + 1 + margin: 1} {
				d.forget()
				before := d.evictions()[xdplbEvictionEVICTION_EXPIRED]
				for way := range ways {
					entry := newEntry(firstTarget(real1), xdplbFlowStateFLOW_ESTABLISHED, 0, nowTicks(t))
					if way == 2 {
						entry = newEntry(firstTarget(real1), c.state, 0, nowTicks(t)-age)
					}
					d.setEntry(0, int(way), entry)
				}
				d.run(frame(ip4(), udpFrom(999, portPlain)))
				if got := d.evictions()[xdplbEvictionEVICTION_EXPIRED] - before; got != want {
					t.Errorf("timeouts %s, state %d, idle for %d ticks: expired %d, want %d", set, c.state, age, got, want)
				}
			}
		}
	}
}

// TestTimeoutsOfASide: packets take the timeouts of the configuration that is live.
func TestTimeoutsOfASide(t *testing.T) {
	t.Parallel()
	d := newPair(t)
	live := uint32(d.config.load(configEpoch) & 1)
	d.put("timeouts", 1-live, newTimeouts(lb.Timeouts{UDP: 5 * time.Second}))
	in := frame(ip4(), udp(portPlain))
	for epoch, want := range []macAddr{real1MAC, real2MAC} {
		if epoch == 1 {
			d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real1, real2)...)
		}
		d.forget()
		d.turn(0)
		d.run(in)
		d.turn(1)
		d.age(20)
		if to := d.destination(t, in); to != want {
			t.Errorf("epoch %d: to %x, want %x", epoch, to, want)
		}
	}
}

// quoteSCTP4 and quoteSCTP6 are what a real server sent, as far as a router must quote it.
func quoteSCTP4(bytes int) gopacket.Payload {
	return packet(ip4(from4(vip4), to4(client4)), sctp(portPlain, clientPort, chunkSack))[:bytes]
}

func quoteSCTP6(bytes int) gopacket.Payload {
	return packet(ip6(from6(vip6), to6(client6)), sctp(portPlain, clientPort, chunkSack))[:bytes]
}

// TestSCTPPackets: what is forwarded, what is malformed, and how errors and fragments follow an association.
func TestSCTPPackets(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	services := worldServices()
	for _, vip := range []netip.Addr{vip4, vip6} {
		services = append(services, virtual{
			at: netip.AddrPortFrom(vip, portPlain), protocol: unix.IPPROTO_SCTP, scheduler: xdplbSchedulerSCHEDULER_RR,
			slots: []uint32{real1},
		})
	}
	d.publish(services...)
	packet := func(chunks ...chunk) sctpPacket { return sctp(clientPort, portPlain, chunks...) }
	short := func(bytes int) sctpPacket { return sctpPacket{packet(chunkInit).Payload[:bytes]} }
	open4 := [][]byte{frame(ip4(), packet(chunkInit)), frame(ip4(), packet(chunkCookieEcho))}
	open6 := [][]byte{frame(ip6(), packet(chunkInit)), frame(ip6(), packet(chunkCookieEcho))}
	first := frame(ip4(fragment4(0, true)), packet(chunkData))
	first6 := frame(ip6(), fragment6(77, 0, true), packet(chunkData))
	var cases []packetCase
	goes := func(name string, before [][]byte, in []byte) {
		cases = append(cases, packetCase{name: name, before: before, in: in, want: forwarded(in, directorMAC, real1MAC), reason: isTX})
	}
	stays := func(name string, before [][]byte, in []byte, reason xdplbReason) {
		cases = append(cases, packetCase{name: name, before: before, in: in, reason: reason})
	}
	goes("INIT", nil, frame(ip4(), packet(chunkInit)))
	goes("INIT, IPv6", nil, frame(ip6(), packet(chunkInit)))
	goes("INIT behind extension headers", nil, frame(ip6(), hopByHop(0), destinationOptions(1), packet(chunkInit)))
	goes("INIT with options", nil, frame(ip4(withOptions(3)), packet(chunkInit)))
	goes("a chunk header and no more", nil, frame(ip4(), short(16)))
	goes("DATA", open4, frame(ip4(), packet(chunkData, chunkData)))
	goes("DATA, IPv6", open6, frame(ip6(), packet(chunkData)))
	goes("error", open4, error4(3, 4, quoteSCTP4(28)))
	goes("error, IPv6", open6, error6(2, 0, quoteSCTP6(48)))
	goes("first fragment", open4, first)
	goes("later fragment", append(open4, first), later4(protocol4(132)))
	goes("later fragment, IPv6", append(open6, first6), frame(ip6(), fragmentOf(132, 77, 181), data(100)))
	for _, c := range []chunk{chunkData, chunkInitAck, chunkAbort, chunkShutdownAck, chunkCookieEcho} {
		stays(fmt.Sprintf("chunk %d of no association", c), nil, frame(ip4(), packet(c)), isNoConnection)
	}
	stays("no service", nil, frame(ip4(), sctp(clientPort, portVLAN, chunkInit)), isNoService)
	stays("error of another protocol's flow", [][]byte{frame(ip4(), syn(portPlain))}, error4(3, 4, quoteSCTP4(28)), isICMPUnmatched)
	stays("no chunk", nil, frame(ip4(), short(12)), isMalformed)
	stays("half a chunk header", nil, frame(ip6(), short(15)), isMalformed)
	stays("half a header", nil, frame(ip4(), short(11)), isMalformed)
	stays("chunk header of padding", nil, padded(frame(ip4(), short(12)), 20), isMalformed)
	d.check(t, cases)
}

// TestAbortBehindACookie: an ABORT counts behind a COOKIE ECHO, but not where lengths hide it or where the packet has ended.
func TestAbortBehindACookie(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	d.publish(virtual{
		at: netip.AddrPortFrom(vip4, portPlain), protocol: unix.IPPROTO_SCTP, scheduler: xdplbSchedulerSCHEDULER_RR,
		slots: []uint32{real1},
	})
	const length = 12 + 2 // where the first chunk says how long it is
	whole := sctp(clientPort, portPlain, chunkCookieEcho, chunkAbort)
	for _, c := range []struct {
		name string
		say  byte
		cut  int
		want xdplbFlowState
	}{
		{"whole", 9, 0, xdplbFlowStateFLOW_SCTP_CLOSED},
		{"padding counted", 12, 0, xdplbFlowStateFLOW_SCTP_CLOSED},
		{"no length", 0, 0, xdplbFlowStateFLOW_SCTP_ESTABLISHED},
		{"shorter than its header", 3, 0, xdplbFlowStateFLOW_SCTP_ESTABLISHED},
		{"longer than the packet", 255, 0, xdplbFlowStateFLOW_SCTP_ESTABLISHED},
		{"cut", 9, 12 + 12 + 3, xdplbFlowStateFLOW_SCTP_ESTABLISHED},
	} {
		bytes := slices.Clone(whole.Payload)
		bytes[length+1] = c.say
		if c.cut > 0 {
			bytes = bytes[:c.cut]
		}
		d.forget()
		d.destination(t, frame(ip4(), sctp(clientPort, portPlain, chunkInit)))
		d.destination(t, padded(frame(ip4(), sctpPacket{bytes}), 20))
		d.wantFlows(t, c.name, flowTo(real1, c.want))
	}
}

// TestAssociationFromItsMiddle: on an unsettled slot of mh an association that is not known is recorded, and believed with its
// next packet; on a settled one its control chunks are looked at.
func TestAssociationFromItsMiddle(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, ip func() gopacket.SerializableLayer) {
		d := newRig(t)
		publish := func(slot uint32) {
			var services []virtual
			for _, vip := range []netip.Addr{vip4, vip6} {
				services = append(services, virtual{
					at: netip.AddrPortFrom(vip, portPlain), protocol: unix.IPPROTO_SCTP, scheduler: xdplbSchedulerSCHEDULER_MH,
					slots: []uint32{slot},
				})
			}
			d.publish(services...)
		}
		type step struct {
			chunk chunk
			state xdplbFlowState
		}
		follow := func(what string, steps ...step) {
			t.Helper()
			for i, s := range steps {
				d.destination(t, frame(ip(), sctp(clientPort, portPlain, s.chunk)))
				d.wantFlows(t, fmt.Sprintf("%s, step %d", what, i), flowTo(real1, s.state))
			}
		}
		publish(real1 | unsettled)
		follow("data", step{chunkData, xdplbFlowStateFLOW_SCTP_NONE}, step{chunkSack, xdplbFlowStateFLOW_SCTP_ESTABLISHED},
			step{chunkShutdown, xdplbFlowStateFLOW_SHUTDOWN_RECEIVED}, step{chunkShutdownComplete, xdplbFlowStateFLOW_SCTP_CLOSED})
		d.forget()
		follow("its end", step{chunkData, xdplbFlowStateFLOW_SCTP_NONE}, step{chunkShutdownAck, xdplbFlowStateFLOW_SCTP_CLOSED})
		d.forget()
		publish(real1)
		follow("settled", step{chunkInit, xdplbFlowStateFLOW_INIT1}, step{chunkCookieEcho, xdplbFlowStateFLOW_SCTP_ESTABLISHED},
			step{chunkData, xdplbFlowStateFLOW_SCTP_ESTABLISHED}, step{chunkAbort, xdplbFlowStateFLOW_SCTP_CLOSED})
	})
}
