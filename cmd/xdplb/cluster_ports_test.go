// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"

	"xdplb/internal/lab"
)

// TestClusterPorts: the ports of a service share its turns, and connections to any of them go on while their service's
// ports change.
func TestClusterPorts(t *testing.T) {
	c := serve(t, lab.Options{}, netip.AddrPortFrom(lab.VIP, 8079), "rr")
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(lab.VIP, port) }
	c.director("service set %s --port 80,443-444,8000-8099", at(8079))
	for _, real := range c.reals() {
		// The web servers have port 80; what comes to others is the same for them.
		c.on(real.Name, "nft add table ip ports")
		c.on(real.Name, "nft add chain ip ports before { type nat hook prerouting priority -100 ; }")
		c.on(real.Name, "nft add rule ip ports before tcp dport { 443-444, 8000-8099 } redirect to :80")
	}
	var servers []string
	for _, port := range []uint16{80, 443, 444, 8000, 8050, 8099, 8079, 8001} {
		server, err := c.get(netip.Addr{}, at(port))
		c.check(err)
		servers = append(servers, server)
	}
	for i := range servers[1:] {
		if servers[i] == servers[i+1] {
			t.Errorf("%v: want strict turns over all ports", servers)
			break
		}
	}
	if _, err := c.get(netip.Addr{}, at(445)); err == nil {
		t.Error("port 445, which is not the service's, is served")
	}

	conn, err := c.connect(netip.Addr{}, at(8050))
	c.check(err)
	defer conn.close()
	before, err := conn.ask()
	c.check(err)
	c.director("service set %s --port 8050-8060", at(8079))
	after, err := conn.ask()
	c.check(err)
	if before != after {
		t.Errorf("when the ports changed, a connection went from %s to %s", before, after)
	}
	if _, err := c.get(netip.Addr{}, at(443)); err == nil {
		t.Error("port 443 is served, which the service has no more")
	}
}
