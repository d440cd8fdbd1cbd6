// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

func TestIPv4(t *testing.T) {
	t.Parallel()
	newWorld(t).check(t, ip4Cases())
}

// withOptions makes a header of 20 + 4*words bytes.
func withOptions(words int) func(*layers.IPv4) {
	return func(ip *layers.IPv4) {
		for range words {
			ip.Options = append(ip.Options, layers.IPv4Option{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}})
		}
	}
}

func ip4Cases() []packetCase {
	tcpFrame := frame(ip4(), syn(portPlain), data(100))
	udpFrame := frame(ip4(), udp(portPlain), data(100))
	unserved := frame(ip4(), syn(portUnserved), data(100))
	withTCPOptions := syn(portPlain)
	withTCPOptions.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}}
	mss := frame(ip4(), withTCPOptions)
	unfragmented := frame(ip4(func(ip *layers.IPv4) { ip.Flags = layers.IPv4DontFragment }), syn(portPlain))
	shortened := resummed(patched(tcpFrame, 2, 0, 40))

	cases := []packetCase{
		{name: "TCP", in: tcpFrame, want: forwarded(tcpFrame, directorMAC, real1MAC), reason: isTX},
		{name: "UDP", in: udpFrame, want: forwarded(udpFrame, directorMAC, real1MAC), reason: isTX},
		{name: "TCP without data", in: frame(ip4(), syn(portPlain)),
			want: forwarded(frame(ip4(), syn(portPlain)), directorMAC, real1MAC), reason: isTX},
		{name: "UDP without data", in: frame(ip4(), udp(portPlain)),
			want: forwarded(frame(ip4(), udp(portPlain)), directorMAC, real1MAC), reason: isTX},
		{name: "TCP options", in: mss, want: forwarded(mss, directorMAC, real1MAC), reason: isTX},
		{name: "don't fragment", in: unfragmented,
			want: forwarded(unfragmented, directorMAC, real1MAC), reason: isTX},

		{name: "no such port", in: unserved, reason: isNoService},
		{name: "no such port, UDP", in: frame(ip4(), udp(portUnserved)), reason: isNoService},
		{name: "the director's own address", in: frame(ip4(to4(dip4)), syn(portPlain)), reason: isNoService},
		{name: "to the client's port", in: frame(ip4(), tcp(portPlain, clientPort, tcpFlags{syn: true})), reason: isNoService},
		{name: "from the VIP", in: frame(ip4(from4(vip4), to4(client4)), tcp(portPlain, clientPort, tcpFlags{ack: true})),
			reason: isNoService},
		{name: "no such port to another host", reason: isNoService,
			in: frameBetween(routerMAC, real1MAC, ip4(), syn(portUnserved))},
		{name: "ping", in: frame(ip4(), icmp4(8, 0), data(56)), reason: isOtherProtocol},
		{name: "SCTP to no service", in: frame(ip4(), sctp(clientPort, portPlain, chunkInit)), reason: isNoService},
		{name: "GRE", in: frame(ip4(protocol4(47)), data(40)), reason: isOtherProtocol},
		{name: "UDP-Lite", in: frame(ip4(protocol4(136)), data(40)), reason: isOtherProtocol},

		{name: "header length of 4 words", in: patched(tcpFrame, 0, 0x44), reason: isMalformed},
		{name: "header length 0", in: patched(tcpFrame, 0, 0x40), reason: isMalformed},
		{name: "header longer than the packet", reason: isMalformed, in: patched(tcpFrame, 0, 0x4f, 0, 0, 59)},
		{name: "header as long as the packet", reason: isMalformed, in: patched(tcpFrame, 0, 0x4f, 0, 0, 60)},
		{name: "header longer than the frame", reason: isMalformed, in: patched(frame(ip4(), udp(portPlain)), 0, 0x48)},
		{name: "total length 0", in: patched(tcpFrame, 2, 0, 0), reason: isMalformed},
		{name: "total length less than the header", in: patched(tcpFrame, 2, 0, 19), reason: isMalformed},
		{name: "total length one more than the frame", in: patched(tcpFrame, 2, 0, 141), reason: isMalformed},
		{name: "total length 65535", in: patched(tcpFrame, 2, 0xff, 0xff), reason: isMalformed},
		{name: "TCP header one byte short", in: patched(tcpFrame, 2, 0, 39), reason: isMalformed},
		{name: "UDP header one byte short", in: patched(udpFrame, 2, 0, 27), reason: isMalformed},
		{name: "no TCP header though the frame goes on", in: patched(tcpFrame, 2, 0, 20), reason: isMalformed},
		{name: "TCP header of padding", in: padded(frame(ip4(protocol4(6))), 40), reason: isMalformed},
		{name: "total length shorter than the frame", in: shortened,
			want: forwarded(shortened, directorMAC, real1MAC), reason: isTX},

		{name: "SYN to a service without backends", in: frame(ip4(), syn(portEmpty)), reason: isNoBackend},
		{name: "datagram to a service without backends", in: frame(ip4(), udp(portEmpty)), reason: isNoBackend},
		{name: "ACK of no connection", in: frame(ip4(), ack(portPlain)), reason: isNoConnection},
		{name: "RST of no connection", reason: isNoConnection,
			in: frame(ip4(), tcp(clientPort, portPlain, tcpFlags{rst: true}))},
		{name: "SYN-ACK of no connection", reason: isNoConnection,
			in: frame(ip4(), tcp(clientPort, portPlain, tcpFlags{syn: true, ack: true}))},
		{name: "SYN-RST of no connection", reason: isNoConnection,
			in: frame(ip4(), tcp(clientPort, portPlain, tcpFlags{syn: true, rst: true}))},
		{name: "FIN of no connection", reason: isNoConnection,
			in: frame(ip4(), tcp(clientPort, portPlain, tcpFlags{fin: true}))},
		{name: "ACK of no connection, hashed", in: frame(ip4(), ack(portHashed)),
			want: forwarded(frame(ip4(), ack(portHashed)), directorMAC, real1MAC), reason: isTX},
		{name: "ACK of no connection to a service without backends", in: frame(ip4(), ack(portEmpty)), reason: isNoConnection},
	}
	for words := 1; words <= 10; words++ {
		in := frame(ip4(withOptions(words)), syn(portPlain), data(5))
		cases = append(cases, packetCase{name: "options", in: in, want: forwarded(in, directorMAC, real1MAC), reason: isTX})
	}
	for n := 15; n < 54; n++ {
		cases = append(cases, packetCase{name: "cut off", in: tcpFrame[:n], reason: isMalformed})
	}
	return cases
}

