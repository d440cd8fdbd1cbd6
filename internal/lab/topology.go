// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net"
	"net/netip"
)

// The virtual address, which the director and all real servers hold.
var (
	VIP  = netip.AddrFrom4([4]byte{172, 10, 0, 9})
	VIP6 = netip.MustParseAddr("2001:db8:ac::9")
)

// Role is what a host is there for.
type Role string

// The roles.
const (
	RoleClient   Role = "client"
	RoleRouter   Role = "router"
	RoleSwitch   Role = "switch"
	RoleDirector Role = "director"
	RoleReal     Role = "real server"
)

// Interface is a network interface of a host.
type Interface struct {
	Name      string
	MAC       net.HardwareAddr
	Addresses []netip.Prefix
	Switch    string // the host into which it is plugged; "" for the cable between client and router
}

// The networks. The last byte of an IPv4 address names the host in all of them.
var (
	netClient  = network{netip.MustParsePrefix("10.10.0.0/8"), "2001:db8:10::%d/64"}
	netService = network{netip.MustParsePrefix("172.10.0.0/16"), "2001:db8:ac::%d/64"}
	netNear    = network{netip.MustParsePrefix("192.168.60.0/24"), "2001:db8:60::%d/64"}
	netFar     = network{netip.MustParsePrefix("192.168.61.0/24"), "2001:db8:61::%d/64"}
)

// network is an IPv4 prefix and the pattern of its IPv6 sister.
type network struct {
	prefix netip.Prefix
	ipv6   string
}

// host returns the addresses of the host with the given last byte.
func (n network) host(last byte, ipv6 bool) []netip.Prefix {
	bytes := n.prefix.Addr().As4()
	bytes[3] = last
	addresses := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(bytes), n.prefix.Bits())}
	if ipv6 {
		addresses = append(addresses, netip.MustParsePrefix(fmt.Sprintf(n.ipv6, last)))
	}
	return addresses
}

// addresses returns host's addresses without their prefix lengths.
func (n network) addresses(last byte, ipv6 bool) []netip.Addr {
	var addresses []netip.Addr
	for _, prefix := range n.host(last, ipv6) {
		addresses = append(addresses, prefix.Addr())
	}
	return addresses
}

// newInterface derives the MAC address from the first address, an IPv4 one.
func newInterface(name, plug string, addresses ...[]netip.Prefix) Interface {
	i := Interface{Name: name, Switch: plug}
	for _, some := range addresses {
		i.Addresses = append(i.Addresses, some...)
	}
	v4 := i.Addresses[0].Addr().As4()
	i.MAC = append(net.HardwareAddr{0x02, 0x00}, v4[:]...)
	return i
}

// The last bytes of addresses.
const (
	lastClient   = 1
	lastGateway  = 1
	lastRouter   = 88
	lastVIP      = 9
	lastDirector = 4
	lastReal     = 8
)

// topology lists the hosts of a cluster, from the client to the last real server.
func topology(o Options) []*Host {
	far := o.FarBackends > 0
	hosts := []*Host{
		{
			Name: "client", Role: RoleClient,
			Interfaces: []Interface{newInterface("eth0", "", netClient.host(lastClient, o.IPv6))},
			gateways:   netClient.addresses(lastRouter, o.IPv6),
		},
		{
			Name: "router", Role: RoleRouter,
			Interfaces: []Interface{
				newInterface("eth0", "", netClient.host(lastRouter, o.IPv6)),
				// The address in the real servers' network comes first here for the MAC address alone.
				newInterface("eth1", "switch", netNear.host(lastGateway, o.IPv6), netService.host(lastGateway, o.IPv6)),
			},
		},
		{Name: "switch", Role: RoleSwitch},
	}
	if far {
		router := hosts[1]
		router.Interfaces = append(router.Interfaces, newInterface("eth2", "switch2", netFar.host(lastGateway, o.IPv6)))
		hosts = append(hosts, &Host{Name: "switch2", Role: RoleSwitch})
	}
	for i := range o.Directors {
		director := &Host{Name: "director", Role: RoleDirector}
		near := newInterface("eth0", "switch", netNear.host(lastDirector+byte(i), o.IPv6))
		if i == 0 {
			near.Addresses = append(near.Addresses, netService.host(lastVIP, o.IPv6)...)
		} else {
			director.Name = fmt.Sprintf("director%d", i+1)
		}
		director.Interfaces = append(director.Interfaces, near)
		if far {
			director.Interfaces = append(director.Interfaces,
				newInterface("eth1", "switch2", netFar.host(lastDirector+byte(i), o.IPv6)))
		}
		hosts = append(hosts, director)
	}
	hosts = append(hosts, realServers("real", "switch", netNear, o.Backends, o.IPv6)...)
	return append(hosts, realServers("far", "switch2", netFar, o.FarBackends, o.IPv6)...)
}

// realServers lists the real servers of one network.
func realServers(name, plug string, n network, count int, ipv6 bool) []*Host {
	var hosts []*Host
	for i := range count {
		hosts = append(hosts, &Host{
			Name: fmt.Sprintf("%s%d", name, i+1), Role: RoleReal,
			Interfaces: []Interface{newInterface("eth0", plug, n.host(lastReal+byte(i), ipv6))},
			gateways:   n.addresses(lastGateway, ipv6),
		})
	}
	return hosts
}
