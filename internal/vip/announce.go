// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/neigh"
)

// An announcement is sent three times, one second apart: a broadcast is never repeated when it is lost, RFC 4861
// (section 7.2.6, MAX_NEIGHBOR_ADVERTISEMENT and RetransTimer) allows three at no shorter distance, and RFC 5227's two
// ARP announcements, two seconds apart, take as long.
const (
	rounds   = 3
	interval = time.Second
)

// Announce tells the segment behind an interface that an address lives at the interface's hardware address: IPv4 by
// gratuitous ARP, as request and as reply, because hosts differ in which of them they heed; IPv6 by an unsolicited
// neighbour advertisement with the override flag. Who has the address in its cache replaces the hardware address.
//
// It sends three times, and returns after the last (about two seconds), or with ctx's error when that ends earlier.
func Announce(ctx context.Context, addr netip.Addr, dev string) error {
	link, mac, err := ethernet(dev)
	if err != nil {
		return fmt.Errorf("announce %s: %w", addr, err)
	}
	var frames [][]byte
	if addr.Is4() {
		frames = [][]byte{gratuitous(mac, addr, arpRequest), gratuitous(mac, addr, arpReply)}
	} else {
		frames = [][]byte{advertisement(mac, addr)}
	}
	// Protocol 0: this socket receives nothing.
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("announce %s: open a packet socket: %w", addr, err)
	}
	defer func() { _ = unix.Close(socket) }()
	for round := 1; ; round++ {
		for _, frame := range frames {
			if err := unix.Sendto(socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}); err != nil {
				return fmt.Errorf("announce %s on %s: %w", addr, dev, err)
			}
		}
		if round == rounds {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("announce %s on %s: %w", addr, dev, ctx.Err())
		case <-time.After(interval):
		}
	}
}

// ethernet returns an interface that is up and has an Ethernet address, and that address.
func ethernet(dev string) (netlink.Link, [6]byte, error) {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return nil, [6]byte{}, fmt.Errorf("find interface %s: %w", dev, err)
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		return nil, [6]byte{}, fmt.Errorf("interface %s is down", dev)
	}
	mac, err := neigh.HardwareAddr(link.Attrs().Index)
	return link, mac, err
}

// The operations of ARP (RFC 826).
const (
	arpRequest = 1
	arpReply   = 2
)

// gratuitous returns an ARP frame in which addr is both sender and target. The request has no target hardware address
// (RFC 5227, section 1.1); the reply repeats the sender's there, without which Linux does not take it for gratuitous
// (arp_is_garp in net/ipv4/arp.c).
func gratuitous(mac [6]byte, addr netip.Addr, operation uint16) []byte {
	broadcast := [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	frame := ethernetHeader(broadcast, mac, unix.ETH_P_ARP)
	frame = binary.BigEndian.AppendUint16(frame, 1) // Ethernet
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IP)
	frame = append(frame, 6, 4) // lengths of the addresses
	frame = binary.BigEndian.AppendUint16(frame, operation)
	frame = append(frame, mac[:]...)
	frame = append(frame, addr.AsSlice()...)
	target := [6]byte{}
	if operation == arpReply {
		target = mac
	}
	frame = append(frame, target[:]...)
	return append(frame, addr.AsSlice()...)
}

// advertisement returns an unsolicited neighbour advertisement of addr to all nodes (RFC 4861, sections 4.4 and
// 7.2.6): override set, solicited and router not.
func advertisement(mac [6]byte, addr netip.Addr) []byte {
	const override = 0x20
	allNodes := netip.IPv6LinkLocalAllNodes()
	message := []byte{136, 0, 0, 0, override, 0, 0, 0} // type, code, checksum, flags
	message = append(message, addr.AsSlice()...)
	message = append(message, 2, 1) // option: target link-layer address, in units of 8 bytes
	message = append(message, mac[:]...)

	pseudo := append(addr.AsSlice(), allNodes.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(message[2:], checksum(append(pseudo, message...)))

	frame := ethernetHeader([6]byte{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6)
	frame = append(frame, 0x60, 0, 0, 0) // version
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(message)))
	frame = append(frame, unix.IPPROTO_ICMPV6, 255) // 255: a receiver sees that no router has passed it on
	frame = append(frame, addr.AsSlice()...)
	frame = append(frame, allNodes.AsSlice()...)
	return append(frame, message...)
}

func ethernetHeader(to, from [6]byte, protocol uint16) []byte {
	header := append(to[:], from[:]...)
	return binary.BigEndian.AppendUint16(header, protocol)
}

// checksum returns the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
