// SPDX-License-Identifier: Apache-2.0

package neigh

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
)

// Written against values, not the kernel, because many test kernels have no 802.1Q devices.
func TestDevicesOf(t *testing.T) {
	t.Parallel()
	attrs := func(name string, index, parent int) netlink.LinkAttrs {
		return netlink.LinkAttrs{Name: name, Index: index, ParentIndex: parent, RawFlags: unix.IFF_UP}
	}
	links := []netlink.Link{
		&netlink.Device{LinkAttrs: attrs("lo", 1, 0)},
		&netlink.Device{LinkAttrs: attrs("eth0", 2, 0)},
		&netlink.Device{LinkAttrs: attrs("eth1", 3, 0)},
		&netlink.Vlan{LinkAttrs: attrs("eth0.100", 4, 2), VlanId: 100, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q},
		&netlink.Vlan{LinkAttrs: attrs("eth1.100", 5, 3), VlanId: 100, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q},
		&netlink.Vlan{LinkAttrs: attrs("eth0.200", 6, 2), VlanId: 200, VlanProtocol: netlink.VLAN_PROTOCOL_8021AD},
		&netlink.Vlan{LinkAttrs: attrs("eth0.100.7", 7, 4), VlanId: 7, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q},
		&netlink.Macvlan{LinkAttrs: attrs("mac0", 8, 2)},
	}
	want := []device{
		{index: 2, hop: lb.NextHop{Ifindex: 2}, Network: Network{Interface: "eth0", Up: true}},
		{index: 4, hop: lb.NextHop{Ifindex: 2, VLAN: 100}, Network: Network{Interface: "eth0.100", Up: true}},
	}
	if diff := cmp.Diff(want, devicesOf(links, []int{2}), cmp.AllowUnexported(device{})); diff != "" {
		t.Errorf("devicesOf (-want +got):\n%s", diff)
	}
}
