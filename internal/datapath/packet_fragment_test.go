// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/gopacket/gopacket/layers"
)

func TestFragments(t *testing.T) {
	t.Parallel()
	newWorld(t).check(t, fragmentCases())
}

// later4 and later6 are fragments without transport header, of datagram 0x1234.
func later4(change ...func(*layers.IPv4)) []byte {
	change = append([]func(*layers.IPv4){protocol4(17), fragment4(185, false)}, change...)
	return frame(ip4(change...), data(100))
}

func later6(id uint32, change ...func(*layers.IPv6)) []byte {
	return frame(ip6(change...), fragmentOf(17, id, 181), data(100))
}

func fragmentOf(next layers.IPProtocol, id uint32, offset uint16) *extension {
	header := fragment6(id, offset, false)
	header.next = next
	return header
}

func identification(id uint16) func(*layers.IPv4) {
	return func(ip *layers.IPv4) { ip.Id = id }
}

func fragmentCases() []packetCase {
	first4 := frame(ip4(fragment4(0, true)), udp(portPlain), data(1472))
	firstTCP := frame(ip4(fragment4(0, true)), ack(portPlain), data(1456))
	middle4 := later4(fragment4(100, true))
	last4 := later4()
	first6 := frame(ip6(), fragment6(77, 0, true), udp(portPlain), data(1440))
	last6 := later6(77)
	behindOptions := frame(ip6(), hopByHop(0), destinationOptions(1), fragmentOf(17, 77, 181), data(100))
	optionsBehind := frame(ip6(), fragmentOf(60, 77, 181), data(100)) // names another protocol than the first
	tiny := frame(ip4(protocol4(17), fragment4(1, false)), data(1))
	tagged := frame(tag(9), ip4(protocol4(17), fragment4(185, false)), data(100))
	open := [][]byte{frame(ip4(), syn(portPlain)), frame(ip4(), ack(portPlain))}

	// of an error whose quote is so long that it came in pieces
	firstError := frame(ip4(from4(router4), fragment4(0, true)), icmp4(3, 4), quote4(28))
	lastError := later4(from4(router4), protocol4(1))
	header, rest := icmp6(2, 0)
	firstError6 := frame(ip6(from6(router6)), fragment6(77, 0, true), header, rest, quote6(648))
	lastError6 := frame(ip6(from6(router6)), fragmentOf(58, 77, 81), data(30))
	open6 := [][]byte{frame(ip6(), syn(portPlain))}

	elsewhere := [][]byte{frame(ip4(fragment4(0, true)), udp(portElsewhere), data(1472))}

	tx := func(name string, before [][]byte, in []byte) packetCase {
		return packetCase{name: name, before: before, in: in, want: forwarded(in, directorMAC, real1MAC), reason: isTX}
	}
	lost := func(name string, before [][]byte, in []byte) packetCase {
		return packetCase{name: name, before: before, in: in, reason: isFragmentUnmatched}
	}
	return []packetCase{
		tx("first", nil, first4),
		tx("last behind the first", [][]byte{first4}, last4),
		tx("middle behind the first", [][]byte{first4}, middle4),
		tx("last behind first and middle", [][]byte{first4, middle4}, last4),
		tx("smallest offset", [][]byte{first4}, tiny),
		tx("with options", [][]byte{first4}, later4(withOptions(3))),
		tx("first of TCP", open, firstTCP),
		tx("last of TCP", append(open, firstTCP), later4(protocol4(6))),
		tx("last of TCP, of a settled slot", [][]byte{frame(ip4(), syn(portHashed)), frame(ip4(fragment4(0, true)), ack(portHashed), data(1456))},
			later4(protocol4(6))),
		tx("last of a known flow", [][]byte{frame(ip4(), udp(portPlain)), first4}, last4),
		tx("in a tagged frame", [][]byte{first4}, tagged),
		tx("last of an ICMP error", append(open, firstError), lastError),
		{name: "last to another interface", before: elsewhere, in: last4,
			want: forwarded(last4, otherMAC, real1MAC), reason: isRedirect},

		tx("IPv6: first", nil, first6),
		tx("IPv6: last behind the first", [][]byte{first6}, last6),
		tx("IPv6: behind options", [][]byte{first6}, behindOptions),
		tx("IPv6: another next header", [][]byte{first6}, optionsBehind),
		tx("IPv6: last of an ICMPv6 error", append(open6, firstError6), lastError6),

		lost("last without the first", nil, last4),
		lost("last before the first of another datagram", [][]byte{first4}, later4(identification(0x1235))),
		lost("of another protocol", [][]byte{first4}, later4(protocol4(6))),
		lost("of another client", [][]byte{first4}, later4(from4(router4))),
		lost("to another address", [][]byte{first4}, later4(to4(dip4))),
		lost("of a flow, but no fragment was first", [][]byte{frame(ip4(), udp(portPlain))}, last4),
		lost("behind an unserved first", [][]byte{frame(ip4(fragment4(0, true)), udp(portUnserved), data(1472))}, last4),
		lost("IPv6: last without the first", nil, last6),
		lost("IPv6: of another datagram", [][]byte{first6}, later6(78)),
		lost("IPv6: of another client", [][]byte{first6}, later6(77, from6(router6))),
		lost("IPv6: to another address", [][]byte{first6}, later6(77, to6(dip6))),
		lost("IPv6: id in the upper half", [][]byte{first6}, later6(77|1<<16)),

		{name: "first of no service", in: frame(ip4(fragment4(0, true)), udp(portUnserved), data(1472)), reason: isNoService},
		{name: "first of no service, IPv6", in: frame(ip6(), fragment6(77, 0, true), udp(portUnserved), data(1440)),
			reason: isNoService},
		{name: "first of no connection", in: firstTCP, reason: isNoConnection},
		{name: "first without a whole TCP header", in: frame(ip4(protocol4(6), fragment4(0, true)), data(8)), reason: isMalformed},
		{name: "first of a ping", in: frame(ip4(fragment4(0, true)), icmp4(8, 0), data(1472)), reason: isOtherProtocol},
		{name: "flooded last", before: [][]byte{first4}, reason: isOtherHost,
			in: frameBetween(routerMAC, real1MAC, ip4(protocol4(17), fragment4(185, false)), data(100))},
		{name: "last with TTL 1", before: [][]byte{first4}, in: later4(ttl(1)), reason: isTTLExceeded},
		{name: "IPv6: fragment header cut off", in: patched(last6, 4, 0, 7), reason: isMalformed},
	}
}

