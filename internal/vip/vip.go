// SPDX-License-Identifier: Apache-2.0

// Package vip puts virtual addresses on the director's interface and tells the segment that they live there.
//
// All functions act on the network namespace of the calling thread.
package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
	"xdplb/internal/neigh"
)

// ErrExists is wrapped by the error of [Add] when the host holds the address already.
var ErrExists = errors.New("this host has it already")

// ErrNotFound is wrapped by the error of [Delete] when the interface does not hold the address.
var ErrNotFound = errors.New("no such address")

// Parse reads ADDRESS or ADDRESS/PREFIX; without a prefix the network is the address alone (/32 or /128). The error
// names the offending word.
func Parse(s string) (netip.Prefix, error) {
	word, length, hasLength := strings.Cut(s, "/")
	addr, err := lb.ParseVIP(word)
	if err != nil {
		return netip.Prefix{}, err
	}
	if !hasLength {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	bits, err := strconv.ParseUint(length, 10, 8)
	if err != nil || bits < 1 || int(bits) > addr.BitLen() {
		return netip.Prefix{}, fmt.Errorf("VIP %q: the prefix length is 1 to %d", s, addr.BitLen())
	}
	return netip.PrefixFrom(addr, int(bits)), nil
}

// Add puts an address on an interface that is up, and announces it (see [Announce]); that takes about two seconds.
// The address serves from the start. If ctx ends early, the address stays, and the error is ctx's.
//
// An IPv6 address is added without duplicate address detection (IFA_F_NODAD): whoever held it before may still
// answer, and must not keep it from moving here.
func Add(ctx context.Context, prefix netip.Prefix, dev string) error {
	link, _, err := ethernet(dev)
	if err != nil {
		return fmt.Errorf("add %s: %w", prefix.Addr(), err)
	}
	held, err := holders(prefix.Addr())
	if err != nil {
		return err
	}
	if len(held) > 0 {
		return fmt.Errorf("add %s to %s: %w, as %s on %s", prefix.Addr(), dev, ErrExists, held[0].Prefix, held[0].Interface)
	}
	address := netlinkAddr(prefix)
	if prefix.Addr().Is6() {
		address.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("add %s to %s: %w", prefix, dev, err)
	}
	return Announce(ctx, prefix.Addr(), dev)
}

// Delete takes exactly the named address off the interface: other addresses stay, also those of the same network.
func Delete(prefix netip.Prefix, dev string) error {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("delete %s: find interface %s: %w", prefix.Addr(), dev, err)
	}
	held, err := holders(prefix.Addr())
	if err != nil {
		return err
	}
	there := ""
	for _, address := range held {
		if address.Prefix == prefix && address.Interface == dev {
			return deleteAlone(prefix, link)
		}
		there = fmt.Sprintf("; this host has %s on %s", address.Prefix, address.Interface)
	}
	return fmt.Errorf("delete %s from %s: %w%s", prefix, dev, ErrNotFound, there)
}

// deleteAlone deletes an address without the secondary ones of its network, which the kernel would delete with it
// unless promote_secondaries is set (net/ipv4/devinet.c). The setting is put back afterwards.
func deleteAlone(prefix netip.Prefix, link netlink.Link) error {
	name := link.Attrs().Name
	if prefix.Addr().Is6() {
		return deleteAddr(prefix, link)
	}
	path := "/proc/sys/net/ipv4/conf/" + name + "/promote_secondaries"
	before, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("delete %s from %s: %w", prefix, name, err)
	}
	if err := os.WriteFile(path, []byte("1"), 0); err != nil {
		return fmt.Errorf("delete %s from %s: keep the other addresses: %w", prefix, name, err)
	}
	err = deleteAddr(prefix, link)
	return errors.Join(err, os.WriteFile(path, before, 0))
}

func deleteAddr(prefix netip.Prefix, link netlink.Link) error {
	if err := netlink.AddrDel(link, netlinkAddr(prefix)); err != nil {
		return fmt.Errorf("delete %s from %s: %w", prefix, link.Attrs().Name, err)
	}
	return nil
}

// List returns the unicast addresses, link-local ones excepted, of an interface, or of all but lo if dev is empty, in
// the kernel's order.
func List(dev string) ([]neigh.Address, error) {
	if dev != "" {
		if _, err := netlink.LinkByName(dev); err != nil {
			return nil, fmt.Errorf("list addresses: find interface %s: %w", dev, err)
		}
	}
	return addresses(func(a neigh.Address) bool {
		addr := a.Prefix.Addr()
		if addr.IsLinkLocalUnicast() || addr.IsLoopback() {
			return false
		}
		return a.Interface == dev || dev == "" && a.Interface != "lo"
	})
}

// holders returns where this host holds addr, on any interface and with any prefix length.
func holders(addr netip.Addr) ([]neigh.Address, error) {
	return addresses(func(a neigh.Address) bool { return a.Prefix.Addr() == addr })
}

// addresses returns the addresses of this host that are wanted.
func addresses(wanted func(neigh.Address) bool) ([]neigh.Address, error) {
	all, err := neigh.Addresses()
	return slices.DeleteFunc(all, func(a neigh.Address) bool { return !wanted(a) }), err
}

// netlinkAddr returns the address with its network, for netlink.
func netlinkAddr(prefix netip.Prefix) *netlink.Addr {
	addr := prefix.Addr()
	return &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(prefix.Bits(), addr.BitLen())}}
}
