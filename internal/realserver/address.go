// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/neigh"
)

// primaryAddress returns the address that dev's own ARP has as sender: its first global IPv4 address (the RIP).
func primaryAddress(dev string) (netip.Addr, error) {
	all, err := neigh.Addresses()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range all {
		if a.Interface == dev && a.Prefix.Addr().Is4() {
			return a.Prefix.Addr(), nil
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
