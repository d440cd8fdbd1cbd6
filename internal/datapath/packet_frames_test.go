// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

type macAddr [6]byte

// The hosts of the reference cluster, as the frames name them.
var (
	directorMAC = macAddr{0x02, 0, 0, 0, 0, 0x04}
	real1MAC    = macAddr{0x02, 0, 0, 0, 0, 0x08}
	real2MAC    = macAddr{0x02, 0, 0, 0, 0, 0x09}
	otherMAC    = macAddr{0x02, 0, 0, 0, 0, 0x14} // of the director's second interface
	routerMAC   = macAddr{0x02, 0, 0, 0, 0, 0x88}

	client4 = netip.MustParseAddr("10.10.0.1")
	client6 = netip.MustParseAddr("fd10::1")
	router4 = netip.MustParseAddr("172.10.0.1")
	router6 = netip.MustParseAddr("fd00:172::1")
	vip4    = netip.MustParseAddr("172.10.0.9")
	vip6    = netip.MustParseAddr("fd00:172::9")
	dip4    = netip.MustParseAddr("192.168.60.4")
	dip6    = netip.MustParseAddr("fd00:192::4")
)

const clientPort = 40000

// adTag is a tag of 802.1ad; a plain *layers.Dot1Q is one of 802.1Q.
type adTag struct{ *layers.Dot1Q }

// extension is an IPv6 extension header: its own number, and its bytes behind the first one, which frame fills in.
type extension struct {
	number layers.IPProtocol
	next   layers.IPProtocol
	rest   []byte
}

func (e *extension) LayerType() gopacket.LayerType { return gopacket.LayerTypePayload }

func (e *extension) SerializeTo(b gopacket.SerializeBuffer, _ gopacket.SerializeOptions) error {
	bytes, err := b.PrependBytes(1 + len(e.rest))
	if err != nil {
		return err
	}
	bytes[0] = byte(e.next)
	copy(bytes[1:], e.rest)
	return nil
}

// frame is a frame from the router to the director. Types, protocols, lengths and checksums that the caller leaves
// open are filled in.
func frame(above ...gopacket.SerializableLayer) []byte {
	return frameBetween(routerMAC, directorMAC, above...)
}

func frameBetween(from, to macAddr, above ...gopacket.SerializableLayer) []byte {
	eth := &layers.Ethernet{SrcMAC: from[:], DstMAC: to[:]}
	return serialize(append([]gopacket.SerializableLayer{eth}, above...)...)
}

// packet is a packet without a link header, as ICMP errors quote one.
func packet(above ...gopacket.SerializableLayer) gopacket.Payload {
	return serialize(above...)
}

func serialize(stack ...gopacket.SerializableLayer) []byte {
	var network gopacket.NetworkLayer
	for i, layer := range stack {
		var next gopacket.SerializableLayer
		if i+1 < len(stack) {
			next = stack[i+1]
		}
		switch layer := layer.(type) {
		case *layers.Ethernet:
			layer.EthernetType = etherType(next, layer.EthernetType)
		case *layers.Dot1Q:
			layer.Type = etherType(next, layer.Type)
		case adTag:
			layer.Type = etherType(next, layer.Type)
		case *layers.IPv4:
			layer.Protocol = protocol(next, layer.Protocol)
			network = layer
		case *layers.IPv6:
			layer.NextHeader = protocol(next, layer.NextHeader)
			network = layer
		case *extension:
			layer.next = protocol(next, layer.next)
		case *layers.TCP:
			must(layer.SetNetworkLayerForChecksum(network))
		case *layers.UDP:
			must(layer.SetNetworkLayerForChecksum(network))
		case *layers.ICMPv6:
			must(layer.SetNetworkLayerForChecksum(network))
		}
	}
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	must(gopacket.SerializeLayers(buffer, options, stack...))
	return slices.Clone(buffer.Bytes())
}

