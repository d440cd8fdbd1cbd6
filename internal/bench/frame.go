// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/binary"
	"net/netip"
)

// nativeEndian is the byte order of both the machines that xdplb runs on (amd64, arm64), and so of the programs.
var nativeEndian = binary.LittleEndian

// EtherTypes and protocol numbers (IANA).
const (
	etherTypeIP4  = 0x0800
	etherTypeARP  = 0x0806
	etherTypeVLAN = 0x8100
	etherTypeIP6  = 0x86dd

	protocolICMP   = 1
	protocolTCP    = 6
	protocolUDP    = 17
	protocolICMPv6 = 58
)

// Flags of TCP (RFC 9293).
const (
	tcpSYN = 0x02
	tcpACK = 0x10
)

// Sizes of headers in bytes.
const (
	ethernetHeader = 14
	vlanTag        = 4
	ip4Header      = 20
	ip6Header      = 40
	tcpHeader      = 20
	udpHeader      = 8
	icmpHeader     = 8

	minFrame = 60 // of an Ethernet frame without its checksum (IEEE 802.3)
)

// The builders below make the headers that xdplb reads, and no more: transport checksums are left zero, because the
// driver changes the addresses under them and nobody verifies them.

// ethernet builds a frame for a MAC address, padded to the smallest size; vlan 0: no tag.
func ethernet(to [6]byte, vlan uint16, etherType uint16, payload []byte) []byte {
	frame := append([]byte{}, to[:]...)
	frame = append(frame, 2, 0, 0, 0, 0, 0xaa) // from
	if vlan != 0 {
		frame = binary.BigEndian.AppendUint16(frame, etherTypeVLAN)
		frame = binary.BigEndian.AppendUint16(frame, vlan)
	}
	frame = binary.BigEndian.AppendUint16(frame, etherType)
	frame = append(frame, payload...)
	if short := minFrame - len(frame); short > 0 {
		frame = append(frame, make([]byte, short)...)
	}
	return frame
}

// datagram4 is what an IPv4 header says of its packet; fragment is the field with flags and offset.
type datagram4 struct {
	from, to netip.Addr
	protocol byte
	fragment uint16
}

func (d datagram4) build(payload []byte) []byte {
	ip := make([]byte, ip4Header, ip4Header+len(payload))
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(ip4Header+len(payload)))
	binary.BigEndian.PutUint16(ip[4:], 0x1234) // identification
	binary.BigEndian.PutUint16(ip[6:], d.fragment)
	ip[8] = 64
	ip[9] = d.protocol
	copy(ip[12:], d.from.AsSlice())
	copy(ip[16:], d.to.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return append(ip, payload...)
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func packet6(from, to netip.Addr, protocol byte, payload []byte) []byte {
	ip := make([]byte, ip6Header, ip6Header+len(payload))
	ip[0] = 0x60
	binary.BigEndian.PutUint16(ip[4:], uint16(len(payload)))
	ip[6] = protocol
	ip[7] = 64
	copy(ip[8:], from.AsSlice())
	copy(ip[24:], to.AsSlice())
	return append(ip, payload...)
}

func segment(from, to uint16, flags byte) []byte {
	tcp := make([]byte, tcpHeader)
	binary.BigEndian.PutUint16(tcp[0:], from)
	binary.BigEndian.PutUint16(tcp[2:], to)
	tcp[12] = tcpHeader / 4 << 4
	tcp[13] = flags
	return tcp
}

func userDatagram(from, to uint16, payload int) []byte {
	udp := make([]byte, udpHeader+payload)
	binary.BigEndian.PutUint16(udp[0:], from)
	binary.BigEndian.PutUint16(udp[2:], to)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	return udp
}

// icmpError builds ICMP's or ICMPv6's "packet too big" with an MTU of 1400 and what it quotes.
func icmpError(kind, code byte, quoted []byte) []byte {
	icmp := make([]byte, icmpHeader, icmpHeader+len(quoted))
	icmp[0], icmp[1] = kind, code
	binary.BigEndian.PutUint32(icmp[4:], 1400)
	return append(icmp, quoted...)
}
