// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// held is an address that this host has.
type held struct {
	prefix netip.Prefix
	dev    string
	index  int
	flags  int // IFA_F_*
}

// addresses returns all addresses of this host, in the kernel's order.
func addresses() ([]held, error) {
	found, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	for try := 0; errors.Is(err, netlink.ErrDumpInterrupted) && try < 10; try++ {
		found, err = netlink.AddrList(nil, netlink.FAMILY_ALL)
	}
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	names := make(map[int]string)
	var all []held
	for _, a := range found {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		if names[a.LinkIndex] == "" {
			link, err := netlink.LinkByIndex(a.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("list addresses: find interface %d: %w", a.LinkIndex, err)
			}
			names[a.LinkIndex] = link.Attrs().Name
		}
		bits, _ := a.Mask.Size()
		all = append(all, held{
			prefix: netip.PrefixFrom(ip.Unmap(), bits), dev: names[a.LinkIndex], index: a.LinkIndex, flags: a.Flags,
		})
	}
	return all, nil
}

// primaryAddress returns the address that dev's own ARP has as sender: its first global IPv4 address (the RIP).
func primaryAddress(dev string) (netip.Addr, error) {
	all, err := addresses()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range all {
		if a.dev == dev && a.prefix.Addr().Is4() {
			return a.prefix.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("interface %s has no IPv4 address that could stand in for a VIP in ARP", dev)
}

// onLoopback returns the VIP as an address of lo: alone in its network, with itself as broadcast address, and without
// duplicate address detection.
func onLoopback(vip netip.Addr) *netlink.Addr {
	ip := net.IP(vip.AsSlice())
	address := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(vip.BitLen(), vip.BitLen())}}
	if vip.Is4() {
		address.Broadcast = ip
	} else {
		address.Flags = unix.IFA_F_NODAD
	}
	return address
}

func addVIP(vip netip.Addr) error {
	lo, err := loopback()
	if err != nil {
		return err
	}
	err = netlink.AddrAdd(lo, onLoopback(vip))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s to lo: %w", vip, err)
	}
	return nil
}

func deleteVIP(vip netip.Addr) error {
	lo, err := loopback()
	if err != nil {
		return err
	}
	err = netlink.AddrDel(lo, onLoopback(vip))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("delete %s from lo: %w", vip, err)
	}
	return nil
}

func loopback() (netlink.Link, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find interface lo: %w", err)
	}
	return lo, nil
}
