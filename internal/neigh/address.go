// SPDX-License-Identifier: Apache-2.0

package neigh

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Address is an address that this host has.
type Address struct {
	Prefix    netip.Prefix // the address itself, with the length of its network
	Interface string
	Ifindex   int
	Flags     int // IFA_F_*
}

// Addresses returns all addresses of this host, in the kernel's order.
func Addresses() ([]Address, error) {
	found, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	names := make(map[int]string)
	all := make([]Address, 0, len(found))
	for _, a := range found {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		if names[a.LinkIndex] == "" {
			link, err := netlink.LinkByIndex(a.LinkIndex)
			if errors.As(err, new(netlink.LinkNotFoundError)) {
				continue // it went, and its addresses with it
			}
			if err != nil {
				return nil, fmt.Errorf("list addresses: find interface %d: %w", a.LinkIndex, err)
			}
			names[a.LinkIndex] = link.Attrs().Name
		}
		bits, _ := a.Mask.Size()
		all = append(all, Address{
			Prefix: netip.PrefixFrom(ip.Unmap(), bits), Interface: names[a.LinkIndex], Ifindex: a.LinkIndex, Flags: a.Flags,
		})
	}
	return all, nil
}
