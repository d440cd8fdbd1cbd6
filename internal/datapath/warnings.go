// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"os"
	"slices"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
)

// Names of features as the kernel's ethtool strings have them (net/ethtool/common.c).
const (
	featureLRO  = "rx-lro"
	featureVLAN = "rx-vlan-hw-parse"
)

// genericRoom is what a frame's page holds besides its data in generic mode: 256 bytes of headroom and the kernel's
// struct skb_shared_info, 320 bytes.
const genericRoom = 256 + 320

// warnings says what breaks direct routing under XDP on an interface with these features, among all devices of its
// network namespace.
func warnings(device netlink.Link, mode Mode, features map[string]bool, all []netlink.Link) []string {
	attrs := device.Attrs()
	name := attrs.Name
	var list []string
	if features[featureLRO] {
		list = append(list, fmt.Sprintf("LRO merges frames into larger ones than can be sent on: ethtool -K %s lro off", name))
	}
	if features[featureVLAN] && carriesVLANs(attrs.Index, all) {
		list = append(list, fmt.Sprintf("VLAN tags are taken off before the program sees them, and there are VLAN devices on it: "+
			"ethtool -K %s rxvlan off", name))
	}
	if room := os.Getpagesize() - genericRoom; mode == Generic && attrs.MTU+18 > room {
		list = append(list, fmt.Sprintf("MTU %d is too large for generic mode: frames of more than %d bytes are copied, "+
			"and before Linux 6.9 dropped", attrs.MTU, room))
	}
	switch device.Type() {
	case "bond":
		list = append(list, "it is a bond: native mode needs native XDP in the driver of every member, and the bond's mode "+
			"must be balance-rr, active-backup, balance-xor or 802.3ad")
	case "vlan":
		list = append(list, "it is a VLAN device: attach to the interface below it instead, and give the VLAN with the backends")
	}
	if bond := bondOf(attrs.MasterIndex, all); bond != "" {
		list = append(list, fmt.Sprintf("it is a member of %s: attach to %s instead, or frames will bypass the bond", bond, bond))
	}
	return list
}

// driverOf names the driver of an interface as ethtool does, "" when it does not say.
func driverOf(name string) string {
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return ""
	}
	defer tool.Close()
	driver, err := tool.DriverName(name)
	if err != nil {
		return ""
	}
	return driver
}

// featuresOf returns an interface's features by name. An interface whose driver answers no ethtool request has none to
// warn of.
func featuresOf(name string) map[string]bool {
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return nil
	}
	defer tool.Close()
	features, err := tool.Features(name)
	if err != nil {
		return nil
	}
	return features
}

// devices lists the network namespace's devices. What it misses because the list changes meanwhile, or cannot be read,
// gets no warning.
func devices() []netlink.Link {
	list, _ := netlink.LinkList()
	return list
}

// carriesVLANs says whether a VLAN device uses the interface.
func carriesVLANs(ifindex int, all []netlink.Link) bool {
	return slices.ContainsFunc(all, func(device netlink.Link) bool {
		return device.Type() == "vlan" && device.Attrs().ParentIndex == ifindex
	})
}

// bondOf names the bond with an index, "" if that is something else.
func bondOf(index int, all []netlink.Link) string {
	for _, device := range all {
		if device.Type() == "bond" && device.Attrs().Index == index {
			return device.Attrs().Name
		}
	}
	return ""
}
