// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"xdplb/internal/lb"
)

// Connection is a row of ListConnections.
type Connection struct {
	Protocol lb.Protocol
	Left     time.Duration // until it expires
	State    string        // in LVS's words (tcp_state_name_table in the kernel's ip_vs_proto_tcp.c, "UDP" for UDP)
	Client   netip.AddrPort
	VIP      netip.AddrPort
	Backend  netip.AddrPort
}

// ConnectionListing is what ListConnections writes.
type ConnectionListing struct {
	// Walk calls visit for every connection until it says false.
	Walk func(visit func(Connection) bool) error
	// Host and Port name addresses and ports of services and backends, as in Listing. Clients are numbers always: they
	// are too many to ask for each.
	Host func(netip.Addr) string
	Port func(uint16, lb.Protocol) string
	// PEColumns adds the headings that "--persistent-conn" brings, for persistence engines, which xdplb does not have.
	PEColumns bool
}

// connectionsBuffer is how many bytes of rows go out at once: there may be millions of rows.
const connectionsBuffer = 64 << 10

// ListConnections writes the listing of "ipvsadm -L -c", in the order of the walk and in memory that does not grow with
// it. A walk that fails before its first connection leaves nothing written. The error is the walk's or w's.
func ListConnections(w io.Writer, l ConnectionListing) error {
	out := bufio.NewWriterSize(w, connectionsBuffer)
	out.WriteString("IPVS connection entries\n")
	if l.PEColumns {
		out.WriteString("pro expire state       source             virtual            destination        " +
			"pe name          pe_data\n")
	} else {
		out.WriteString("pro expire state       source             virtual            destination\n")
	}
	err := l.Walk(func(c Connection) bool {
		_, err := out.WriteString(l.row(c))
		return err == nil
	})
	if err != nil {
		return err
	}
	return out.Flush() // with the error of an earlier write, if there was one
}

func (l *ConnectionListing) row(c Connection) string {
	seconds := int(c.Left / time.Second)
	return fmt.Sprintf("%-3s %-6s %-11s %-18s %-18s %s\n",
		strings.ToUpper(c.Protocol.String()), fmt.Sprintf("%02d:%02d", seconds/60, seconds%60), c.State,
		c.Client, name(c.VIP, c.Protocol, l.Host, l.Port), name(c.Backend, c.Protocol, l.Host, l.Port))
}
