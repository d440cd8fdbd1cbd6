// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/neigh"
)

// Check returns what is wrong with this host as a real server for the VIPs; nothing if all is well. It changes
// nothing, and needs no earlier Setup. Where no Dev is given or recorded and no route tells it, that is one of the
// problems, and what depends on it is not checked.
func Check(o Options) ([]Problem, error) {
	path, err := recordPath(o.StateDir)
	if err != nil {
		return nil, err
	}
	recorded, err := load(path)
	if err != nil {
		return nil, err
	}
	if len(o.VIPs) == 0 {
		o.VIPs = recorded.VIPs
	}
	if len(o.VIPs) == 0 {
		return nil, errors.New("no VIP is given, and none was set up on this host")
	}
	if o.ArpMode == "" {
		o.ArpMode = recorded.ArpMode
	}
	if o.Dev == "" {
		o.Dev = recorded.Dev
	}
	all, err := neigh.Addresses()
	if err != nil {
		return nil, err
	}
	if o.Dev == "" {
		o.Dev, err = findDev(o.Gateways, all)
		if err != nil && !errors.Is(err, errDevUnknown) {
			return nil, err
		}
	}
	var problems []Problem
	for _, vip := range o.VIPs {
		problems = append(problems, checkAddress(vip, all)...)
	}
	for _, check := range []func(Options) ([]Problem, error){checkLoopback, checkARP, checkProxy, checkRoutes} {
		found, err := check(o)
		if err != nil {
			return nil, err
		}
		problems = append(problems, found...)
	}
	return problems, nil
}

// checkAddress finds a VIP that is missing, or where it should not be.
func checkAddress(vip netip.Addr, all []neigh.Address) []Problem {
	var problems []Problem
	onLo := false
	for _, a := range all {
		if a.Prefix.Addr() != vip {
			continue
		}
		remove := fmt.Sprintf("ip address del %s dev %s", a.Prefix, a.Interface)
		switch {
		case a.Interface != "lo":
			protocol := "ARP"
			if vip.Is6() {
				protocol = "neighbour solicitations"
			}
			problems = append(problems, Problem{
				Text: fmt.Sprintf("%s is on %s, where this host answers %s for it", vip, a.Interface, protocol), Hint: remove,
			})
		case !a.Prefix.IsSingleIP():
			problems = append(problems, Problem{
				Text: fmt.Sprintf("%s is on lo as /%d instead of /%d: this host takes the whole network %s for itself",
					vip, a.Prefix.Bits(), vip.BitLen(), a.Prefix.Masked()),
				Hint: remove + " && xdplb realserver setup " + vip.String(),
			})
			onLo = true
		default:
			onLo = true
		}
		switch {
		case a.Flags&unix.IFA_F_DADFAILED != 0:
			problems = append(problems, Problem{
				Text: fmt.Sprintf("%s on %s does not work: duplicate address detection found it on another host", vip, a.Interface), Hint: remove,
			})
		case a.Flags&unix.IFA_F_TENTATIVE != 0:
			problems = append(problems, Problem{
				Text: fmt.Sprintf("%s on %s does not work yet: duplicate address detection is not done", vip, a.Interface), Hint: remove,
			})
		}
	}
	if !onLo {
		problems = append(problems, Problem{
			Text: fmt.Sprintf("%s is not on lo", vip), Hint: "xdplb realserver setup " + vip.String(),
		})
	}
	return problems
}

// checkLoopback finds lo down.
func checkLoopback(Options) ([]Problem, error) {
	lo, err := loopback()
	if err != nil || lo.Attrs().RawFlags&unix.IFF_UP != 0 {
		return nil, err
	}
	return []Problem{{Text: "interface lo is down, so that no VIP on it works", Hint: "ip link set lo up"}}, nil
}

// checkARP finds IPv4 VIPs that are not silent. Without a mode, each VIP must be silent in either one.
func checkARP(o Options) ([]Problem, error) {
	var loud []netip.Addr
	for _, vip := range o.VIPs {
		if !vip.Is4() {
			continue
		}
		quiet := false
		if o.ArpMode != Sysctl {
			var err error
			if quiet, err = filtered(vip); err != nil {
				return nil, err
			}
		}
		if !quiet {
			loud = append(loud, vip)
		}
	}
	if len(loud) == 0 {
		return nil, nil
	}
	if o.ArpMode == Filter {
		var problems []Problem
		for _, vip := range loud {
			problems = append(problems, Problem{
				Text: fmt.Sprintf("the nftables table arp %s does not drop ARP requests for %s", tableName, vip),
				Hint: fmt.Sprintf("xdplb realserver setup %s --arp-mode filter", vip),
			})
		}
		return problems, nil
	}
	if o.Dev == "" {
		return []Problem{{
			Text: "the interface towards the cluster is not known, so that its ARP settings are not checked",
			Hint: command("check", o.VIPs, "--dev INTERFACE"),
		}}, nil
	}
	var problems []Problem
	for _, setting := range arpSettings() {
		value, err := effective(setting.name, o.Dev)
		if err != nil {
			return nil, err
		}
		if slices.Contains(setting.good, value) {
			continue
		}
		problem, err := setting.problem(o.Dev, value)
		if err != nil {
			return nil, err
		}
		problems = append(problems, problem)
	}
	return problems, nil
}

