// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"os"

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

// warnings says what breaks direct routing under XDP on an interface. An interface whose driver answers no ethtool
// request has no offloads to warn of.
func warnings(device netlink.Link, mode Mode) []string {
	attrs := device.Attrs()
	name := attrs.Name
	features := featuresOf(name)
	var list []string
	if features[featureLRO] {
		list = append(list, fmt.Sprintf("%s merges frames (LRO), which the real servers cannot take: ethtool -K %s lro off", name, name))
	}
	if features[featureVLAN] && carriesVLANs(attrs.Index) {
		list = append(list, fmt.Sprintf("%s takes VLAN tags off before the program sees them, and VLAN devices use it: "+
			"ethtool -K %s rxvlan off", name, name))
	}
	if room := os.Getpagesize() - genericRoom; mode == Generic && attrs.MTU+18 > room {
		list = append(list, fmt.Sprintf("MTU %d is too large for the generic mode: frames of more than %d bytes are copied, "+
			"or dropped by kernels before 6.9", attrs.MTU, room))
	}
	switch device.Type() {
	case "bond":
		list = append(list, fmt.Sprintf("%s is a bond: native mode needs a driver with native XDP in every member, and one of the modes "+
			"balance-rr, active-backup, balance-xor or 802.3ad", name))
	case "vlan":
		list = append(list, fmt.Sprintf("%s is a VLAN device: attach to the interface under it, and name the VLAN by the backends", name))
	}
	if bond := bondOf(attrs.MasterIndex); bond != "" {
		list = append(list, fmt.Sprintf("%s is a member of %s: attach to %s instead, or frames leave past the bond", name, bond, bond))
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

// carriesVLANs says whether a VLAN device uses the interface.
func carriesVLANs(ifindex int) bool {
	devices, err := netlink.LinkList()
	if err != nil {
		return false
	}
	for _, device := range devices {
		if device.Type() == "vlan" && device.Attrs().ParentIndex == ifindex {
			return true
		}
	}
	return false
}

// bondOf names the bond with an index, "" if that is something else.
func bondOf(index int) string {
	if index == 0 {
		return ""
	}
	master, err := netlink.LinkByIndex(index)
	if err != nil || master.Type() != "bond" {
		return ""
	}
	return master.Attrs().Name
}
