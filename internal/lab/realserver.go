// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"xdplb/internal/realserver"
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
	if o.ARP == ARPStatic || o.ARP == ARPNone {
		return h.holdAloud(o.vips())
	}
	setup := realserver.Options{VIPs: o.vips(), Dev: h.Interfaces[0].Name, ArpMode: realserver.ArpMode(o.ARP)}
	if err := h.Do(func() error { return realserver.Setup(setup) }); err != nil {
		return fmt.Errorf("set up %s as a real server: %w", h.Name, err)
	}
	return nil
}

// forgetRealServers takes back what set-ups of the real servers have left outside their namespaces: the records, and
// perhaps a systemd unit.
func forgetRealServers(o Options) error {
	l, err := newLab(o)
	if err != nil {
		return err
	}
	defer l.Close()
	for _, h := range l.hosts {
		if h.Role != RoleReal && h.Role != RoleDirector { // a director may be one too
			continue
		}
		if h.ns, err = netns.GetFromName(Namespace(h.Name)); err != nil {
			h.ns = netns.None() // Up did not get so far
			continue
		}
		// Where it fails, as in a namespace that is only a name yet, there is nothing that would outlive the namespace.
		_ = h.Do(func() error { return realserver.Teardown(realserver.Options{}) })
	}
	// Nobody misses it if it is empty, and if it is not, this does nothing.
	_ = os.Remove(realserver.DefaultStateDir)
	return nil
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
