// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		commands []string // after a good Setup of both VIPs
		mode     ArpMode
		want     []string
	}{
		{"VIP missing", []string{"ip addr del 172.10.0.9/32 dev lo"}, Sysctl,
			[]string{"172.10.0.9 is not on lo | xdplb realserver setup 172.10.0.9"}},
		{"wrong prefix length", []string{"ip addr del 172.10.0.9/32 dev lo", "ip addr add 172.10.0.9/16 dev lo"}, Sysctl,
			[]string{"172.10.0.9 is on lo as /16 instead of /32: this host takes the whole network 172.10.0.0/16 for itself | " +
				"ip address del 172.10.0.9/16 dev lo && xdplb realserver setup 172.10.0.9"}},
		{"VIP on the segment too", []string{"ip addr add 172.10.0.9/16 dev eth0", "ip addr add 2001:db8:10::9/64 dev eth0 nodad"}, Sysctl,
			[]string{
				"172.10.0.9 is on eth0, where this host answers ARP for it | ip address del 172.10.0.9/16 dev eth0",
				"2001:db8:10::9 is on eth0, where this host answers neighbour solicitations for it | ip address del 2001:db8:10::9/64 dev eth0",
			}},
		{"the classic mistake", []string{"sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0"}, Sysctl,
			[]string{
				"arp_ignore is 0 on eth0 (the larger of all and eth0 counts): this host answers ARP requests for the VIPs on lo; " +
					"arp_ignore=1 on lo alone has no effect | sysctl -w net.ipv4.conf.all.arp_ignore=1",
				"arp_announce is 0 on eth0 (the larger of all and eth0 counts): this host sends ARP requests with a VIP as sender, " +
					"which teaches others its own hardware address for it; arp_announce=2 on lo alone has no effect | " +
					"sysctl -w net.ipv4.conf.all.arp_announce=2",
			}},
		{"a larger value that is not stricter", []string{"sysctl -w net.ipv4.conf.eth0.arp_ignore=3"}, Sysctl,
			[]string{"arp_ignore is 3 on eth0 (the larger of all and eth0 counts): this host answers ARP requests for the VIPs on lo; " +
				"arp_ignore=1 on lo alone has no effect | sysctl -w net.ipv4.conf.all.arp_ignore=1 net/ipv4/conf/eth0/arp_ignore=1"}},
		{"a larger value that is as good", []string{"sysctl -w net.ipv4.conf.eth0.arp_ignore=2"}, Sysctl, nil},
		{"the table is gone", []string{"nft flush ruleset"}, Filter,
			[]string{"the nftables table arp xdplb does not drop ARP requests for 172.10.0.9 | xdplb realserver setup 172.10.0.9 --arp-mode filter"}},
		{"proxy entries", []string{"ip neigh add proxy 172.10.0.9 dev eth0", "ip neigh add proxy 2001:db8:10::9 dev eth0"}, Sysctl,
			[]string{
				"172.10.0.9 has a proxy entry: this host answers for it on eth0 | ip neigh del proxy 172.10.0.9 dev eth0",
				"2001:db8:10::9 has a proxy entry: this host answers for it on eth0 | ip neigh del proxy 2001:db8:10::9 dev eth0",
			}},
		{"no way back", []string{"ip route del default", "ip -6 route del default"}, Sysctl,
			[]string{
				"no IPv4 route back to clients: there is no default route, and no other one through a gateway | " +
					"xdplb realserver setup 172.10.0.9 2001:db8:10::9 --gateway 192.168.60.1",
				"no IPv6 route back to clients: there is no default route, and no other one through a gateway | " +
					"xdplb realserver setup 172.10.0.9 2001:db8:10::9 --gateway 2001:db8:60::1",
			}},
		{"another way back", []string{"ip route replace default via 192.168.60.77"}, Sysctl,
			[]string{"the IPv4 default route does not lead via 192.168.60.1 | xdplb realserver setup 172.10.0.9 2001:db8:10::9 --gateway 192.168.60.1"}},
		{"strict rp_filter where it does not matter", []string{"sysctl -w net.ipv4.conf.all.rp_filter=1"}, Sysctl, nil},
		{"lo down", []string{"ip link set lo down"}, Filter, []string{
			"2001:db8:10::9 is not on lo | xdplb realserver setup 2001:db8:10::9", // the kernel takes IPv6 addresses off
			"interface lo is down, so that no VIP on it works | ip link set lo up",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := realServer(t)
			o.ArpMode = test.mode
			settled(t)
			if err := Setup(o); err != nil {
				t.Fatal(err)
			}
			run(t, test.commands...)
			if diff := cmp.Diff(test.want, problems(t, o)); diff != "" {
				t.Errorf("Check (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckWithoutAKnownInterface(t *testing.T) {
	t.Parallel()
	o := realServer(t)
	o.Dev, o.Gateways, o.ArpMode = "", nil, ""
	const unknown = "the interface towards the cluster is not known, so that its ARP settings are not checked | " +
		"xdplb realserver check 172.10.0.9 2001:db8:10::9 --dev INTERFACE"
	missing := []string{
		"172.10.0.9 is not on lo | xdplb realserver setup 172.10.0.9",
		"2001:db8:10::9 is not on lo | xdplb realserver setup 2001:db8:10::9",
		unknown,
	}
	want := append(slices.Clone(missing),
		"no IPv4 route back to clients: there is no default route, and no other one through a gateway | "+
			"xdplb realserver setup 172.10.0.9 2001:db8:10::9 --gateway GATEWAY",
		"no IPv6 route back to clients: there is no default route, and no other one through a gateway | "+
			"xdplb realserver setup 172.10.0.9 2001:db8:10::9 --gateway GATEWAY")
	if diff := cmp.Diff(want, problems(t, o)); diff != "" {
		t.Errorf("no default route (-want +got):\n%s", diff)
	}
	run(t, "ip route add 10.0.0.0/8 via 192.168.60.1", "ip -6 route add 2001:db8:66::/64 via 2001:db8:60::1")
	if diff := cmp.Diff(missing, problems(t, o)); diff != "" {
		t.Errorf("routes to some clients (-want +got):\n%s", diff)
	}
	run(t, "ip route add default nexthop via 192.168.60.1 nexthop via 192.168.60.2")
	if diff := cmp.Diff(missing, problems(t, o)); diff != "" {
		t.Errorf("several ways back (-want +got):\n%s", diff)
	}
	o.VIPs = []netip.Addr{vip6}
	want = []string{"2001:db8:10::9 is not on lo | xdplb realserver setup 2001:db8:10::9"}
	if diff := cmp.Diff(want, problems(t, o)); diff != "" {
		t.Errorf("only IPv6, which needs no interface (-want +got):\n%s", diff)
	}
}

func TestCheckReversePath(t *testing.T) {
	t.Parallel()
	o := realServer(t)
	o.VIPs, o.Gateways = []netip.Addr{vip4}, nil
	run(t,
		"ip link add eth1 type veth peer name eth1 netns router", "ip addr add 10.9.0.8/24 dev eth1",
		"ip link set eth1 up", "ip -n router link set eth1 up", "ip route add default via 10.9.0.1",
	)
	if err := Setup(o); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string(nil), problems(t, o)); diff != "" {
		t.Errorf("without rp_filter (-want +got):\n%s", diff)
	}
	want := []string{"rp_filter is 1 (strict) on eth0 (the larger of all and eth0 counts), but the way back to clients is by eth1: " +
		"requests that arrive on eth0 are dropped | sysctl -w net/ipv4/conf/eth0/rp_filter=2"}
	run(t, "sysctl -w net.ipv4.conf.all.rp_filter=1")
	if diff := cmp.Diff(want, problems(t, o)); diff != "" {
		t.Errorf("with rp_filter on all (-want +got):\n%s", diff)
	}
	run(t, "sysctl -w net/ipv4/conf/eth0/rp_filter=2") // the hint
	if diff := cmp.Diff([]string(nil), problems(t, o)); diff != "" {
		t.Errorf("after the hint's command (-want +got):\n%s", diff)
	}
}

func TestCheckDuplicateAddress(t *testing.T) {
	t.Parallel()
	o := realServer(t)
	settled(t)
	o.VIPs = []netip.Addr{vip6}
	if err := Setup(o); err != nil {
		t.Fatal(err)
	}
	run(t, "ip addr del 2001:db8:10::9/128 dev lo", "ip -n router addr add 2001:db8:10::9/128 dev eth0 nodad",
		"sysctl -w net.ipv6.conf.eth0.accept_dad=1", "ip addr add 2001:db8:10::9/128 dev eth0")
	const where = "2001:db8:10::9 is on eth0, where this host answers neighbour solicitations for it | ip address del 2001:db8:10::9/128 dev eth0"
	const missing = "2001:db8:10::9 is not on lo | xdplb realserver setup 2001:db8:10::9"
	const failed = "2001:db8:10::9 on eth0 does not work: duplicate address detection found it on another host | ip address del 2001:db8:10::9/128 dev eth0"
	eventually(t, "duplicate address detection", func() bool {
		return cmp.Equal([]string{where, failed, missing}, problems(t, o))
	}, func() any { return problems(t, o) })
}
