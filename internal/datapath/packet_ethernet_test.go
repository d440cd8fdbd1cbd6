// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/gopacket/gopacket/layers"
)

func TestEthernet(t *testing.T) {
	t.Parallel()
	newWorld(t).check(t, ethernetCases())
}

func ethernetCases() []packetCase {
	plain := frame(ip4(), syn(portPlain), data(10))
	datagram := frame(ip4(), udp(portPlain))
	one := frame(tag(7), ip4(), syn(portPlain), data(10))
	oneAD := frame(adTag{tag(7)}, ip6(), syn(portPlain))
	two := frame(adTag{tag(7)}, tag(8), ip4(), udp(portPlain), data(10))
	three := frame(adTag{tag(7)}, tag(8), tag(9), ip4(), syn(portPlain))

	rewritten := frame(tag(7), ip4(), syn(portVLAN))
	rewrittenAD := frame(adTag{tag(7)}, tag(8), ip6(), syn(portVLAN))
	pushed4 := frame(ip4(), syn(portVLAN), data(3))
	pushed6 := frame(ip6(), udp(portVLAN), data(3))
	zero := frame(tag(0), ip4(), syn(portVLAN)) // a tag for the priority alone

	broadcast := macAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	lateMismatch := directorMAC
	lateMismatch[5]++
	earlyMismatch := directorMAC
	earlyMismatch[0] ^= 0x40
	middleMismatch := directorMAC
	middleMismatch[3]++

	arp := &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: layers.ARPRequest, SourceHwAddress: routerMAC[:], SourceProtAddress: router4.AsSlice(),
		DstHwAddress: make([]byte, 6), DstProtAddress: vip4.AsSlice(),
	}
	mpls := serialize(&layers.Ethernet{
		SrcMAC: routerMAC[:], DstMAC: directorMAC[:], EthernetType: layers.EthernetTypeMPLSUnicast,
	}, data(40))
	llc := serialize(&layers.Ethernet{SrcMAC: routerMAC[:], DstMAC: directorMAC[:], EthernetType: 0x26}, data(0x26))

	return []packetCase{
		{name: "no tag", in: plain, want: forwarded(plain, directorMAC, real1MAC), reason: isTX},
		{name: "802.1Q tag kept", in: one, want: forwarded(one, directorMAC, real1MAC), reason: isTX},
		{name: "802.1ad tag kept", in: oneAD, want: forwarded(oneAD, directorMAC, real1MAC), reason: isTX},
		{name: "two tags kept", in: two, want: forwarded(two, directorMAC, real1MAC), reason: isTX},
		{name: "three tags", in: three, reason: isNotIP},

		{name: "802.1Q tag rewritten", in: rewritten,
			want: withVLAN(forwarded(rewritten, directorMAC, real1MAC), vlanHere), reason: isTX},
		{name: "outer tag of two rewritten", in: rewrittenAD,
			want: withVLAN(forwarded(rewrittenAD, directorMAC, real1MAC), vlanHere), reason: isTX},
		{name: "priority tag rewritten", in: zero,
			want: withVLAN(forwarded(zero, directorMAC, real1MAC), vlanHere), reason: isTX},
		{name: "tag pushed, IPv4", in: pushed4,
			want: withTag(forwarded(pushed4, directorMAC, real1MAC), vlanHere), reason: isTX},
		{name: "tag pushed, IPv6", in: pushed6,
			want: withTag(forwarded(pushed6, directorMAC, real1MAC), vlanHere), reason: isTX},

		{name: "flooded frame of a new flow", reason: isOtherHost,
			in: frameBetween(routerMAC, real1MAC, ip4(), syn(portPlain))},
		{name: "flooded frame of a known flow", reason: isOtherHost,
			before: [][]byte{plain, frame(ip4(), ack(portPlain))},
			in:     frameBetween(directorMAC, real1MAC, ip4(ttl(63)), ack(portPlain))},
		{name: "flooded frame of a known flow to another interface", reason: isOtherHost,
			before: [][]byte{frame(ip4(), udp(portElsewhere))},
			in:     frameBetween(directorMAC, real1MAC, ip4(), udp(portElsewhere))},
		{name: "flooded frame of a known flow whose backend has no MAC", reason: isOtherHost,
			before: [][]byte{frame(ip4(), udp(portUnknown))},
			in:     frameBetween(routerMAC, real1MAC, ip4(), udp(portUnknown))},
		{name: "broadcast", in: frameBetween(routerMAC, broadcast, ip4(), syn(portPlain)), reason: isOtherHost},
		{name: "MAC differs in its last byte", reason: isOtherHost,
			before: [][]byte{datagram}, in: frameBetween(routerMAC, lateMismatch, ip4(), udp(portPlain))},
		{name: "MAC differs in its first byte", reason: isOtherHost,
			before: [][]byte{datagram}, in: frameBetween(routerMAC, earlyMismatch, ip4(), udp(portPlain))},
		{name: "MAC differs in the middle", reason: isOtherHost,
			before: [][]byte{datagram}, in: frameBetween(routerMAC, middleMismatch, ip4(), udp(portPlain))},

		{name: "ARP request for the VIP", in: frameBetween(routerMAC, broadcast, arp), reason: isNotIP},
		{name: "ARP in a VLAN", in: frameBetween(routerMAC, broadcast, tag(7), arp), reason: isNotIP},
		{name: "MPLS", in: mpls, reason: isNotIP},
		{name: "802.3 length instead of a type", in: llc, reason: isNotIP},

		// the shortest frame that BPF_PROG_TEST_RUN takes is a bare Ethernet header
		{name: "IPv4 type and nothing else", in: plain[:14], reason: isMalformed},
		{name: "IPv6 type and nothing else", in: frame(ip6(), syn(portPlain))[:14], reason: isMalformed},
		{name: "tag cut off", in: one[:16], reason: isNotIP},
		{name: "second tag cut off", in: two[:20], reason: isNotIP},
		{name: "IPv6 under IPv4's type", in: patched(plain, 0, 0x65), reason: isMalformed},
		{name: "IPv4 under IPv6's type", in: patched(frame(ip6(), syn(portPlain)), 0, 0x45), reason: isMalformed},
		{name: "padding kept", in: padded(frame(ip4(), udp(portPlain)), 18),
			want: padded(forwarded(frame(ip4(), udp(portPlain)), directorMAC, real1MAC), 18), reason: isTX},
		{name: "padding kept behind a pushed tag", in: padded(pushed6, 18),
			want: padded(withTag(forwarded(pushed6, directorMAC, real1MAC), vlanHere), 18), reason: isTX},
	}
}

