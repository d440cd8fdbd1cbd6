// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
)

// flow is what a case's frame says, as another library reads it.
type flow struct {
	Client, VIP         string
	ClientPort, VIPPort uint16
	HopLimit            uint8
	VLAN                uint16
	Flags               string
	Fragment            uint16
}

func decode(t *testing.T, frame []byte) flow {
	t.Helper()
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if failed := packet.ErrorLayer(); failed != nil {
		t.Fatalf("the frame is malformed: %v", failed.Error())
	}
	var f flow
	for _, layer := range packet.Layers() {
		switch l := layer.(type) {
		case *layers.Dot1Q:
			f.VLAN = l.VLANIdentifier
		case *layers.IPv4:
			f.Client, f.VIP, f.HopLimit, f.Fragment = l.SrcIP.String(), l.DstIP.String(), l.TTL, l.FragOffset
		case *layers.IPv6:
			f.Client, f.VIP, f.HopLimit = l.SrcIP.String(), l.DstIP.String(), l.HopLimit
		case *layers.TCP:
			f.ClientPort, f.VIPPort = uint16(l.SrcPort), uint16(l.DstPort)
			if l.SYN {
				f.Flags += "S"
			}
			if l.ACK {
				f.Flags += "A"
			}
		case *layers.UDP:
			f.ClientPort, f.VIPPort = uint16(l.SrcPort), uint16(l.DstPort)
		}
	}
	return f
}

// checkChecksum lets the other library compute the IPv4 header's checksum.
func checkChecksum(t *testing.T, frame []byte) {
	t.Helper()
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	ip, ok := packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	if !ok {
		return
	}
	have := ip.Checksum
	buffer := gopacket.NewSerializeBuffer()
	if err := ip.SerializeTo(buffer, gopacket.SerializeOptions{ComputeChecksums: true}); err != nil {
		t.Fatal(err)
	}
	if have != ip.Checksum {
		t.Errorf("IPv4 checksum %#x, want %#x", have, ip.Checksum)
	}
}

func testUplink() uplink {
	return uplink{link: &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{
		Index: 2, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1},
	}}}
}

// TestTuplePlaces writes into a frame what the driver writes, and lets another library find it.
func TestTuplePlaces(t *testing.T) {
	t.Parallel()
	d := &Director{uplink: testUplink()}
	for _, test := range []struct {
		name  string
		frame []byte
		tuple Tuple
		want  flow
	}{
		{"IPv4", d.tcp4(serviceRR, 0, tcpSYN), tuple4,
			flow{Client: "1.2.3.4", VIP: "198.51.100.1", ClientPort: 0x5678, VIPPort: 80, HopLimit: 99, Flags: "S"}},
		{"VLAN", d.tcp4(serviceRR, vlan, tcpACK), tuple4.tagged(),
			flow{Client: "1.2.3.4", VIP: "198.51.100.1", ClientPort: 0x5678, VIPPort: 80, HopLimit: 99, Flags: "A", VLAN: vlan}},
		{"IPv6", d.tcp6(serviceIP6, tcpACK), tuple6,
			flow{Client: "2001:db8:1::102:304", VIP: "2001:db8::1", ClientPort: 0x5678, VIPPort: 80, HopLimit: 99, Flags: "A"}},
		{"UDP", d.hitUDP().Frame, tuple4,
			flow{Client: "1.2.3.4", VIP: "198.51.100.1", ClientPort: 0x5678, VIPPort: 53, HopLimit: 99}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			checkChecksum(t, test.frame)
			copy(test.frame[test.tuple.Client:], []byte{1, 2, 3, 4})
			copy(test.frame[test.tuple.Port:], []byte{0x56, 0x78})
			test.frame[test.tuple.HopLimit] = 99
			got := decode(t, test.frame)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("frame (-want +got):\n%s", diff)
			}
		})
	}
}

// TestQuotedTuplePlace is the same for what an ICMP error quotes.
func TestQuotedTuplePlace(t *testing.T) {
	t.Parallel()
	d := &Director{uplink: testUplink()}
	c := d.tooBig()
	copy(c.Frame[c.Tuple.Client:], []byte{1, 2, 3, 4})
	copy(c.Frame[c.Tuple.Port:], []byte{0x56, 0x78})
	packet := gopacket.NewPacket(c.Frame, layers.LayerTypeEthernet, gopacket.Default)
	icmp, ok := packet.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if !ok || icmp.TypeCode.String() != "DestinationUnreachable(FragmentationNeeded)" {
		t.Fatalf("not an ICMP fragmentation needed: %s", packet)
	}
	quoted := gopacket.NewPacket(icmp.Payload, layers.LayerTypeIPv4, gopacket.Default)
	ip := quoted.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	tcp := quoted.Layer(layers.LayerTypeTCP).(*layers.TCP)
	want := flow{Client: "1.2.3.4", VIP: vip4.String(), ClientPort: 0x5678, VIPPort: 80}
	got := flow{Client: ip.DstIP.String(), VIP: ip.SrcIP.String(), ClientPort: uint16(tcp.DstPort), VIPPort: uint16(tcp.SrcPort)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("quoted tuple (-want +got):\n%s", diff)
	}
}
