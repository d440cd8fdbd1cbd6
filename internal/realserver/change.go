// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The kinds of change.
const (
	changeSysctl  = "sysctl"  // Path from Before to Set
	changeTable   = "table"   // the nftables table, for the record's VIPs
	changeAddress = "address" // VIP on lo
	changeRoute   = "route"   // host route to VIP on lo
	changeGateway = "gateway" // default route via Gateways' last, instead of the route in Before
)

// change is one change of the kernel's state, with what is needed to take it back. Doing and undoing can be repeated.
type change struct {
	Kind string

	VIP netip.Addr `json:",omitzero"` // of an address or a route

	Path, Set string `json:",omitempty"` // of a sysctl
	Before    string `json:",omitempty"` // its value

	Gateways []hop  `json:",omitempty"` // of a gateway: every default route that Setup has made in the course of time
	Route    []byte `json:",omitempty"` // what the first one replaced, as the kernel described it; nil: nothing
}

// hop is where a default route leads.
type hop struct {
	Gateway netip.Addr
	Ifindex int
}

// same reports whether c and d change the same thing.
func (c change) same(d change) bool {
	if c.Kind != d.Kind || c.VIP != d.VIP || c.Path != d.Path {
		return false
	}
	return c.Kind != changeGateway || c.Gateways[0].Gateway.Is4() == d.Gateways[0].Gateway.Is4()
}

// merge adds to a recorded change what a later one does to the same thing. What was there before the first one stays.
func (c *change) merge(later change) {
	c.Set = later.Set
	for _, gateway := range later.Gateways {
		if !slices.Contains(c.Gateways, gateway) {
			c.Gateways = append(c.Gateways, gateway)
		}
	}
}

// do makes the change.
func (c change) do(r *record) error {
	switch c.Kind {
	case changeSysctl:
		return writeSysctl(c.Path, c.Set)
	case changeTable:
		return writeTable(r.Dev, r.VIPs)
	case changeAddress:
		return addVIP(c.VIP)
	case changeRoute:
		return addHostRoute(c.VIP)
	default:
		return addDefault(c.Gateways[0])
	}
}

// undo puts back what was there before the change. What somebody else has changed since is left alone.
func (c change) undo() error {
	switch c.Kind {
	case changeSysctl:
		value, err := readSysctl(c.Path)
		if errors.Is(err, os.ErrNotExist) || err == nil && value != c.Set {
			return nil // the interface is gone, or the value is another's
		}
		if err != nil {
			return err
		}
		return writeSysctl(c.Path, c.Before)
	case changeTable:
		return deleteTable()
	case changeAddress:
		return deleteVIP(c.VIP)
	case changeRoute:
		return deleteHostRoute(c.VIP)
	case changeGateway:
		return restoreDefault(c.Gateways, c.Route)
	}
	return fmt.Errorf("the record has a change of the unknown kind %q", c.Kind)
}

func readSysctl(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}

func writeSysctl(path, value string) error {
	err := os.WriteFile(path, []byte(value), 0)
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("write sysctl: %w (in a container, set it from outside)", err)
	}
	if err != nil {
		return fmt.Errorf("write sysctl: %w", err)
	}
	return nil
}