// must is for frames that a test builds of constants.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func etherType(next gopacket.SerializableLayer, otherwise layers.EthernetType) layers.EthernetType {
	switch next.(type) {
	case *layers.IPv4:
		return layers.EthernetTypeIPv4
	case *layers.IPv6:
		return layers.EthernetTypeIPv6
	case *layers.ARP:
		return layers.EthernetTypeARP
	case *layers.Dot1Q:
		return layers.EthernetTypeDot1Q
	case adTag:
		return layers.EthernetTypeQinQ
	default:
		return otherwise
	}
}

func protocol(next gopacket.SerializableLayer, otherwise layers.IPProtocol) layers.IPProtocol {
	switch next := next.(type) {
	case *layers.TCP:
		return layers.IPProtocolTCP
	case *layers.UDP:
		return layers.IPProtocolUDP
	case *layers.ICMPv4:
		return layers.IPProtocolICMPv4
	case *layers.ICMPv6:
		return layers.IPProtocolICMPv6
	case *extension:
		return next.number
	case sctpPacket:
		return layers.IPProtocolSCTP
	default:
		return otherwise
	}
}

// ---- Layers, from the client to the VIP unless they say otherwise ----

func tag(id uint16) *layers.Dot1Q {
	return &layers.Dot1Q{Priority: 5, DropEligible: true, VLANIdentifier: id}
}

func ip4(change ...func(*layers.IPv4)) *layers.IPv4 {
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Id: 0x1234, TOS: 0x2e,
		SrcIP: net.IP(client4.AsSlice()), DstIP: net.IP(vip4.AsSlice()),
	}
	for _, f := range change {
		f(ip)
	}
	return ip
}

func ip6(change ...func(*layers.IPv6)) *layers.IPv6 {
	ip := &layers.IPv6{
		Version: 6, HopLimit: 64, TrafficClass: 0x2e, FlowLabel: 0x54321,
		SrcIP: net.IP(client6.AsSlice()), DstIP: net.IP(vip6.AsSlice()),
	}
	for _, f := range change {
		f(ip)
	}
	return ip
}

func to4(addr netip.Addr) func(*layers.IPv4) {
	return func(ip *layers.IPv4) { ip.DstIP = addr.AsSlice() }
}

func from4(addr netip.Addr) func(*layers.IPv4) {
	return func(ip *layers.IPv4) { ip.SrcIP = addr.AsSlice() }
}

func ttl(n uint8) func(*layers.IPv4) {
	return func(ip *layers.IPv4) { ip.TTL = n }
}

// fragment4 gives the packet a place in a datagram; the offset is in units of 8 bytes.
func fragment4(offset uint16, more bool) func(*layers.IPv4) {
	return func(ip *layers.IPv4) {
		ip.FragOffset = offset
		if more {
			ip.Flags = layers.IPv4MoreFragments
		}
	}
}

func to6(addr netip.Addr) func(*layers.IPv6) {
	return func(ip *layers.IPv6) { ip.DstIP = addr.AsSlice() }
}

func from6(addr netip.Addr) func(*layers.IPv6) {
	return func(ip *layers.IPv6) { ip.SrcIP = addr.AsSlice() }
}

func hopLimit(n uint8) func(*layers.IPv6) {
	return func(ip *layers.IPv6) { ip.HopLimit = n }
}

// hopByHop and destinationOptions have units more groups of 8 bytes than the first, all padding.
func hopByHop(units int) *extension {
	return &extension{number: layers.IPProtocolIPv6HopByHop, rest: padN(units)}
}

func destinationOptions(units int) *extension {
	return &extension{number: layers.IPProtocolIPv6Destination, rest: padN(units)}
}

func padN(units int) []byte {
	rest := make([]byte, 8*(units+1)-1)
	rest[0] = byte(units)
	rest[1] = 1 // PadN
	rest[2] = byte(len(rest) - 3)
	return rest
}

func routing(segmentsLeft byte) *extension {
	rest := make([]byte, 8*3-1) // one address
	rest[0] = 2
	rest[1] = 4
	rest[2] = segmentsLeft
	return &extension{number: layers.IPProtocolIPv6Routing, rest: rest}
}

