// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
	"xdplb/internal/neigh"
)

// Setup makes this host a real server for the VIPs; those of earlier calls stay. Doing it again changes nothing.
//
// A VIP that is on another interface, or on lo with a larger network than itself, is refused before anything is
// changed, as is a gateway that is not on a directly connected network of Dev. If a change fails, the earlier ones stay
// and are recorded: Setup again goes on, Teardown takes them back.
func Setup(o Options) error { return setup(o, func(string) error { return nil }) }

// Teardown puts back what was there before Setup for the VIPs, and with the last of them also the ARP settings and
// the default route. VIPs that Setup has not set up, and values that somebody else has changed since, are left alone;
// doing it again does nothing.
func Teardown(o Options) error { return teardown(o, func(string) error { return nil }) }

func setup(o Options, before func(step string) error) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	gateways, err := o.gateways()
	if err != nil {
		return err
	}
	j, err := open(o.StateDir, before)
	if err != nil {
		return err
	}
	defer j.close()
	if err := j.refuseForeignTable(o); err != nil {
		return err
	}
	for _, vip := range o.VIPs {
		if !slices.Contains(j.VIPs, vip) {
			j.VIPs = append(j.VIPs, vip)
		}
	}
	j.Dev, j.ArpMode, j.Gateways = o.Dev, o.ArpMode, o.Gateways
	if err := j.save(); err != nil {
		return err
	}
	// First silence, then the addresses: no VIP is there for a moment and answers.
	if err := j.silence(); err != nil {
		return err
	}
	for _, vip := range o.VIPs {
		if err := j.hold(vip); err != nil {
			return err
		}
	}
	for _, gateway := range gateways {
		c, err := gatewayChange(gateway)
		if err != nil {
			return err
		}
		if c == nil {
			continue
		}
		if err := j.make(*c); err != nil {
			return err
		}
	}
	if o.Persist {
		return installUnit(o.Root, o.Executable, j.record)
	}
	return nil
}

// silence keeps the IPv4 VIPs silent in the recorded mode, and then takes back what another mode had changed.
func (j *journal) silence() error {
	if !j.has4() {
		return nil
	}
	other := changeTable
	if j.ArpMode == Filter {
		other = changeSysctl
		if err := j.make(change{Kind: changeTable}); err != nil {
			return err
		}
	} else {
		for _, setting := range arpSettings() {
			changes, err := setting.changes(j.Dev)
			if err != nil {
				return err
			}
			for _, c := range changes {
				if err := j.make(c); err != nil {
					return err
				}
			}
		}
	}
	return j.undo(func(c change) bool { return c.Kind == other })
}

// hold puts the VIP on lo, and the host route to it beside it.
func (j *journal) hold(vip netip.Addr) error {
	all, err := neigh.Addresses()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(a neigh.Address) bool { return a.Prefix.Addr() == vip }) {
		if err := j.make(change{Kind: changeAddress, VIP: vip}); err != nil {
			return err
		}
	}
	if !vip.Is4() {
		return nil // the kernel makes the route itself
	}
	exists, err := hasHostRoute(vip)
	if err != nil || exists {
		return err
	}
	return j.make(change{Kind: changeRoute, VIP: vip})
}

// refuseForeignTable returns an error if the table that the filter mode needs is there but not recorded: then it is
// somebody else's.
func (j *journal) refuseForeignTable(o Options) error {
	if o.ArpMode != Filter || j.find(change{Kind: changeTable}) != nil {
		return nil
	}
	exists, err := tableExists()
	if err != nil {
		return err
	}
	if exists {
		return refuse("if nobody needs it, delete it: nft delete table arp "+tableName,
			"the nftables table arp %s is there already, and xdplb did not make it", tableName)
	}
	return nil
}

func teardown(o Options, before func(step string) error) error {
	j, err := open(o.StateDir, before)
	if err != nil {
		return err
	}
	defer j.close()
	going := func(vip netip.Addr) bool { return len(o.VIPs) == 0 || slices.Contains(o.VIPs, vip) }
	if err := j.undo(func(c change) bool { return c.VIP.IsValid() && going(c.VIP) }); err != nil {
		return err
	}
	if slices.ContainsFunc(j.VIPs, going) {
		j.VIPs = slices.DeleteFunc(j.VIPs, going)
		if err := j.save(); err != nil {
			return err
		}
	}
	switch {
	case len(j.VIPs) == 0:
		if err := j.undo(func(change) bool { return true }); err != nil {
			return err
		}
		if err := j.remove(); err != nil {
			return err
		}
		return removeUnit(o.Root)
	case !j.has4():
		err = j.undo(func(c change) bool { return c.Kind == changeSysctl || c.Kind == changeTable })
	case j.find(change{Kind: changeTable}) != nil:
		err = j.make(change{Kind: changeTable}) // for the VIPs that stay
	}
	if err != nil {
		return err
	}
	installed, err := unitInstalled(o.Root)
	if err != nil || !installed {
		return err
	}
	return installUnit(o.Root, o.Executable, j.record)
}

