// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"xdplb/internal/lab"
)

// TestClusterCounts: the listing counts open connections as active and closed ones as inactive, also where packets
// go by the lookup table alone (mh).
func TestClusterCounts(t *testing.T) {
	for _, scheduler := range []string{"rr", "mh"} {
		t.Run(scheduler, func(t *testing.T) {
			c := serve(t, lab.Options{}, web, scheduler)
			// of a service that is added with all its backends at once the slots are settled from the beginning
			file := filepath.Join(t.TempDir(), "rules")
			c.check(os.WriteFile(file, []byte(c.director("save")), 0o600))
			c.director("flush")
			c.director("restore %s", file)
			var open []*connection
			for range 6 {
				conn, err := c.connect(netip.Addr{}, web)
				c.check(err)
				defer conn.close()
				_, err = conn.ask()
				c.check(err)
				open = append(open, conn)
			}
			c.wantListed("all open", 6, 0)
			for _, conn := range open[:4] {
				conn.close()
			}
			c.wantListed("four closed", 2, 4)
			if all := c.director("connections -n"); strings.Count(all, " ESTABLISHED ") != 2 {
				t.Errorf("want 2 established connections listed:\n%s", all)
			}
			for _, conn := range open[4:] {
				conn.close()
			}
			c.wantListed("all closed", 0, 6)
		})
	}
}

// listed sums ActiveConn and InActConn of the backends with a forwarding method.
func (c *cluster) listed(forward string) (active, inactive int) {
	c.t.Helper()
	for line := range strings.Lines(c.director("list -n")) {
		fields := strings.Fields(line)
		if len(fields) != 6 || fields[2] != forward {
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

// wantListed waits until the listing shows so many connections of real servers: a FIN may be on its way yet.
func (c *cluster) wantListed(when string, wantActive, wantInactive int) {
	c.t.Helper()
	c.wantListedAs("Route", when, wantActive, wantInactive)
}

func (c *cluster) wantListedAs(forward, when string, wantActive, wantInactive int) {
	c.t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		active, inactive := c.listed(forward)
		if active == wantActive && inactive == wantInactive {
			return
		}
		if time.Since(start) > patience {
			c.t.Fatalf("%s: %d active and %d inactive connections, want %d and %d:\n%s",
				when, active, inactive, wantActive, wantInactive, c.director("list -n"))
		}
	}
}
