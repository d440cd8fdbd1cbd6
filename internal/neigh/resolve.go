// SPDX-License-Identifier: Apache-2.0

package neigh

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
)

// DefaultTimeout is how long Resolve waits for an answer when its context has no deadline. The kernel asks three
// times, one second apart (net.ipv4.neigh.<interface>.mcast_solicit and retrans_time_ms), and gives up then.
const DefaultTimeout = 3 * time.Second

// confirmed are the states in which the kernel vouches for the hardware address. An entry in any other state (STALE
// above all) may name a host that has died or moved.
const confirmed = netlink.NUD_REACHABLE | netlink.NUD_PERMANENT | netlink.NUD_NOARP

// device is one that can send to a directly connected address: an attached interface, or a VLAN device on one.
type device struct {
	index int
	hop   lb.NextHop // without MAC
	Network
}

// Resolve finds the next hop of a directly connected address among the attached interfaces (by index), and on VLAN
// devices whose parent is attached: then VLAN is the device's id and Ifindex the parent. Of several that reach the
// address, those with the longest prefix are asked, and the first answer counts. A zone in addr restricts the search
// to the interface of that name.
//
// An entry of the kernel's neighbour table counts when the kernel vouches for it (REACHABLE, PERMANENT, NOARP);
// otherwise the kernel is made to ask the segment anew, and Resolve waits until ctx ends, or [DefaultTimeout] if it
// has no deadline.
//
// Errors: [OwnAddressError], [NotConnectedError], [NoAnswerError], the context's own error when it was cancelled, and
// failures of netlink.
func Resolve(ctx context.Context, addr netip.Addr, attached []int) (lb.NextHop, error) {
	addr = addr.Unmap()
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
		return lb.NextHop{}, fmt.Errorf("%s is not the address of a host", addr)
	}
	devices, err := attachedDevices(attached, addr)
	if err != nil {
		return lb.NextHop{}, err
	}
	reaching := longest(devices, addr.WithZone(""))
	if err := refuseOwn(addr, reaching); err != nil {
		return lb.NextHop{}, err
	}
	if len(reaching) == 0 {
		e := &NotConnectedError{Addr: addr}
		for _, device := range devices {
			e.Networks = append(e.Networks, device.Network)
		}
		return lb.NextHop{}, e
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	return ask(ctx, addr, reaching)
}

// HardwareAddr returns the Ethernet address of an interface. An interface without one (loopback, a tunnel, a
// point-to-point link) is an error that names it: the data plane can send no Ethernet frame there.
func HardwareAddr(ifindex int) ([6]byte, error) {
	link, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return [6]byte{}, fmt.Errorf("read the hardware address of interface %d: %w", ifindex, err)
	}
	address := link.Attrs().HardwareAddr
	if len(address) != 6 || [6]byte(address) == [6]byte{} {
		return [6]byte{}, fmt.Errorf("interface %s has no Ethernet address", link.Attrs().Name)
	}
	return [6]byte(address), nil
}

// attachedDevices returns the attached interfaces and the VLAN devices on them, with the networks of addr's family
// that each reaches; only the one that addr's zone names, if it has one.
func attachedDevices(attached []int, addr netip.Addr) ([]device, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		// Every table, not main alone: an interface in a VRF has its connected routes in the VRF's.
		return netlink.RouteListFiltered(family(addr), &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var devices []device
	for _, d := range devicesOf(links, attached) {
		if zone := addr.Zone(); zone != "" && zone != d.Interface {
			continue
		}
		d.Prefixes = onLink(routes, d.index)
		devices = append(devices, d)
	}
	return devices, nil
}

// devicesOf picks the attached interfaces among the host's links, and the 802.1Q devices whose parent is attached. A
// VLAN device on another VLAN device is left out, because a [lb.NextHop] holds one tag.
func devicesOf(links []netlink.Link, attached []int) []device {
	var devices []device
	for _, link := range links {
		attrs := link.Attrs()
		d := device{
			index:   attrs.Index,
			hop:     lb.NextHop{Ifindex: attrs.Index},
			Network: Network{Interface: attrs.Name, Up: attrs.RawFlags&unix.IFF_UP != 0},
		}
		vlan, ok := link.(*netlink.Vlan)
		switch {
		case slices.Contains(attached, attrs.Index):
		case ok && vlan.VlanProtocol == netlink.VLAN_PROTOCOL_8021Q && slices.Contains(attached, attrs.ParentIndex):
			d.hop = lb.NextHop{Ifindex: attrs.ParentIndex, VLAN: uint16(vlan.VlanId)}
		default:
			continue
		}
		devices = append(devices, d)
	}
	return devices
}

// onLink returns the networks that the routes reach through an interface without a gateway. A default route without a
// gateway is not one: it says that a router answers ARP for everything, and a frame to the VIP must not go to a
// router.
func onLink(routes []netlink.Route, ifindex int) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, route := range routes {
		if route.LinkIndex != ifindex || route.Type != unix.RTN_UNICAST || route.Gw != nil || route.Via != nil || route.Dst == nil {
			continue
		}
		ip, ok := netip.AddrFromSlice(route.Dst.IP)
		if !ok {
			continue
		}
		bits, _ := route.Dst.Mask.Size()
		prefix := netip.PrefixFrom(ip, bits)
		if bits > 0 && !slices.Contains(prefixes, prefix) {
			prefixes = append(prefixes, prefix)
		}
	}
	return prefixes
}