// complete fills in what was left out, and refuses what cannot be.
func (o Options) complete() (Options, error) {
	if len(o.VIPs) == 0 {
		return o, errors.New("set up a real server: no VIP given")
	}
	all, err := neigh.Addresses()
	if err != nil {
		return o, err
	}
	for _, vip := range o.VIPs {
		if _, err := lb.ParseVIP(vip.String()); err != nil {
			return o, err
		}
		if err := refuseHeld(vip, all); err != nil {
			return o, err
		}
	}
	if o.ArpMode == "" {
		o.ArpMode = Sysctl
	}
	if _, err := ParseArpMode(string(o.ArpMode)); err != nil {
		return o, fmt.Errorf("ARP mode %q: %w", o.ArpMode, err)
	}
	if o.Persist && o.Executable == "" {
		return o, errors.New("install the systemd unit: the path of xdplb is not known")
	}
	lo, err := loopback()
	if err != nil {
		return o, err
	}
	if lo.Attrs().RawFlags&unix.IFF_UP == 0 {
		return o, refuse("ip link set lo up", "interface lo is down")
	}
	if o.Dev == "" {
		if o.Dev, err = findDev(o.Gateways, all); err != nil {
			return o, err
		}
	}
	return o, nil
}

// refuseHeld returns an error if the VIP is somewhere where it would answer ARP, or hide its neighbours.
func refuseHeld(vip netip.Addr, all []neigh.Address) error {
	for _, a := range all {
		if a.Prefix.Addr() != vip || a.Interface == "lo" && a.Prefix.IsSingleIP() {
			continue
		}
		return refuse(fmt.Sprintf("ip address del %s dev %s", a.Prefix, a.Interface),
			"set up %s: this host has it already, as %s on %s", vip, a.Prefix, a.Interface)
	}
	return nil
}

// gateways returns the gateways as next hops on Dev.
func (o Options) gateways() ([]hop, error) {
	link, err := netlink.LinkByName(o.Dev)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", o.Dev, err)
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		return nil, refuse("ip link set "+o.Dev+" up", "interface %s is down", o.Dev)
	}
	if o.Dev == "lo" {
		return nil, errors.New("interface lo does not lead to the cluster")
	}
	all, err := neigh.Addresses()
	if err != nil {
		return nil, err
	}
	var hops []hop
	for _, gateway := range o.Gateways {
		for _, other := range hops {
			if other.Gateway.Is4() == gateway.Is4() {
				return nil, fmt.Errorf("gateways %s and %s: only one of each family can be the default", other.Gateway, gateway)
			}
		}
		if dev := reaches(gateway, all, o.Dev); dev == "" {
			return nil, fmt.Errorf("gateway %s is not on a directly connected network of %s", gateway, o.Dev)
		}
		if slices.ContainsFunc(all, func(a neigh.Address) bool { return a.Prefix.Addr() == gateway }) || slices.Contains(o.VIPs, gateway) {
			return nil, fmt.Errorf("gateway %s is one of this host's own addresses", gateway)
		}
		hops = append(hops, hop{Gateway: gateway, Ifindex: link.Attrs().Index})
	}
	return hops, nil
}

// reaches returns the interface (only the named one, if only is not empty) on whose network addr is, or "".
func reaches(addr netip.Addr, all []neigh.Address, only string) string {
	for _, a := range all {
		if (only == "" || a.Interface == only) && a.Interface != "lo" && a.Prefix.Contains(addr) {
			return a.Interface
		}
	}
	return ""
}

var errDevUnknown = errors.New("the interface towards the cluster is not known: there is no default route; name it with --dev")

// findDev returns the interface that reaches a gateway, or that of a default route. Without any of them the error is
// errDevUnknown.
func findDev(gateways []netip.Addr, all []neigh.Address) (string, error) {
	for _, gateway := range gateways {
		if dev := reaches(gateway, all, ""); dev != "" {
			return dev, nil
		}
	}
	if len(gateways) > 0 {
		return "", fmt.Errorf("gateway %s is not on a directly connected network", gateways[0])
	}
	for _, ipv4 := range []bool{true, false} {
		routes, err := defaults(ipv4)
		if err != nil {
			return "", err
		}
		for _, route := range routes {
			if link, err := netlink.LinkByIndex(route.Ifindex); err == nil {
				return link.Attrs().Name, nil
			}
		}
	}
	return "", errDevUnknown
}
