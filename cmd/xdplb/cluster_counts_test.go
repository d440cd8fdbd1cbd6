// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"xdplb/internal/lab"
)

// TestClusterCounts: the listing counts open connections as active and closed ones as inactive, also where packets
// go by the lookup table alone (mh).
func TestClusterCounts(t *testing.T) {
	c := serve(t, lab.Options{}, web, "rr")
	for _, scheduler := range []string{"rr", "mh"} {
		c.director("service set %s --scheduler %s", web, scheduler)
		_, before := c.listed()
		var open []*connection
		for range 6 {
			conn, err := c.connect(netip.Addr{}, web)
			c.check(err)
			defer conn.close()
			_, err = conn.ask()
			c.check(err)
			open = append(open, conn)
		}
		c.wantListed(scheduler+", all open", 6, before)
		for _, conn := range open[:4] {
			conn.close()
		}
		c.wantListed(scheduler+", four closed", 2, before+4)
		if got := strings.Count(c.director("connections -n"), " ESTABLISHED "); got != 2 {
			t.Errorf("%s: %d established connections listed, want 2:\n%s", scheduler, got, c.director("connections -n"))
		}
		for _, conn := range open[4:] {
			conn.close()
		}
		c.wantListed(scheduler+", all closed", 0, before+6)
	}
}

// listed sums ActiveConn and InActConn of the listing.
func (c *cluster) listed() (active, inactive int) {
	c.t.Helper()
	for line := range strings.Lines(c.director("list -n")) {
		fields := strings.Fields(line)
		if len(fields) != 6 || fields[2] != "Route" {
			continue
		}
		for i, sum := range []*int{&active, &inactive} {
			n, err := strconv.Atoi(fields[4+i])
			c.check(err)
			*sum += n
		}
	}
	return active, inactive
}

// wantListed waits until the listing shows so many connections: a FIN may be on its way yet.
func (c *cluster) wantListed(when string, wantActive, wantInactive int) {
	c.t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		active, inactive := c.listed()
		if active == wantActive && inactive == wantInactive {
			return
		}
		if time.Since(start) > patience {
			c.t.Fatalf("%s: %d active and %d inactive connections, want %d and %d:\n%s",
				when, active, inactive, wantActive, wantInactive, c.director("list -n"))
		}
	}
}
