// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"xdplb/internal/lb"
)

// Columns says which listing it is.
type Columns int

// The listings.
const (
	Connections Columns = iota // ipvsadm -L: forwarding method, weight and connections
	Stats                      // ipvsadm -L --stats: totals
	Rate                       // ipvsadm -L --rate: per second
)

// Listing is what List writes.
type Listing struct {
	State   lb.State
	Columns Columns
	// Size is what the first line calls the size of the connection table; with 0 that line is left out, as ipvsadm does
	// when one service is asked for.
	Size int
	// Host and Port name an address and a port, or return "" where there is no name. Left nil, the listing is
	// numeric, as with -n.
	Host func(netip.Addr) string
	Port func(uint16, lb.Protocol) string
	// Service and Backend give the numbers of the chosen columns. Left nil, all are 0.
	Service func(lb.ServiceKey) Numbers
	Backend func(lb.ServiceKey, netip.Addr) Numbers
}

// Numbers are the counted columns of a row: totals for Stats, per second for Rate. There is no outward traffic: in
// direct routing the director never sees a reply, and LVS too prints 0.
type Numbers struct {
	Active, Inactive uint64 // connections; of a backend, for Connections only
	Connections      uint64
	Packets, Bytes   uint64 // from the clients; bytes of IP
}

// The widths at which ipvsadm cuts IPv4 names.
const (
	serviceWidth = 33
	backendWidth = 28
)

// List writes a listing. The error is w's.
func List(w io.Writer, l Listing) error {
	out := bufio.NewWriter(w)
	if l.Size != 0 {
		fmt.Fprintf(out, "IP Virtual Server version 1.2.1 (size=%d)\n", l.Size)
	}
	out.WriteString(header(l.Columns))
	for i := range l.State.Services {
		service := &l.State.Services[i]
		out.WriteString(l.serviceRow(service))
		for j := range service.Backends {
			out.WriteString(l.backendRow(service, &service.Backends[j]))
		}
	}
	return out.Flush()
}

func header(c Columns) string {
	switch c {
	case Stats:
		return fmt.Sprintf("%-33s %8s %8s %8s %8s %8s\n  -> RemoteAddress:Port\n",
			"Prot LocalAddress:Port", "Conns", "InPkts", "OutPkts", "InBytes", "OutBytes")
	case Rate:
		return fmt.Sprintf("%-33s %8s %8s %8s %8s %8s\n  -> RemoteAddress:Port\n",
			"Prot LocalAddress:Port", "CPS", "InPPS", "OutPPS", "InBPS", "OutBPS")
	}
	return "Prot LocalAddress:Port Scheduler Flags\n" +
		"  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
}

func (l *Listing) serviceRow(s *lb.Service) string {
	name := fmt.Sprintf("%-4s %s", strings.ToUpper(s.Protocol.String()),
		l.name(s.Addr.Addr(), s.ServiceKey, serviceWidth))
	if l.Columns == Connections {
		return fmt.Sprintf("%s %s\n", name, s.Scheduler)
	}
	var n Numbers
	if l.Service != nil {
		n = l.Service(s.ServiceKey)
	}
	return fmt.Sprintf("%-33s%s%s%s%s%s\n", name,
		large(n.Connections), large(n.Packets), large(0), large(n.Bytes), large(0))
}

func (l *Listing) backendRow(s *lb.Service, b *lb.Backend) string {
	name := l.name(b.Addr, s.ServiceKey, backendWidth)
	var n Numbers
	if l.Backend != nil {
		n = l.Backend(s.ServiceKey, b.Addr)
	}
	switch l.Columns {
	case Stats:
		return fmt.Sprintf("  -> %-28s%s%s%s%s%s\n", name,
			large(n.Connections), large(n.Packets), large(0), large(n.Bytes), large(0))
	case Rate:
		// Backends' connections and packets per second are never shortened, services' are.
		return fmt.Sprintf("  -> %-28s %8d %8d %8d%s%s\n", name, n.Connections, n.Packets, 0, large(n.Bytes), large(0))
	}
	return fmt.Sprintf("  -> %-28s %-7s %-6d %-10d %-10d\n", name, "Route", b.Weight, n.Active, n.Inactive)
}

// name is ADDRESS:PORT with the port of the service, cut to a width if IPv4.
func (l *Listing) name(addr netip.Addr, key lb.ServiceKey, width int) string {
	name := name(netip.AddrPortFrom(addr, key.Addr.Port()), key.Protocol, l.Host, l.Port)
	if !addr.Is4() {
		return name
	}
	return name[:min(len(name), width)]
}

// name is ADDRESS:PORT, in names where there are any.
func name(at netip.AddrPort, protocol lb.Protocol, hosts func(netip.Addr) string, ports func(uint16, lb.Protocol) string) string {
	host, port := "", ""
	if hosts != nil {
		host = hosts(at.Addr())
	}
	if host == "" {
		host = at.Addr().String()
	}
	if ports != nil {
		port = ports(at.Port(), protocol)
	}
	if port == "" {
		port = strconv.Itoa(int(at.Port()))
	}
	if !at.Addr().Is4() {
		return "[" + host + "]:" + port
	}
	return host + ":" + port
}

// large is a number in 9 columns, in thousands (K) to 10^12s (T) from where 8 digits and a space no longer hold it.
// Fractions are cut off, and the unit changes later than the space would ask.
func large(n uint64) string {
	switch {
	case n < 1e8:
		return fmt.Sprintf("%9d", n)
	case n < 1e9:
		return fmt.Sprintf("%8dK", n/1e3)
	case n < 1e11:
		return fmt.Sprintf("%8dM", n/1e6)
	case n < 1e14:
		return fmt.Sprintf("%8dG", n/1e9)
	}
	return fmt.Sprintf("%8dT", n/1e12)
}