// TestFragmentsFollowTheFirstNotTheFlow: what the first fragment met is kept by the datagram, so that a datagram stays
// in one piece though its flow goes elsewhere meanwhile.
func TestFragmentsFollowTheFirstNotTheFlow(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	d.publish(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real1, real2)...)
	first := frame(ip4(fragment4(0, true)), udp(portPlain), data(1472))
	to := d.destination(t, first)
	clear(d.buckets)
	if again := d.destination(t, frame(ip4(), udp(portPlain))); again == to {
		t.Fatalf("the flow was scheduled anew to %x too: this test shows nothing", again)
	}
	if last := d.destination(t, later4()); last != to {
		t.Errorf("last fragment to %x, first to %x", last, to)
	}
}

func TestFragmentsAge(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	first := frame(ip4(fragment4(0, true)), udp(portPlain), data(1472))
	for _, c := range []struct {
		age    uint32
		reason xdplbReason
	}{
		{0, isTX},
		{uint32(xdplbTimeoutTIMEOUT_FRAGMENT) - 3, isTX},
		{uint32(xdplbTimeoutTIMEOUT_FRAGMENT) + 2, isFragmentUnmatched},
	} {
		d.run(first)
		d.ageFragments(c.age)
		if reason, _, _ := d.explain(later4()); reason != c.reason {
			t.Errorf("%d ticks behind its first fragment: reason %s, want %s", c.age, nameOf(reason), nameOf(c.reason))
		}
	}
}

func TestFragmentsOfARemovedBackend(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	d.run(frame(ip4(fragment4(0, true)), udp(portPlain), data(1472)))
	d.setGeneration(real1, generation(real1)+1)
	if reason, _, _ := d.explain(later4()); reason != isFragmentUnmatched {
		t.Errorf("reason %s, want %s", nameOf(reason), nameOf(isFragmentUnmatched))
	}
}
