// SPDX-License-Identifier: Apache-2.0

package neigh

import (
	"fmt"
	"net/netip"
	"strings"
)

// Network is one interface with the networks, of one family, that it reaches without a gateway.
type Network struct {
	Interface string
	Up        bool // administratively up; an interface that is down reaches nothing
	Prefixes  []netip.Prefix
}

// String returns the interface and its networks, as in "eth0 (192.168.60.0/24, 172.10.0.0/16)".
func (n Network) String() string {
	if !n.Up {
		return n.Interface + " (down)"
	}
	if len(n.Prefixes) == 0 {
		return n.Interface + " (none)"
	}
	words := make([]string, len(n.Prefixes))
	for i, prefix := range n.Prefixes {
		words[i] = prefix.String()
	}
	return fmt.Sprintf("%s (%s)", n.Interface, strings.Join(words, ", "))
}

// NotConnectedError says that an address is not on a directly connected network of any attached interface.
type NotConnectedError struct {
	Addr     netip.Addr
	Networks []Network // what the attached interfaces and the VLAN devices on them reach
}

// Error names the address and what is reached instead.
func (e *NotConnectedError) Error() string {
	if len(e.Networks) == 0 {
		return fmt.Sprintf("%s is not on a directly connected network: no interface is attached", e.Addr)
	}
	words := make([]string, len(e.Networks))
	for i, network := range e.Networks {
		words[i] = network.String()
	}
	return fmt.Sprintf("%s is not on a directly connected network of an attached interface; these are: %s",
		e.Addr, strings.Join(words, ", "))
}

// NoAnswerError says that nobody on the segment answered for an address.
type NoAnswerError struct {
	Addr       netip.Addr
	Interfaces []string // where it was asked for
}

// Error names the address, the protocol that was used to ask and the interfaces.
func (e *NoAnswerError) Error() string {
	protocol := "ARP"
	if e.Addr.Is6() {
		protocol = "neighbour discovery"
	}
	return fmt.Sprintf("%s does not answer %s on %s", e.Addr, protocol, strings.Join(e.Interfaces, ", "))
}

// OwnAddressError says that an address belongs to this host.
type OwnAddressError struct {
	Addr      netip.Addr
	Interface string // that holds it
}

// Error names the address and the interface that holds it.
func (e *OwnAddressError) Error() string {
	return fmt.Sprintf("%s is one of this host's own addresses (on %s)", e.Addr, e.Interface)
}
