// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridgeName is the bridge in a switch's namespace.
const bridgeName = "bridge"

// prepare gives a new namespace the sysctls that interfaces inherit when they are made, and the loopback interface. All
// are written, since IPv4's may come from the machine's own settings (net.core.devconf_inherit_init_net).
func (h *Host) prepare(ipv6 bool) error {
	return h.Do(func() error {
		for _, scope := range []string{"all", "default"} {
			for name, value := range map[string]string{"rp_filter": "0", "arp_ignore": "0", "arp_announce": "0"} {
				if err := writeSysctl("net/ipv4/conf/"+scope+"/"+name, value); err != nil {
					return err
				}
			}
			if err := prepareIPv6(scope, ipv6 && h.Role != RoleSwitch); err != nil {
				return err
			}
		}
		forward := map[bool]string{true: "1", false: "0"}[h.Role == RoleRouter]
		if err := writeSysctl("net/ipv4/ip_forward", forward); err != nil {
			return err
		}
		if ipv6 {
			if err := writeSysctl("net/ipv6/conf/all/forwarding", forward); err != nil {
				return err
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		return netlink.LinkSetUp(lo)
	})
}

// prepareIPv6 switches IPv6 on, without duplicate address detection, or off. A kernel without IPv6 has nothing to
// switch off.
func prepareIPv6(scope string, on bool) error {
	dir := "net/ipv6/conf/" + scope + "/"
	if !on {
		if err := writeSysctl(dir+"disable_ipv6", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	for name, value := range map[string]string{"disable_ipv6": "0", "accept_dad": "0", "accept_ra": "0"} {
		if err := writeSysctl(dir+name, value); err != nil {
			return err
		}
	}
	return nil
}

// makeBridge makes the bridge of a switch. It learns addresses, as a switch does, and neither waits nor filters
// multicast.
func (h *Host) makeBridge() error {
	return h.Do(func() error {
		no := false
		bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &no}
		bridge.Name = bridgeName
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("make bridge on %s: %w", h.Name, err)
		}
		return netlink.LinkSetUp(bridge)
	})
}

// plug makes an interface of the host and its peer in the other host, where it gets the peer's name and MAC address
// (nil: any).
func (h *Host) plug(i Interface, other *Host, peer string, peerMAC net.HardwareAddr) error {
	return h.Do(func() error {
		veth := &netlink.Veth{
			LinkAttrs:        netlink.NewLinkAttrs(),
			PeerName:         peer,
			PeerHardwareAddr: peerMAC,
			PeerNamespace:    netlink.NsFd(other.ns),
		}
		veth.Name, veth.HardwareAddr = i.Name, i.MAC
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("connect %s of %s with %s: %w", i.Name, h.Name, other.Name, err)
		}
		return nil
	})
}

// openPort puts the port of that name into the switch's bridge and sets it up. With an XDP program, it accepts what the
// host behind it sends by XDP.
func (h *Host) openPort(name string, xdp *ebpf.Program) error {
	return h.Do(func() error {
		port, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find port %s of %s: %w", name, h.Name, err)
		}
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("find bridge of %s: %w", h.Name, err)
		}
		if err := netlink.LinkSetMaster(port, bridge); err != nil {
			return fmt.Errorf("put port %s into %s: %w", name, h.Name, err)
		}
		if xdp != nil {
			// Not a BPF link: this one lives as long as the port, also without the process that made it.
			if err := netlink.LinkSetXdpFd(port, xdp.FD()); err != nil {
				return fmt.Errorf("attach XDP program to port %s of %s: %w", name, h.Name, err)
			}
		}
		return netlink.LinkSetUp(port)
	})
}

// passProgram loads an XDP program that passes every packet, also those of jumbo frames.
func passProgram() (*ebpf.Program, error) {
	const xdpPass = 2 // include/uapi/linux/bpf.h: enum xdp_action
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "lab_pass",
		Type:         ebpf.XDP,
		Flags:        unix.BPF_F_XDP_HAS_FRAGS,
		License:      "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load XDP program for the switch's ports: %w", err)
	}
	return program, nil
}

// configure gives the host's interfaces their addresses, sets them up, and makes the default routes.
func (h *Host) configure() error {
	return h.Do(func() error {
		for _, i := range h.Interfaces {
			if err := i.configure(); err != nil {
				return fmt.Errorf("configure %s of %s: %w", i.Name, h.Name, err)
			}
			if h.Role == RoleClient || h.Role == RoleDirector {
				if err := finishChecksums(i.Name); err != nil {
					return fmt.Errorf("switch transmit checksum offload off on %s of %s: %w", i.Name, h.Name, err)
				}
			}
		}
		if h.Role == RoleReal && h.lab.Options.Bare {
			return nil
		}
		for _, gateway := range h.gateways {
			if err := netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}); err != nil {
				return fmt.Errorf("route of %s through %s: %w", h.Name, gateway, err)
			}
		}
		return nil
	})
}

// configure works on the thread's network namespace.
func (i Interface) configure() error {
	link, err := netlink.LinkByName(i.Name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	// Believe the last who claims an address, however soon after another: a real server that claims the VIP is to be seen.
	if err := writeSysctl("net/ipv4/neigh/"+i.Name+"/locktime", "0"); err != nil {
		return err
	}
	for _, address := range i.Addresses {
		if err := addAddress(link, address); err != nil {
			return err
		}
	}
	return nil
}

// finishChecksums makes the kernel compute checksums before packets leave by the interface.
func finishChecksums(name string) error {
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer tool.Close()
	return tool.Change(name, map[string]bool{"tx-checksum-ip-generic": false, "tx-checksum-sctp": false})
}

// addAddress adds an address; an IPv6 one is usable at once.
func addAddress(link netlink.Link, prefix netip.Prefix) error {
	address := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		address.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("add address %s to %s: %w", prefix, link.Attrs().Name, err)
	}
	return nil
}

// ipNet converts, keeping the host part of the address.
func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}
