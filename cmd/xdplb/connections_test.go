// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lab"
)

// TestClusterConnections wants connections to be listed with their real servers, in the state that the client has brought
// them to.
func TestClusterConnections(t *testing.T) {
	for _, vip := range []netip.Addr{lab.VIP, lab.VIP6} {
		t.Run(vip.String(), func(t *testing.T) {
			at := netip.AddrPortFrom(vip, 80)
			c := serve(t, lab.Options{IPv6: vip.Is6()}, at, "rr")
			var want []string
			for _, state := range []string{"ESTABLISHED", "FIN_WAIT", "CLOSE"} {
				conn, err := c.connect(netip.Addr{}, at)
				c.check(err)
				defer conn.close()
				server, err := conn.ask()
				c.check(err)
				switch state {
				case "FIN_WAIT":
					c.check(conn.conn.(*net.TCPConn).CloseWrite())
				case "CLOSE":
					c.check(conn.conn.(*net.TCPConn).SetLinger(0)) // closing resets it
					conn.close()
				}
				backend := netip.AddrPortFrom(address(c.lab.Host(server), vip), at.Port())
				want = append(want, fmt.Sprintf("%-11s %-18s %-18s %s", state, conn.conn.LocalAddr(), at, backend))
			}
			slices.Sort(want)
			var got []string
			// The last packets may be under way.
			if !eventually(func() bool { got = listedConnections(c); return slices.Equal(want, got) }) {
				t.Errorf("(-want +got):\n%s", cmp.Diff(want, got))
			}
		})
	}
}

// listedConnections are the listing's rows, sorted, without the time that each has left.
func listedConnections(c *cluster) []string {
	c.t.Helper()
	rows := strings.Split(strings.TrimSpace(c.director("connections -n")), "\n")[2:]
	left := regexp.MustCompile(`^TCP (15:00|14:[0-9]{2}|0[0-2]:[0-9]{2})  `)
	for i := range rows {
		rows[i] = left.ReplaceAllString(rows[i], "")
	}
	return slices.Sorted(slices.Values(rows))
}