// problem says in words that the effective value is wrong, and what to write where.
func (s arpSetting) problem(dev string, value int) (Problem, error) {
	effect := "answers ARP requests for the VIPs on lo"
	if s.name == "arp_announce" {
		effect = "sends ARP requests with a VIP as sender, which teaches others its own hardware address for it"
	}
	onLo, err := readNumber(s.path("lo"))
	if err != nil {
		return Problem{}, err
	}
	text := fmt.Sprintf("%s is %d on %s (the larger of all and %s counts): this host %s", s.name, value, dev, dev, effect)
	if slices.Contains(s.good, onLo) {
		text += fmt.Sprintf("; %s=%d on lo alone has no effect", s.name, onLo)
	}
	hint := fmt.Sprintf("sysctl -w net.ipv4.conf.all.%s=%d", s.name, s.set)
	if value > s.set {
		hint += fmt.Sprintf(" net/ipv4/conf/%s/%s=%d", dev, s.name, s.set)
	}
	return Problem{Text: text, Hint: hint}, nil
}

// checkProxy finds proxy entries, with which the kernel answers ARP or neighbour discovery for a VIP whatever else is
// set.
func checkProxy(o Options) ([]Problem, error) {
	var problems []Problem
	for _, ipv4 := range []bool{true, false} {
		entries, err := netlink.NeighProxyList(0, int(family(ipv4)))
		if err != nil {
			return nil, fmt.Errorf("list proxy neighbours: %w", err)
		}
		for _, entry := range entries {
			addr, _ := netip.AddrFromSlice(entry.IP)
			if !slices.Contains(o.VIPs, addr.Unmap()) {
				continue
			}
			link, err := netlink.LinkByIndex(entry.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("find interface %d: %w", entry.LinkIndex, err)
			}
			dev := link.Attrs().Name
			problems = append(problems, Problem{
				Text: fmt.Sprintf("%s has a proxy entry: this host answers for it on %s", addr.Unmap(), dev),
				Hint: fmt.Sprintf("ip neigh del proxy %s dev %s", addr.Unmap(), dev),
			})
		}
	}
	return problems, nil
}

// checkRoutes finds that replies have no way back, or that the kernel throws requests away because their way back is
// another one.
func checkRoutes(o Options) ([]Problem, error) {
	var problems []Problem
	for _, ipv4 := range []bool{true, false} {
		if !slices.ContainsFunc(o.VIPs, func(vip netip.Addr) bool { return vip.Is4() == ipv4 }) {
			continue
		}
		routes, err := defaults(ipv4)
		if err != nil {
			return nil, err
		}
		found, err := checkWayBack(o, ipv4, routes)
		if err != nil {
			return nil, err
		}
		problems = append(problems, found...)
		if !ipv4 || len(routes) == 0 {
			continue // IPv6 has no reverse path filter
		}
		found, err = checkReversePath(o, routes[0])
		if err != nil {
			return nil, err
		}
		problems = append(problems, found...)
	}
	return problems, nil
}

// checkWayBack finds no route to the clients, or a default route that is not the wanted one.
func checkWayBack(o Options, ipv4 bool, routes []defaultRoute) ([]Problem, error) {
	gateway, name := "GATEWAY", "IPv4"
	if !ipv4 {
		name = "IPv6"
	}
	for _, wanted := range o.Gateways {
		if wanted.Is4() != ipv4 {
			continue
		}
		gateway = wanted.String()
		if len(routes) > 0 && routes[0].Gateway != wanted {
			return []Problem{{
				Text: fmt.Sprintf("the %s default route does not lead via %s", name, wanted), Hint: command("setup", o.VIPs, "--gateway "+gateway),
			}}, nil
		}
	}
	if len(routes) > 0 {
		return nil, nil
	}
	others, err := netlink.RouteList(nil, int(family(ipv4)))
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	if slices.ContainsFunc(others, func(r netlink.Route) bool { return r.Gw != nil || len(r.MultiPath) > 0 }) {
		return nil, nil
	}
	return []Problem{{
		Text: fmt.Sprintf("no %s route back to clients: there is no default route, and no other one through a gateway", name),
		Hint: command("setup", o.VIPs, "--gateway "+gateway),
	}}, nil
}

// checkReversePath finds strict reverse path filtering on an interface that replies do not leave by.
func checkReversePath(o Options, way defaultRoute) ([]Problem, error) {
	if o.Dev == "" || way.Ifindex == 0 {
		return nil, nil
	}
	value, err := effective("rp_filter", o.Dev)
	if err != nil || value != 1 {
		return nil, err
	}
	link, err := netlink.LinkByIndex(way.Ifindex)
	if err != nil {
		return nil, fmt.Errorf("find interface %d: %w", way.Ifindex, err)
	}
	if link.Attrs().Name == o.Dev {
		return nil, nil
	}
	return []Problem{{
		Text: fmt.Sprintf("rp_filter is 1 (strict) on %s (the larger of all and %s counts), but the way back to clients is by %s: "+
			"requests that arrive on %s are dropped", o.Dev, o.Dev, link.Attrs().Name, o.Dev),
		Hint: fmt.Sprintf("sysctl -w net/ipv4/conf/%s/rp_filter=2", o.Dev),
	}}, nil
}

// command returns the command line of xdplb realserver for VIPs.
func command(verb string, vips []netip.Addr, flags string) string {
	words := []string{"xdplb realserver", verb}
	for _, vip := range vips {
		words = append(words, vip.String())
	}
	return strings.Join(append(words, flags), " ")
}