func protocol4(n layers.IPProtocol) func(*layers.IPv4) {
	return func(ip *layers.IPv4) { ip.Protocol = n }
}

// TestTTLChecksum decrements under every checksum that a header can have, right or wrong: what a receiver's sum over
// the header says must stay what it was.
func TestTTLChecksum(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	in := frame(ip4(), udp(portPlain))
	const check, header = 14 + 10, 20
	for value := range 1 << 16 {
		binary.BigEndian.PutUint16(in[check:], uint16(value))
		_, out := d.run(in)
		before, after := onesSum(in[14:14+header]), onesSum(out[14:14+header])
		if before%0xffff != after%0xffff {
			t.Fatalf("checksum %#04x became %#04x: the header's sum was %#04x, is %#04x",
				value, binary.BigEndian.Uint16(out[check:]), before, after)
		}
	}
}

// TestTTLChecksumOfRightHeaders walks through the right checksums of headers that differ in their id, and wants exactly
// the one that a sender would have written (RFC 1624 tells of decrements that give the other zero).
func TestTTLChecksumOfRightHeaders(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	in := frame(ip4(), udp(portPlain))
	for id := range 1 << 16 {
		binary.BigEndian.PutUint16(in[14+4:], uint16(id))
		in := resummed(in)
		_, out := d.run(in)
		if want := forwarded(in, directorMAC, real1MAC); string(out) != string(want) {
			t.Fatalf("id %#04x: checksum %#04x became %#04x, want %#04x", id,
				binary.BigEndian.Uint16(in[24:]), binary.BigEndian.Uint16(out[24:]), binary.BigEndian.Uint16(want[24:]))
		}
	}
}

// TestEveryAddressBitCounts: a VIP that differs in one bit is another address, and likewise a port.
func TestEveryAddressBitCounts(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	check := func(what string, in []byte) {
		t.Helper()
		if reason, _, _ := d.explain(in); reason != isNoService {
			t.Errorf("%s: reason %s, want %s", what, nameOf(reason), nameOf(isNoService))
		}
	}
	for bit := range 32 {
		b := vip4.As4()
		b[bit/8] ^= 1 << (bit % 8)
		check("IPv4 address", frame(ip4(to4(netip.AddrFrom4(b))), syn(portPlain)))
	}
	for bit := range 128 {
		b := vip6.As16()
		b[bit/8] ^= 1 << (bit % 8)
		check("IPv6 address", frame(ip6(to6(netip.AddrFrom16(b))), syn(portPlain)))
	}
	for bit := 4; bit < 16; bit++ { // the world's services are neighbours
		check("port", frame(ip4(), syn(portPlain^1<<bit)))
	}
}
