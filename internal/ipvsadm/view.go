// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"fmt"
	"io"
	"net/netip"

	"xdplb/internal/lb"
)

// View is what List and Save commands print. The functions are as in Listing and ConnectionListing; a nil Walk finds no
// connection.
type View struct {
	State    lb.State
	Extended bool // as of Listing
	Size     int  // of the connection table, as the first line of a listing calls it
	Service  func(lb.ServiceKey) Numbers
	Backend  func(lb.ServiceKey, netip.Addr) Numbers
	Walk     func(visit func(Connection) bool) error
	Host     func(netip.Addr) string
	Port     func(uint16, lb.Protocol) string
}

// Print writes what a List or Save command prints. The error is w's or Walk's, or a *Failure if the service that the
// command names is not there.
func (c Command) Print(w io.Writer, v View) error {
	if c.Listing.Numeric {
		v.Host, v.Port = nil, nil
	}
	if c.Verb == VerbSave {
		return Save(w, Saving{State: v.State, Host: v.Host, Port: v.Port})
	}
	switch c.Listing.Subject {
	case TableOfConns:
		if v.Walk == nil {
			v.Walk = func(func(Connection) bool) error { return nil }
		}
		return ListConnections(w, ConnectionListing{Walk: v.Walk, Host: v.Host, Port: v.Port, PEColumns: c.Listing.PEColumns})
	case TimeoutLine:
		_, err := fmt.Fprintf(w, "Timeout (tcp tcpfin udp): %s\n", v.State.Timeouts)
		return err
	case DaemonLines:
		return nil
	}
	return c.printTable(w, v)
}

func (c Command) printTable(w io.Writer, v View) error {
	if c.Named {
		service, found := v.State.Service(c.Service.ServiceKey)
		if !found {
			return &Failure{Text: "No such service", Status: statusMissing}
		}
		v.State, v.Size = lb.State{Services: []lb.Service{*service}}, 0
	}
	return List(w, Listing{
		State: v.State, Extended: v.Extended, Columns: c.Listing.Columns, Size: v.Size, Exact: c.Listing.Exact,
		Host: v.Host, Port: v.Port, Service: v.Service, Backend: v.Backend,
	})
}
