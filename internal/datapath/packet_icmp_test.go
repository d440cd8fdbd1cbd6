// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func TestICMP(t *testing.T) {
	t.Parallel()
	newWorld(t).check(t, icmpCases())
}

// error4 is a router's complaint to the VIP about a packet that a real server sent to the client.
func error4(kind, code uint8, quoted gopacket.Payload) []byte {
	return frame(ip4(from4(router4)), icmp4(kind, code), quoted)
}

func error6(kind, code uint8, quoted gopacket.Payload) []byte {
	header, rest := icmp6(kind, code)
	return frame(ip6(from6(router6)), header, rest, quoted)
}

// quote4 and quote6 are what a real server sent, as far as a router quotes it.
func quote4(bytes int, change ...func(*layers.IPv4)) gopacket.Payload {
	change = append([]func(*layers.IPv4){from4(vip4), to4(client4)}, change...)
	return packet(ip4(change...), tcp(portPlain, clientPort, tcpFlags{ack: true}), data(600))[:bytes]
}

func quote6(bytes int, above ...gopacket.SerializableLayer) gopacket.Payload {
	stack := []gopacket.SerializableLayer{ip6(from6(vip6), to6(client6))}
	stack = append(stack, above...)
	return packet(append(stack, tcp(portPlain, clientPort, tcpFlags{ack: true}), data(600))...)[:bytes]
}

