// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"strings"
	"testing"

	"xdplb/internal/lab"
)

// TestClusterAllPorts lets clients connect to a service of port 0: each stays with a server, and what has a service of its
// own goes there.
func TestClusterAllPorts(t *testing.T) {
	c := serve(t, lab.Options{}, web, "rr")
	c.director("service del %s", web)
	all := netip.AddrPortFrom(web.Addr(), 0)
	c.director("service add %s --scheduler rr --persistent=600", all)
	for _, real := range []string{"192.168.60.8", "192.168.60.9"} {
		c.director("backend add %s --service %s", real, all)
	}
	shares := map[string]int{}
	for i := range 4 {
		addr := netip.AddrFrom4([4]byte{10, 10, 3, byte(i + 2)})
		c.check(c.lab.Host("client").AddAddress("eth0", netip.PrefixFrom(addr, 8)))
		got := distinct(c.sequence(4, addr, web))
		if len(got) != 1 {
			t.Errorf("4 requests of %s reached %v, want one server", addr, got)
		}
		shares[got[0]]++
	}
	if shares["real1"] != 2 || shares["real2"] != 2 {
		t.Errorf("4 clients are spread as %v, want 2 on each server", shares)
	}
	if got := c.director("connections -n --state none"); strings.Count(got, ":0 ") < 8 {
		t.Errorf("templates of 4 clients are listed as\n%s", got)
	}
	c.director("service add %s --scheduler rr", web)
	c.director("backend add 192.168.60.9 --service %s", web)
	if got := distinct(c.sequence(4, netip.Addr{}, web)); len(got) != 1 || got[0] != "real2" {
		t.Errorf("with a service of port 80, requests reached %v, want real2 alone", got)
	}
}

// TestClusterPersistenceOutlivesABackend: clients stay with a server that is quiesced, until the service says otherwise; when
// it dies and is removed they get another, and stay there when it comes back.
func TestClusterPersistenceOutlivesABackend(t *testing.T) {
	c := serve(t, lab.Options{}, web, "rr")
	c.director("service set %s --persistent=600", web)
	var clients []netip.Addr
	home := map[netip.Addr]string{}
	for i := range 4 {
		addr := netip.AddrFrom4([4]byte{10, 10, 4, byte(i + 2)})
		c.check(c.lab.Host("client").AddAddress("eth0", netip.PrefixFrom(addr, 8)))
		clients = append(clients, addr)
	}
	look := func(when string, want func(was string) string) {
		t.Helper()
		for _, addr := range clients {
			got := distinct(c.sequence(2, addr, web))
			if len(got) != 1 || got[0] != want(home[addr]) {
				t.Errorf("%s: 2 requests of %s reached %v, want %s", when, addr, got, want(home[addr]))
			}
			home[addr] = got[0]
		}
	}
	stays := func(was string) string { return was }
	for i, addr := range clients {
		home[addr] = c.reals()[i%2].Name
	}
	look("at first", stays)

	dies := c.lab.Host("real1")
	c.director("backend set %s --weight 0", dies.Addr())
	look("quiesced", stays)
	c.check(dies.StopWebServer())
	c.director("backend del %s", dies.Addr())
	look("dead and removed", func(string) string { return "real2" })
	c.check(dies.StartWebServer(t.Context()))
	c.director("backend add %s", dies.Addr())
	look("back", stays)

	c.director("backend set %s --weight 0", c.lab.Host("real2").Addr())
	c.director("service set %s --expire-quiescent", web)
	look("the other quiesced, with --expire-quiescent", func(string) string { return "real1" })
}
