// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"xdplb/internal/lb"
)

// Columns says which listing it is.
type Columns int

// The listings.
const (
	Connections     Columns = iota // ipvsadm -L: forwarding method, weight and connections
	Stats                          // ipvsadm -L --stats: totals
	Rate                           // ipvsadm -L --rate: per second
	Thresholds                     // ipvsadm -L --thresholds: limits of connections, and connections
	PersistentConns                // ipvsadm -L --persistent-conn: weight, persistence templates and connections
	TunnelInfo                     // ipvsadm -L --tun-info: as Connections, with a column for tunnels
)

// Listing is what List writes.
type Listing struct {
	State   lb.State
	Columns Columns
	// Size is what the first line calls the size of the connection table; with 0 that line is left out, as ipvsadm does
	// when one service is asked for.
	Size int
	// Exact writes all digits of large numbers.
	Exact bool
	// Extended shows what ipvsadm has no words for: the ports of services that have several, and what becomes of the
	// connections of removed backends, if it is not what LVS does.
	Extended bool
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
	Active, Inactive uint64 // connections; of a backend only
	Persistent       uint64 // persistence templates; of a backend, for PersistentConns only
	Connections      uint64
	Packets, Bytes   uint64 // from the clients; bytes of IP
}

// The widths at which ipvsadm cuts names: those of IPv4 services with the protocol before them, those of IPv4 backends,
// and all.
const (
	serviceWidth = 33
	backendWidth = 28
	nameWidth    = 59
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
	case Thresholds:
		return fmt.Sprintf("%-33s %-10s %-10s %-10s %-10s\n  -> RemoteAddress:Port\n",
			"Prot LocalAddress:Port", "Uthreshold", "Lthreshold", "ActiveConn", "InActConn")
	case PersistentConns:
		return fmt.Sprintf("%-33s %-9s %-11s %-10s %-10s\n  -> RemoteAddress:Port\n",
			"Prot LocalAddress:Port", "Weight", "PersistConn", "ActiveConn", "InActConn")
	case TunnelInfo:
		return "Prot LocalAddress:Port Scheduler Flags\n" +
			"  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn\n"
	}
	return "Prot LocalAddress:Port Scheduler Flags\n" +
		"  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
}

func (l *Listing) serviceRow(s *lb.Service) string {
	row := fmt.Sprintf("%-4s %s", strings.ToUpper(s.Protocol.String()), l.name(s.Addr.Addr(), s.ServiceKey))
	if s.Addr.Addr().Is4() {
		row = cut(row, serviceWidth)
	}
	if l.Columns != Stats && l.Columns != Rate {
		row += " " + serviceOptionsOf(s)
		if l.Extended && s.Ports != "" {
			row += " ports " + string(s.Ports)
		}
		if l.Extended && s.OnRemoval != lb.Reschedule {
			row += " on-removal " + s.OnRemoval.String()
		}
		return row + "\n"
	}
	var n Numbers
	if l.Service != nil {
		n = l.Service(s.ServiceKey)
	}
	return fmt.Sprintf("%-33s%s%s%s%s%s\n", row,
		l.large(n.Connections), l.large(n.Packets), l.large(0), l.large(n.Bytes), l.large(0))
}

// serviceOptionsOf are the scheduler and what else a service has, in the words of a listing.
func serviceOptionsOf(s *lb.Service) string {
	words := s.Scheduler.String()
	if s.Flags != 0 {
		words += " (" + s.Scheduler.FlagNames(s.Flags) + ")"
	}
	words += persistenceOf(s, " persistent %d", " mask ")
	if s.OnePacket {
		words += " ops"
	}
	return words
}

// persistenceOf is the persistence of a service, if it has one, in a format for its seconds, and, unless each client is
// by itself, its netmask (IPv4) or prefix length (IPv6) behind a word.
func persistenceOf(s *lb.Service, seconds, mask string) string {
	if s.Persistence.Timeout == 0 {
		return ""
	}
	words := fmt.Sprintf(seconds, s.Persistence.Timeout/time.Second)
	bits := int(s.Persistence.Prefix)
	switch addr := s.Addr.Addr(); {
	case bits == addr.BitLen():
		return words
	case addr.Is4():
		return words + mask + netmask(bits).String()
	}
	return words + mask + strconv.Itoa(bits)
}

func (l *Listing) backendRow(s *lb.Service, b *lb.Backend) string {
	name := l.name(b.Addr, s.ServiceKey)
	if b.Addr.Is4() {
		name = cut(name, backendWidth)
	}
	var n Numbers
	if l.Backend != nil {
		n = l.Backend(s.ServiceKey, b.Addr)
	}
	row := fmt.Sprintf("  -> %-28s", name)
	switch l.Columns {
	case Stats:
		return row + fmt.Sprintf("%s%s%s%s%s\n",
			l.large(n.Connections), l.large(n.Packets), l.large(0), l.large(n.Bytes), l.large(0))
	case Rate:
		// Backends' connections and packets per second are never shortened, services' are.
		return row + fmt.Sprintf(" %8d %8d %8d%s%s\n", n.Connections, n.Packets, 0, l.large(n.Bytes), l.large(0))
	case Thresholds:
		return row + fmt.Sprintf(" %-10d %-10d %-10d %-10d\n", b.Upper, b.Lower, n.Active, n.Inactive)
	case PersistentConns:
		return row + fmt.Sprintf(" %-9d %-11d %-10d %-10d\n", b.Weight, n.Persistent, n.Active, n.Inactive)
	case TunnelInfo:
		return row + fmt.Sprintf(" %-7s %-13s %-6d %-10d %-10d\n", forward(b), "n/a", b.Weight, n.Active, n.Inactive)
	}
	return row + fmt.Sprintf(" %-7s %-6d %-10d %-10d\n", forward(b), b.Weight, n.Active, n.Inactive)
}

// forward is the forwarding method. A local backend's shows in listings only: it is saved as -g.
func forward(b *lb.Backend) string {
	if b.Hop.Local {
		return "Local"
	}
	return "Route"
}

// name is ADDRESS:PORT with the port of the service.
func (l *Listing) name(addr netip.Addr, key lb.ServiceKey) string {
	return name(netip.AddrPortFrom(addr, key.Addr.Port()), key.Protocol, l.Host, l.Port)
}

// name is ADDRESS:PORT, in names where there are any.
func name(at netip.AddrPort, protocol lb.Protocol,
	hosts func(netip.Addr) string, ports func(uint16, lb.Protocol) string) string {
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
		host = "[" + host + "]"
	}
	return cut(host+":"+port, nameWidth)
}

// large is a number in 9 columns, in thousands (K) to 10^12s (T) from where 8 digits and a space no longer hold it.
// Fractions are cut off, and the unit changes later than the space would ask. An exact number has all its digits behind
// a space.
func (l *Listing) large(n uint64) string {
	switch {
	case l.Exact:
		return fmt.Sprintf(" %8d", n)
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
