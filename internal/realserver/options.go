// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"fmt"
	"net/netip"
)

// ArpMode is the way in which IPv4 VIPs are kept silent.
type ArpMode string

// The modes; see the package comment.
const (
	Sysctl ArpMode = "sysctl"
	Filter ArpMode = "filter"
)

// ParseArpMode returns the mode of that name. The error says only which there are.
func ParseArpMode(name string) (ArpMode, error) {
	switch mode := ArpMode(name); mode {
	case Sysctl, Filter:
		return mode, nil
	}
	return "", fmt.Errorf("want %s or %s", Sysctl, Filter)
}

// DefaultStateDir is where the record of what was there before is kept.
const DefaultStateDir = "/run/xdplb"

// Options say what a real server shall be.
type Options struct {
	// VIPs to hold on lo, IPv4 and IPv6. For [Teardown] and [Check], none means all that Setup has recorded.
	VIPs []netip.Addr

	// Dev is the interface towards the cluster's segment. Empty: the one that reaches the gateway, or else the one of
	// the default route.
	Dev string

	// Gateways become the default routes: at most one of each family. Without one, that family's routes stay.
	Gateways []netip.Addr

	// ArpMode for IPv4 VIPs; empty means Sysctl in [Setup], and in [Check] what Setup has recorded.
	ArpMode ArpMode

	// Persist makes Setup also install a systemd unit that does the same at each boot, for all recorded VIPs.
	// Teardown always takes the unit back, or shortens it to the VIPs that stay.
	Persist bool

	// Executable is the absolute path of xdplb in that unit. Setup needs it with Persist, Teardown to shorten the unit.
	Executable string

	// StateDir is the directory of the record; empty means [DefaultStateDir].
	StateDir string

	// Root is the directory under which etc/systemd/system is found; empty means "/".
	Root string
}

// Problem is one thing that keeps a real server from serving, or from being silent.
type Problem struct {
	Text string // what is wrong, as a sentence without full stop
	Hint string // a command that mends it
}

// String returns the text.
func (p Problem) String() string { return p.Text }

// RefusedError is a problem because of which [Setup] has changed nothing.
type RefusedError struct{ Problem }

// Error returns the text.
func (e *RefusedError) Error() string { return e.Text }

func refuse(hint, format string, args ...any) error {
	return &RefusedError{Problem{Text: fmt.Sprintf(format, args...), Hint: hint}}
}
