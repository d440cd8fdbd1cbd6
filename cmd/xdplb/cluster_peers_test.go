// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lab"
)

// TestClusterDirectorsAreRealServers: two directors, each of which is the other's real server. What one has scheduled for
// the other is served there, and nothing goes back.
func TestClusterDirectorsAreRealServers(t *testing.T) {
	for _, scheduler := range []string{"rr", "wlc", "sh"} {
		t.Run(scheduler, func(t *testing.T) {
			c := raise(t, lab.Options{Directors: 2, LocalNodes: true, Backends: 1})
			c.on("director", "ip route add default via 192.168.60.1")
			c.on("director2", "xdplb realserver setup 172.10.0.9 --gateway 192.168.60.1")
			names := []string{"director", "director2"}
			for _, name := range names {
				c.on(name, "xdplb "+small)
				c.on(name, "xdplb service add %s --scheduler %s", web, scheduler)
				for _, backend := range []string{"director", "director2", "real1"} {
					c.on(name, "xdplb backend add %s", c.lab.Host(backend).Addr())
				}
			}
			counted := c.countBetween(names[0], names[1])
			c.askBoth(names, 0, counted, scheduler)

			// The other one takes over: what was its own goes on as such.
			c.on("router", "ip neigh replace %s lladdr %s nud permanent dev eth1", lab.VIP, c.lab.Host("director2").Interfaces[0].MAC)
			c.askBoth(names, 1, counted, scheduler)
		})
	}
}

// askBoth asks for pages when one director has the VIP's traffic, and looks at the frames between the two.
func (c *cluster) askBoth(names []string, active int, counted func() [2]int, scheduler string) {
	c.t.Helper()
	before := counted()
	var servers []string
	for i := range 24 {
		from := netip.Addr{}
		if scheduler == "sh" { // which asks who the client is
			from = netip.MustParseAddr(fmt.Sprintf("10.10.1.%d", i+1))
			if active == 0 {
				c.on("client", "ip addr add %s/8 dev eth0", from)
			}
		}
		server, err := c.get(from, web)
		c.check(err)
		servers = append(servers, server)
	}
	got := count(servers)
	if len(got) != 3 || scheduler == "rr" && !cmp.Equal(got, map[string]int{"director": 8, "director2": 8, "real1": 8}) {
		c.t.Errorf("%s has the traffic; who answered 24 requests: %v, want all three", names[active], got)
	}
	after := counted()
	if there := after[active] - before[active]; there < 3*got[names[1-active]] {
		c.t.Errorf("%d frames went from %s to the other for %d requests", there, names[active], got[names[1-active]])
	}
	if back := after[1-active] - before[1-active]; back > 0 {
		c.t.Errorf("%s has the traffic, and %d frames to the VIP came back from the other", names[active], back)
	}
	for _, name := range names {
		if status := c.on(name, "xdplb status"); !regexp.MustCompile(`(?m)^ *0 +DROP +ttl_exceeded `).MatchString(status) {
			c.t.Errorf("frames went round until their TTL was used up; %s says:\n%s", name, status)
		}
	}
}

// countBetween lets the switch count the frames to the VIP that two directors send each other, and returns a function that
// reads both counts: from the first to the second, and from the second to the first.
func (c *cluster) countBetween(first, second string) func() [2]int {
	c.t.Helper()
	macs := []string{c.lab.Host(first).Interfaces[0].MAC.String(), c.lab.Host(second).Interfaces[0].MAC.String()}
	c.on("switch", "nft add table bridge directors")
	c.on("switch", "nft add chain bridge directors forward { type filter hook forward priority 0 ; }")
	for i := range macs {
		c.on("switch", "nft add counter bridge directors count%d", i)
		c.on("switch", "nft add rule bridge directors forward ether saddr %s ether daddr %s ip daddr %s counter name count%d",
			macs[i], macs[1-i], lab.VIP, i)
	}
	packets := regexp.MustCompile(`packets (\d+)`)
	return func() (counts [2]int) {
		c.t.Helper()
		for i := range counts {
			text := c.on("switch", "nft list counter bridge directors count%d", i)
			found := packets.FindStringSubmatch(strings.ReplaceAll(text, "\n", " "))
			if found == nil {
				c.t.Fatalf("no count in %q", text)
			}
			n, err := strconv.Atoi(found[1])
			c.check(err)
			counts[i] = n
		}
		return counts
	}
}