// fragment6's offset is in units of 8 bytes.
func fragment6(id uint32, offset uint16, more bool) *extension {
	word := offset << 3
	if more {
		word |= 1
	}
	rest := binary.BigEndian.AppendUint16([]byte{0}, word)
	return &extension{number: layers.IPProtocolIPv6Fragment, rest: binary.BigEndian.AppendUint32(rest, id)}
}

// The TCP flags that the program looks at.
type tcpFlags struct{ syn, ack, fin, rst bool }

func tcp(from, to uint16, f tcpFlags) *layers.TCP {
	return &layers.TCP{
		SrcPort: layers.TCPPort(from), DstPort: layers.TCPPort(to),
		Seq: 0x11223344, Window: 0x7210, SYN: f.syn, ACK: f.ack, FIN: f.fin, RST: f.rst,
	}
}

func syn(port uint16) *layers.TCP { return tcp(clientPort, port, tcpFlags{syn: true}) }
func ack(port uint16) *layers.TCP { return tcp(clientPort, port, tcpFlags{ack: true}) }

func udp(port uint16) *layers.UDP { return udpFrom(clientPort, port) }

func udpFrom(from, to uint16) *layers.UDP {
	return &layers.UDP{SrcPort: layers.UDPPort(from), DstPort: layers.UDPPort(to)}
}

// data is a payload of n bytes.
func data(n int) gopacket.Payload {
	bytes := make([]byte, n)
	for i := range bytes {
		bytes[i] = byte(i * 7)
	}
	return bytes
}

func icmp4(kind, code uint8) *layers.ICMPv4 {
	return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, code), Seq: 1400}
}

// icmp6 is the whole header of 8 bytes: gopacket's is 4 long.
func icmp6(kind, code uint8) (*layers.ICMPv6, gopacket.Payload) {
	return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}, gopacket.Payload{0, 0, 5, 0}
}

// ---- Changes to whole frames ----

// patched is the frame with other bytes at an offset behind the Ethernet header.
func patched(in []byte, offset int, bytes ...byte) []byte {
	out := slices.Clone(in)
	copy(out[14+offset:], bytes)
	return out
}

// padded is the frame with bytes behind the IP packet, as Ethernet pads short ones.
func padded(in []byte, n int) []byte {
	return append(slices.Clone(in), make([]byte, n)...)
}

// ipOffset is where the IP header of a frame with any number of tags starts, and the type of what is there.
func ipOffset(in []byte) (int, uint16) {
	offset := 12
	for offset+2 <= len(in) {
		kind := binary.BigEndian.Uint16(in[offset:])
		if kind != 0x8100 && kind != 0x88a8 {
			return offset + 2, kind
		}
		offset += 4
	}
	return len(in), 0
}

// forwarded is what must become of a frame: the MACs, one hop less, and the checksum of the whole header anew.
func forwarded(in []byte, from, to macAddr) []byte {
	out := slices.Clone(in)
	copy(out[0:], to[:])
	copy(out[6:], from[:])
	ip, kind := ipOffset(out)
	if kind == 0x86dd {
		out[ip+7]--
		return out
	}
	out[ip+8]--
	return resummed(out)
}

// resummed is an IPv4 frame with the right checksum, summed up anew.
func resummed(in []byte) []byte {
	out := slices.Clone(in)
	ip, _ := ipOffset(out)
	header := out[ip : ip+int(out[ip]&15)*4]
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], ^onesSum(header))
	return out
}

// onesSum is the 16-bit one's complement sum of RFC 1071.
func onesSum(bytes []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(bytes); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(bytes[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// withTag is the frame with a tag of 802.1Q pushed in front of what it carries.
func withTag(in []byte, tci uint16) []byte {
	return slices.Insert(slices.Clone(in), 12, 0x81, 0x00, byte(tci>>8), byte(tci))
}

// withVLAN is the frame with another id in its outer tag.
func withVLAN(in []byte, id uint16) []byte {
	out := slices.Clone(in)
	tci := binary.BigEndian.Uint16(out[14:])
	binary.BigEndian.PutUint16(out[14:], tci&0xf000|id)
	return out
}