// longest returns those of the devices whose networks contain addr with the longest prefix found.
func longest(devices []device, addr netip.Addr) []device {
	best := 0
	var found []device
	for _, d := range devices {
		bits := 0
		for _, prefix := range d.Prefixes {
			if prefix.Contains(addr) {
				bits = max(bits, prefix.Bits())
			}
		}
		switch {
		case bits == 0 || bits < best:
		case bits == best:
			found = append(found, d)
		default:
			best, found = bits, []device{d}
		}
	}
	return found
}

// refuseOwn returns an [OwnAddressError] if this host holds addr. A link-local address is only compared with those of
// the devices that reach it: another host may have the same one on another segment.
func refuseOwn(addr netip.Addr, reaching []device) error {
	if addr.IsLoopback() {
		return &OwnAddressError{Addr: addr, Interface: "lo"}
	}
	own, err := Addresses()
	if err != nil {
		return err
	}
	for _, a := range own {
		onReaching := slices.ContainsFunc(reaching, func(d device) bool { return d.index == a.Ifindex })
		if a.Prefix.Addr() != addr.WithZone("") || addr.IsLinkLocalUnicast() && !onReaching {
			continue
		}
		return &OwnAddressError{Addr: addr, Interface: a.Interface}
	}
	return nil
}

// ask returns the next hop of the first device on which the kernel vouches for addr's hardware address, after making
// the kernel ask where it does not.
func ask(ctx context.Context, addr netip.Addr, devices []device) (lb.NextHop, error) {
	noAnswer := &NoAnswerError{Addr: addr}
	for _, d := range devices {
		noAnswer.Interfaces = append(noAnswer.Interfaces, d.Interface)
		found, err := lookUp(addr, d)
		if err != nil {
			return lb.NextHop{}, err
		}
		if found.state&confirmed != 0 {
			return d.at(found)
		}
		if err := solicit(addr, d, found); err != nil {
			return lb.NextHop{}, err
		}
	}
	// A healthy host answers within a millisecond, a dead one never.
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		failed := 0
		for _, d := range devices {
			found, err := lookUp(addr, d)
			if err != nil {
				return lb.NextHop{}, err
			}
			if found.state&confirmed != 0 {
				return d.at(found)
			}
			if found.state == netlink.NUD_FAILED {
				failed++
			}
		}
		if failed == len(devices) {
			return lb.NextHop{}, noAnswer
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return lb.NextHop{}, noAnswer
			}
			return lb.NextHop{}, fmt.Errorf("resolve %s: %w", addr, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// entry is what the kernel's neighbour table holds for an address; state is 0 (NUD_NONE) if that is nothing.
type entry struct {
	state int // one of netlink.NUD_*
	mac   []byte
}

// at returns the next hop with the entry's hardware address.
func (d device) at(e entry) (lb.NextHop, error) {
	if len(e.mac) != 6 || [6]byte(e.mac) == [6]byte{} {
		return lb.NextHop{}, fmt.Errorf("interface %s has no Ethernet addresses", d.Interface)
	}
	hop := d.hop
	hop.MAC = [6]byte(e.mac)
	return hop, nil
}

// lookUp reads the entry of one address from the kernel's neighbour table (Linux 5.0: RTM_GETNEIGH of one entry, so
// that its price does not grow with the segment).
func lookUp(addr netip.Addr, d device) (entry, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	request.AddData(&netlink.Ndmsg{Family: uint8(family(addr)), Index: uint32(d.index)})
	request.AddData(nl.NewRtAttr(netlink.NDA_DST, addr.AsSlice()))
	replies, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.ENOENT) {
		return entry{}, nil
	}
	if err != nil {
		return entry{}, fmt.Errorf("look up the neighbour %s on %s: %w", addr, d.Interface, err)
	}
	if len(replies) == 0 {
		return entry{}, nil
	}
	found, err := netlink.NeighDeserialize(replies[0])
	if err != nil {
		return entry{}, fmt.Errorf("decode the neighbour %s on %s: %w", addr, d.Interface, err)
	}
	return entry{state: found.State, mac: found.HardwareAddr}, nil
}

// solicit makes the kernel ask the segment for addr now.
//
// NTF_USE alone would leave an entry that is STALE waiting for five seconds and then probe the old hardware address
// only; marked FAILED first, the kernel forgets that and asks everybody at once, so that a host which moved to another
// hardware address is found too.
func solicit(addr netip.Addr, d device, found entry) error {
	neighbour := netlink.Neigh{LinkIndex: d.index, Family: family(addr), IP: addr.AsSlice(), State: netlink.NUD_FAILED}
	if found.state&^(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) != 0 {
		if err := netlink.NeighSet(&neighbour); err != nil {
			return fmt.Errorf("forget the stale neighbour %s on %s: %w", addr, d.Interface, err)
		}
	}
	neighbour.State, neighbour.Flags = netlink.NUD_NONE, netlink.NTF_USE
	if err := netlink.NeighSet(&neighbour); err != nil {
		return fmt.Errorf("ask for the neighbour %s on %s: %w", addr, d.Interface, err)
	}
	return nil
}

// family returns the address family of addr.
func family(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// dump lists kernel objects, again when somebody changed them during the listing and it may be incomplete.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		objects, err := list()
		if try == 10 || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return objects, err
		}
	}
}
