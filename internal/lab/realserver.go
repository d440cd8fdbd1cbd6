// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// vips lists the virtual addresses of the cluster.
func (o Options) vips() []netip.Addr {
	if o.IPv6 {
		return []netip.Addr{VIP, VIP6}
	}
	return []netip.Addr{VIP}
}

// becomeRealServer puts the VIPs on the real server's loopback interface and keeps them silent in the cluster's way.
func (h *Host) becomeRealServer(o Options) error {
	if o.ARP == ARPSysctl || o.ARP == ARPFilter {
		for _, scope := range []string{"all", "lo"} {
			if err := h.SetSysctl("net/ipv4/conf/"+scope+"/arp_ignore", "1"); err != nil {
				return err
			}
			if err := h.SetSysctl("net/ipv4/conf/"+scope+"/arp_announce", "2"); err != nil {
				return err
			}
		}
	}
	return h.holdAloud(o.vips())
}

// holdAloud puts the VIPs on lo as a naive operator does: the host answers for them.
func (h *Host) holdAloud(vips []netip.Addr) error {
	return h.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo of %s: %w", h.Name, err)
		}
		for _, vip := range vips {
			if err := addAddress(lo, netip.PrefixFrom(vip, vip.BitLen())); err != nil {
				return err
			}
		}
		return nil
	})
}

// fixVIP makes the permanent neighbour entries of method A on the router.
func (l *Lab) fixVIP() error {
	router, director := l.Host("router"), l.Host("director")
	mac := director.Interfaces[0].MAC
	for _, vip := range l.Options.vips() {
		if err := router.SetNeighbour("eth1", vip, mac); err != nil {
			return err
		}
	}
	return nil
}
