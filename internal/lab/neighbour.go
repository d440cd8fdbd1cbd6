// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Neighbour is an entry of a host's ARP cache, or of the table of IPv6 neighbours.
type Neighbour struct {
	Addr      netip.Addr
	MAC       net.HardwareAddr // nil: asked for, no answer
	Interface string
	Permanent bool // set by an administrator
}

// Neighbours returns the neighbours that the host knows or asks for, sorted by address.
func (h *Host) Neighbours() ([]Neighbour, error) {
	var neighbours []Neighbour
	err := h.eachNeighbour(func(iface string, entry netlink.Neigh) error {
		addr, ok := netip.AddrFromSlice(entry.IP)
		if ok && entry.State&netlink.NUD_NOARP == 0 && entry.State != netlink.NUD_NONE {
			neighbours = append(neighbours, Neighbour{
				Addr:      addr.Unmap(),
				MAC:       entry.HardwareAddr,
				Interface: iface,
				Permanent: entry.State&netlink.NUD_PERMANENT != 0,
			})
		}
		return nil
	})
	slices.SortFunc(neighbours, func(a, b Neighbour) int { return a.Addr.Compare(b.Addr) })
	return neighbours, err
}

// eachNeighbour calls visit on the host for each entry of its neighbour tables, until one fails.
func (h *Host) eachNeighbour(visit func(iface string, entry netlink.Neigh) error) error {
	return h.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces of %s: %w", h.Name, err)
		}
		for _, link := range links {
			entries, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
			if err != nil {
				return fmt.Errorf("list neighbours of %s: %w", h.Name, err)
			}
			for _, entry := range entries {
				if err := visit(link.Attrs().Name, entry); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// SetNeighbour makes a permanent neighbour entry on an interface of the host.
func (h *Host) SetNeighbour(iface string, addr netip.Addr, mac net.HardwareAddr) error {
	return h.Do(func() error {
		link, err := netlink.LinkByName(iface)
		if err != nil {
			return fmt.Errorf("find %s on %s: %w", iface, h.Name, err)
		}
		err = netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac,
		})
		if err != nil {
			return fmt.Errorf("set neighbour %s of %s to %s: %w", addr, h.Name, mac, err)
		}
		return nil
	})
}

// ForgetNeighbours deletes every entry that the host has learned, so that it asks anew.
func (h *Host) ForgetNeighbours() error {
	return h.eachNeighbour(func(_ string, entry netlink.Neigh) error {
		if entry.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 {
			return nil
		}
		if err := netlink.NeighDel(&entry); err != nil {
			return fmt.Errorf("forget neighbour %s of %s: %w", entry.IP, h.Name, err)
		}
		return nil
	})
}
