// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// defaultRoute is one of the main table's default routes.
type defaultRoute struct {
	hop            // zero gateway: none, or several (multipath)
	metric  uint32 // the smallest one is used
	message []byte // of RTM_NEWROUTE, from which the kernel makes the same route again
}

// defaults returns the default routes of a family, the one in use first.
func defaults(ipv4 bool) ([]defaultRoute, error) {
	request := func() ([][]byte, error) {
		r := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		r.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family(ipv4)}})
		return r.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	}
	messages, err := request()
	for try := 0; errors.Is(err, netlink.ErrDumpInterrupted) && try < 10; try++ {
		messages, err = request()
	}
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var found []defaultRoute
	for _, message := range messages {
		header := nl.DeserializeRtMsg(message)
		if header.Table != unix.RT_TABLE_MAIN || header.Dst_len != 0 || header.Type != unix.RTN_UNICAST ||
			header.Family != family(ipv4) || header.Flags&unix.RTM_F_CLONED != 0 {
			continue
		}
		route := defaultRoute{message: slices.Clone(message)}
		attributes, err := nl.ParseRouteAttr(message[header.Len():])
		if err != nil {
			return nil, fmt.Errorf("decode a route: %w", err)
		}
		for _, attribute := range attributes {
			switch attribute.Attr.Type {
			case unix.RTA_GATEWAY:
				route.Gateway, _ = netip.AddrFromSlice(attribute.Value)
			case unix.RTA_OIF:
				route.Ifindex = int(binary.NativeEndian.Uint32(attribute.Value))
			case unix.RTA_PRIORITY:
				route.metric = binary.NativeEndian.Uint32(attribute.Value)
			}
		}
		found = append(found, route)
	}
	slices.SortStableFunc(found, func(a, b defaultRoute) int { return int(int64(a.metric) - int64(b.metric)) })
	return found, nil
}

// ownMetric is the metric of a default route that Setup makes. It is the smallest one that there is, so that routes
// with other metrics (DHCP's, router advertisements') can stay, and come back to use by themselves. IPv6 reads 0 as
// 1024.
func ownMetric(ipv4 bool) uint32 {
	if ipv4 {
		return 0
	}
	return 1
}

// gatewayChange returns the change that makes the hop the default route, or nil if it is in use already.
func gatewayChange(to hop) (*change, error) {
	routes, err := defaults(to.Gateway.Is4())
	if err != nil {
		return nil, err
	}
	if len(routes) > 0 && routes[0].hop == to {
		return nil, nil
	}
	c := &change{Kind: changeGateway, Gateways: []hop{to}}
	for _, route := range routes {
		if route.metric == ownMetric(to.Gateway.Is4()) {
			c.Route = route.message
			break
		}
	}
	return c, nil
}

// addDefault makes the hop the default route with our metric, in place of the one with that metric.
func addDefault(to hop) error {
	if err := netlink.RouteReplace(ownRoute(to)); err != nil {
		return fmt.Errorf("set the default route via %s: %w", to.Gateway, err)
	}
	return nil
}

// restoreDefault puts back what was there before our default route, if one of ours is still there.
func restoreDefault(ours []hop, before []byte) error {
	ipv4 := ours[0].Gateway.Is4()
	routes, err := defaults(ipv4)
	if err != nil {
		return err
	}
	for _, route := range routes {
		if route.metric != ownMetric(ipv4) || !slices.Contains(ours, route.hop) {
			continue
		}
		if before == nil {
			if err := netlink.RouteDel(ownRoute(route.hop)); err != nil {
				return fmt.Errorf("delete the default route via %s: %w", route.Gateway, err)
			}
			return nil
		}
		request := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
		request.AddRawData(withoutState(before))
		if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
			return fmt.Errorf("put the default route back that was there before the one via %s: %w", route.Gateway, err)
		}
		return nil
	}
	return nil
}

// withoutState clears those flags of a route's description that the kernel gives but does not take (RTNH_F_DEAD,
// RTNH_F_LINKDOWN, RTM_F_OFFLOAD and others).
func withoutState(message []byte) []byte {
	message = slices.Clone(message)
	header := nl.DeserializeRtMsg(message)
	header.Flags &= unix.RTNH_F_ONLINK
	return message
}

// ownRoute returns the default route that Setup makes.
func ownRoute(to hop) *netlink.Route {
	bits := to.Gateway.BitLen()
	return &netlink.Route{
		Dst:       &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)},
		Gw:        to.Gateway.AsSlice(),
		LinkIndex: to.Ifindex,
		Priority:  int(ownMetric(to.Gateway.Is4())),
		Protocol:  unix.RTPROT_STATIC,
		Table:     unix.RT_TABLE_MAIN,
	}
}

// hostRoute returns the route to an IPv4 VIP on lo in the main table.
func hostRoute(vip netip.Addr) (*netlink.Route, error) {
	lo, err := loopback()
	if err != nil {
		return nil, err
	}
	return &netlink.Route{
		Dst:       &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(32, 32)},
		LinkIndex: lo.Attrs().Index,
		Scope:     netlink.SCOPE_LINK,
		Protocol:  unix.RTPROT_STATIC,
		Table:     unix.RT_TABLE_MAIN,
	}, nil
}

// hasHostRoute reports whether the main table has a route to the VIP alone, on lo.
func hasHostRoute(vip netip.Addr) (bool, error) {
	route, err := hostRoute(vip)
	if err != nil {
		return false, err
	}
	found, err := netlink.RouteListFiltered(netlink.FAMILY_V4, route, netlink.RT_FILTER_DST|netlink.RT_FILTER_OIF)
	if err != nil {
		return false, fmt.Errorf("list routes to %s: %w", vip, err)
	}
	return slices.ContainsFunc(found, func(r netlink.Route) bool { return r.LinkIndex == route.LinkIndex }), nil
}

func addHostRoute(vip netip.Addr) error {
	route, err := hostRoute(vip)
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add a route to %s on lo: %w", vip, err)
	}
	return nil
}

func deleteHostRoute(vip netip.Addr) error {
	route, err := hostRoute(vip)
	if err != nil {
		return err
	}
	if err := netlink.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete the route to %s on lo: %w", vip, err)
	}
	return nil
}

func family(ipv4 bool) uint8 {
	if ipv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
