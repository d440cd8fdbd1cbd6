// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lab"
)

// TestClusterLocalNode: the director itself is a backend beside real servers.
func TestClusterLocalNode(t *testing.T) {
	for name, service := range map[string]netip.AddrPort{"IPv4": web, "IPv6": web6} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, lab.Options{LocalNodes: true, IPv6: service.Addr().Is6()}, service, "rr")
			c.director("backend add %s", address(c.lab.Host("director"), service.Addr()))
			servers := c.sequence(12, netip.Addr{}, service)
			want := map[string]int{"director": 4, "real1": 4, "real2": 4}
			if diff := cmp.Diff(want, count(servers)); diff != "" {
				t.Errorf("12 requests were answered by (-want +got):\n%s", diff)
			}
			c.wantListedAs("Local", "after 12 requests", 0, 4)

			// A connection stays, and counts as any other.
			local := c.startDownload(service, "director")
			c.wantListedAs("Local", "with a download", 1, 4)
			c.director("backend set %s --weight 0", address(c.lab.Host("director"), service.Addr()))
			if got := count(c.sequence(6, netip.Addr{}, service)); got["director"] > 0 {
				t.Errorf("with weight 0 the director answers: %v", got)
			}
			c.check(local.finish())
			if passed := regexp.MustCompile(`(?m)^ *[1-9][0-9]* +PASS +local `); !passed.MatchString(c.director("status")) {
				t.Errorf("no packet to the director itself is counted:\n%s", c.director("status"))
			}
		})
	}
}