func icmpCases() []packetCase {
	syn4, syn6 := frame(ip4(), syn(portPlain)), frame(ip6(), syn(portPlain))
	open4 := [][]byte{syn4, frame(ip4(), ack(portPlain))}
	open6 := [][]byte{syn6, frame(ip6(), ack(portPlain))}

	quoteUDP4 := packet(ip4(from4(vip4), to4(client4)), udpFrom(portPlain, clientPort), data(20))
	quoteUDP6 := packet(ip6(from6(vip6), to6(client6)), udpFrom(portPlain, clientPort), data(20))

	var cases []packetCase
	follows := func(name string, before [][]byte, in []byte) {
		cases = append(cases, packetCase{
			name: name, before: before, in: in, want: forwarded(in, directorMAC, real1MAC), reason: isTX,
		})
	}
	stays := func(name string, before [][]byte, in []byte, reason xdplbReason) {
		cases = append(cases, packetCase{name: name, before: before, in: in, reason: reason})
	}

	for kind := range 256 {
		name := fmt.Sprintf("ICMP type %d", kind)
		in := error4(uint8(kind), 1, quote4(28))
		switch kind {
		case 3, 11, 12:
			follows(name, open4, in)
		default:
			stays(name, open4, in, isOtherProtocol)
		}
		name = fmt.Sprintf("ICMPv6 type %d", kind)
		in = error6(uint8(kind), 1, quote6(48))
		switch kind {
		case 1, 2, 3, 4:
			follows(name, open6, in)
		default:
			stays(name, open6, in, isOtherProtocol)
		}
	}

	follows("fragmentation needed", open4, error4(3, 4, quote4(28)))
	follows("packet too big", open6, error6(2, 0, quote6(640)))
	follows("quote of a flow that is not established yet", [][]byte{syn4}, error4(3, 4, quote4(28)))
	follows("quote of a flow that is not established yet, IPv6", [][]byte{syn6}, error6(2, 0, quote6(48)))
	follows("quoted UDP", [][]byte{frame(ip4(), udp(portPlain))}, error4(3, 3, quoteUDP4))
	follows("quoted UDP, IPv6", [][]byte{frame(ip6(), udp(portPlain))}, error6(1, 4, quoteUDP6))
	follows("quote cut behind the ports", open4, error4(3, 4, quote4(24)))
	follows("quote cut behind the ports, IPv6", open6, error6(2, 0, quote6(44)))
	follows("quote with options", open4, error4(3, 4, quote4(52, withOptions(6))))
	follows("quote with extension headers", open6, error6(2, 0, quote6(120, hopByHop(1), destinationOptions(0))))
	follows("quote of an atomic fragment", open6, error6(2, 0, quote6(120, fragment6(9, 0, false))))
	follows("quote of a first fragment", open4, error4(3, 4, quote4(28, fragment4(0, true))))
	follows("quote of a first fragment, IPv6", open6, error6(2, 0, quote6(120, fragment6(9, 0, true))))
	follows("error in a tagged frame", open4, frame(tag(3), ip4(from4(router4)), icmp4(3, 4), quote4(28)))
	follows("error with options", open4, frame(ip4(from4(router4), withOptions(2)), icmp4(3, 4), quote4(28)))
	header, rest := icmp6(2, 0)
	follows("error behind extension headers", open6,
		frame(ip6(from6(router6)), hopByHop(0), destinationOptions(1), header, rest, quote6(48)))
	follows("error with padding", open4, padded(error4(3, 4, quote4(28)), 14))

	stays("quote of an unknown flow", nil, error4(3, 4, quote4(28)), isICMPUnmatched)
	stays("quote of an unknown flow, IPv6", nil, error6(2, 0, quote6(48)), isICMPUnmatched)
	stays("quote of UDP, but the flow is TCP", open4, error4(3, 3, quoteUDP4), isICMPUnmatched)
	stays("quote of the director's own packet", open4,
		frame(ip4(from4(router4), to4(dip4)), icmp4(3, 4), quote4(28, from4(dip4))), isICMPUnmatched)
	stays("quote whose source is not where the error goes", open4,
		frame(ip4(from4(router4), to4(dip4)), icmp4(3, 4), quote4(28)), isICMPUnmatched)
	stays("quote whose source is not where the error goes, IPv6", open6,
		frame(ip6(from6(router6), to6(dip6)), header, rest, quote6(48)), isICMPUnmatched)
	stays("quote the wrong way round", open4,
		error4(3, 4, packet(ip4(), syn(portPlain))), isICMPUnmatched)
	stays("quote of a later fragment", open4, error4(3, 4, quote4(28, fragment4(7, false))), isICMPUnmatched)
	stays("quote of a later fragment, IPv6", open6, error6(2, 0, quote6(120, fragment6(9, 7, false))), isICMPUnmatched)
	stays("quote of ICMP", open4, error4(11, 0, packet(ip4(from4(vip4), to4(client4)), icmp4(8, 0), data(8))), isOtherProtocol)
	stays("quote of ICMPv6", open6, error6(3, 0, packet(ip6(from6(vip6), to6(client6)), header, rest)), isOtherProtocol)
	stays("quote of a packet with segments left", open6, error6(3, 0, quote6(200, routing(1))), isOtherProtocol)
	stays("flooded error", open4,
		frameBetween(routerMAC, real1MAC, ip4(from4(router4)), icmp4(3, 4), quote4(28)), isOtherHost)
	stays("quote of IPv6 in an ICMP error", open4, error4(3, 4, quote6(48)), isMalformed)
	stays("quote of IPv4 in an ICMPv6 error", open6, error6(2, 0, quote4(60)), isMalformed)
	shortHeader := quote4(28)
	shortHeader[0] = 0x44
	stays("quote with a header length of 4 words", open4, error4(3, 4, shortHeader), isMalformed)

	for n := range 24 {
		stays("quote cut off", open4, error4(3, 4, quote4(n)), isMalformed)
	}
	for n := range 44 {
		stays("quote cut off, IPv6", open6, error6(2, 0, quote6(n)), isMalformed)
	}
	for n := range 8 {
		in := frame(ip4(from4(router4), protocol4(1)), gopacket.Payload{3, 4, 0, 0, 0, 0, 0, 0}[:n])
		stays("ICMP header cut off", open4, padded(in, 60), isMalformed)
		in = frame(ip6(from6(router6), protocol6(58)), gopacket.Payload{2, 0, 0, 0, 0, 0, 0, 0}[:n])
		stays("ICMPv6 header cut off", open6, padded(in, 60), isMalformed)
	}
	inPadding := error4(3, 4, quote4(28))
	stays("quote in the padding", open4, patched(inPadding, 2, 0, 28), isMalformed)
	return cases
}
