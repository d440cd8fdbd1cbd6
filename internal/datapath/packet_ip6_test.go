// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func TestIPv6(t *testing.T) {
	t.Parallel()
	newWorld(t).check(t, ip6Cases())
}

func protocol6(n layers.IPProtocol) func(*layers.IPv6) {
	return func(ip *layers.IPv6) { ip.NextHeader = n }
}

// chain is n extension headers in a row.
func chain(n int) []gopacket.SerializableLayer {
	stack := []gopacket.SerializableLayer{ip6()}
	for range n {
		stack = append(stack, destinationOptions(0))
	}
	return append(stack, syn(portPlain))
}

func ip6Cases() []packetCase {
	tcpFrame := frame(ip6(), syn(portPlain), data(100))
	udpFrame := frame(ip6(), udp(portPlain), data(100))
	hop := frame(ip6(), hopByHop(0), syn(portPlain), data(1))
	neighbour, rest := icmp6(135, 0)
	echo, echoRest := icmp6(128, 0)
	unfinished := &extension{number: layers.IPProtocolIPv6HopByHop, rest: []byte{0, 1}} // 3 bytes
	lying := hopByHop(0)
	lying.rest[0] = 255

	cases := []packetCase{
		{name: "TCP", in: tcpFrame, want: forwarded(tcpFrame, directorMAC, real1MAC), reason: isTX},
		{name: "UDP", in: udpFrame, want: forwarded(udpFrame, directorMAC, real1MAC), reason: isTX},
		{name: "no such port", in: frame(ip6(), syn(portUnserved)), reason: isNoService},
		{name: "the director's own address", in: frame(ip6(to6(dip6)), syn(portPlain)), reason: isNoService},
		{name: "SYN to a service without backends", in: frame(ip6(), syn(portEmpty)), reason: isNoBackend},
		{name: "ACK of no connection", in: frame(ip6(), ack(portPlain)), reason: isNoConnection},
		{name: "ACK of no connection, hashed", in: frame(ip6(), ack(portHashed)),
			want: forwarded(frame(ip6(), ack(portHashed)), directorMAC, real1MAC), reason: isTX},
		{name: "flooded frame", in: frameBetween(routerMAC, real1MAC, ip6(), syn(portPlain)), reason: isOtherHost},
		{name: "neighbour solicitation", in: frame(ip6(hopLimit(255)), neighbour, rest, data(24)), reason: isOtherProtocol},
		{name: "ping", in: frame(ip6(), echo, echoRest, data(56)), reason: isOtherProtocol},
		{name: "multicast listener report behind a router alert", in: frame(ip6(hopLimit(1)), hopByHop(0), echo, echoRest),
			reason: isOtherProtocol},
		{name: "IPv4's ICMP", in: frame(ip6(protocol6(1)), data(40)), reason: isOtherProtocol},
		{name: "OSPF", in: frame(ip6(protocol6(89)), data(40)), reason: isOtherProtocol},
		{name: "no next header", in: frame(ip6(protocol6(59))), reason: isOtherProtocol},
		{name: "no next header behind options", in: frame(ip6(), &extension{number: 60, next: 59, rest: padN(0)}),
			reason: isOtherProtocol},
		{name: "authentication header", in: frame(ip6(protocol6(51)), data(40)), reason: isOtherProtocol},

		{name: "payload length one more than the frame", in: patched(tcpFrame, 4, 0, 121), reason: isMalformed},
		{name: "payload length 0", in: patched(tcpFrame, 4, 0, 0), reason: isMalformed},
		{name: "payload length 65535", in: patched(tcpFrame, 4, 0xff, 0xff), reason: isMalformed},
		{name: "TCP header one byte short", in: patched(tcpFrame, 4, 0, 19), reason: isMalformed},
		{name: "UDP header one byte short", in: patched(udpFrame, 4, 0, 7), reason: isMalformed},
		{name: "payload length shorter than the frame", in: patched(tcpFrame, 4, 0, 20),
			want: forwarded(patched(tcpFrame, 4, 0, 20), directorMAC, real1MAC), reason: isTX},

		{name: "routing header with segments left", in: frame(ip6(), routing(1), syn(portPlain)), reason: isOtherProtocol},
		{name: "routing header with segments left behind options", reason: isOtherProtocol,
			in: frame(ip6(), hopByHop(0), routing(255), syn(portPlain))},
		{name: "extension header cut off by the frame's end", in: frame(ip6(), unfinished), reason: isMalformed},
		{name: "extension header beyond the frame's end", in: frame(ip6(), lying, syn(portPlain)), reason: isMalformed},
		{name: "extension header beyond the packet's end", in: padded(patched(hop, 4, 0, 8, 0, 64), 2100), reason: isMalformed},
		{name: "extension header beyond the packet's end, in the padding", reason: isMalformed,
			in: padded(frame(ip6(), &extension{number: 0, next: 6, rest: []byte{2, 1, 4, 0, 0, 0, 0}}), 60)},
		{name: "TCP header in the padding", reason: isMalformed,
			in: padded(frame(ip6(), &extension{number: 0, next: 6, rest: padN(2)}), 60)},
		{name: "UDP header in the padding", reason: isMalformed,
			in: padded(frame(ip6(), &extension{number: 0, next: 17, rest: padN(0)}), 60)},
		{name: "nine extension headers", in: frame(chain(9)...), reason: isOtherProtocol},
		{name: "unknown extension header behind a known one", reason: isOtherProtocol,
			in: frame(ip6(), hopByHop(0), &extension{number: 139, rest: padN(0), next: 6}, syn(portPlain))},
	}
	accepted := map[string][]byte{
		"hop-by-hop options":            hop,
		"hop-by-hop options, UDP":       frame(ip6(), hopByHop(0), udp(portPlain)),
		"long hop-by-hop options":       frame(ip6(), hopByHop(20), udp(portPlain)),
		"longest destination options":   frame(ip6(), destinationOptions(255), udp(portPlain)),
		"routing header at its end":     frame(ip6(), routing(0), syn(portPlain)),
		"destination options":           frame(ip6(), destinationOptions(2), syn(portPlain)),
		"atomic fragment":               frame(ip6(), fragment6(1, 0, false), syn(portPlain)),
		"the four that are known":       frame(ip6(), hopByHop(1), routing(0), fragment6(1, 0, false), destinationOptions(0), syn(portPlain), data(9)),
		"eight extension headers":       frame(chain(8)...),
		"extension headers and a tag":   frame(tag(5), ip6(), hopByHop(1), destinationOptions(1), syn(portPlain)),
		"extension headers and padding": padded(frame(ip6(), hopByHop(1), syn(portPlain)), 10),
	}
	for name, in := range accepted {
		cases = append(cases, packetCase{name: name, in: in, want: forwarded(in, directorMAC, real1MAC), reason: isTX})
	}
	for n := 15; n < 74; n++ {
		cases = append(cases, packetCase{name: "cut off", in: tcpFrame[:n], reason: isMalformed})
	}
	chained := frame(ip6(), hopByHop(1), destinationOptions(0), syn(portPlain))
	for n := 54; n < len(chained); n++ { // the payload length cut too
		in := patched(chained[:n], 4, 0, byte(n-54))
		cases = append(cases, packetCase{name: "extension headers cut off", in: in, reason: isMalformed})
	}
	return cases
}