// TestFrameFromAnUnknownInterface: the program may run where no entry says the interface's address.
func TestFrameFromAnUnknownInterface(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	d.put("interfaces", uint32(ifindexHere), xdplbInterface{Mac: directorMAC})
	d.check(t, []packetCase{
		{name: "new flow", in: frame(ip4(), syn(portPlain)), reason: isOtherHost},
		{name: "ping", in: frame(ip4(), icmp4(8, 0), data(56)), reason: isOtherProtocol},
	})
	d.put("interfaces", uint32(ifindexHere+interfacePlaces-1), xdplbInterface{Mac: directorMAC, Ifindex: ifindexHere})
	d.check(t, []packetCase{
		{name: "new flow, the interface in its last place", in: frame(ip4(), syn(portPlain)), want: forwarded(frame(ip4(), syn(portPlain)), directorMAC, real1MAC), reason: isTX},
	})
}

// TestFloodedFramesOpenNoFlow: a frame that is another host's leaves no trace but its reason.
func TestFloodedFramesOpenNoFlow(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	for _, in := range [][]byte{
		frameBetween(routerMAC, real1MAC, ip4(), syn(portPlain)),
		frameBetween(routerMAC, real1MAC, ip6(), udp(portPlain)),
		frameBetween(routerMAC, real1MAC, ip4(), ack(portHashed)),
	} {
		d.run(in)
	}
	d.wantFlows(t, "flooded")
	if got := d.counters(real1); got.Connections != 0 || got.Packets != 0 {
		t.Errorf("counted %+v", got)
	}
}
