// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"xdplb/internal/lab"
	"xdplb/internal/testenv"
)

// TestClusterReference sets the cluster up by what the README tells an operator to type, and looks at it as clients do.
func TestClusterReference(t *testing.T) {
	testenv.Require(t, testenv.Command("ping"))
	c := raise(t, lab.Options{Bare: true})
	for _, real := range c.reals() {
		c.on(real.Name, "xdplb realserver setup 172.10.0.9 --gateway 192.168.60.1")
		c.on(real.Name, "xdplb realserver check")
	}
	c.director("attach eth0")
	c.director("service add 172.10.0.9:80 --scheduler rr")
	c.director("backend add 192.168.60.9")
	c.director("backend add 192.168.60.8")
	if x, err := c.lab.Host("director").XDP("eth0"); err != nil || x.Mode != "native" {
		t.Fatalf("eth0 of the director carries %+v (%v), want a program in native mode", x, err)
	}
	want := `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  172.10.0.9:80 rr
  -> 192.168.60.8:80              Route   1      0          0         
  -> 192.168.60.9:80              Route   1      0          0         
`
	if diff := cmp.Diff(want, c.director("list -n")); diff != "" {
		t.Errorf("xdplb list -n (-want +got):\n%s", diff)
	}

	servers := c.sequence(10, netip.Addr{}, web)
	for i := range servers[1:] {
		if servers[i] == servers[i+1] {
			t.Errorf("%v: want strict turns", servers)
			break
		}
	}
	conn, err := c.connect(netip.Addr{}, web)
	c.check(err)
	defer conn.close()
	var same []string
	for range 50 {
		server, err := conn.ask()
		c.check(err)
		same = append(same, server)
	}
	if got := distinct(same); len(got) != 1 {
		t.Errorf("50 requests of one connection reached %v, want one server", got)
	}

	c.on("real1", "ping -c 1 -W 2 192.168.60.1")
	c.on("real1", "ping -c 1 -W 2 172.10.0.9")
	c.on("router", "ping -c 1 -W 2 172.10.0.9")
	c.on("router", "ping -c 1 -W 2 192.168.60.4")
	if diff := cmp.Diff(segmentMACs(c), routerKnows(c)); diff != "" {
		t.Errorf("the router's ARP cache of the segment (-want +got):\n%s", diff)
	}
}

// segmentMACs is what the router ought to know of the segment.
func segmentMACs(c *cluster) map[string]string {
	macs := map[string]string{}
	for _, name := range []string{"director", "real1", "real2"} {
		h := c.lab.Host(name)
		macs[h.Addr().String()] = h.Interfaces[0].MAC.String()
	}
	macs[lab.VIP.String()] = c.lab.Host("director").Interfaces[0].MAC.String()
	return macs
}

// routerKnows is the router's ARP cache of the segment.
func routerKnows(c *cluster) map[string]string {
	c.t.Helper()
	neighbours, err := c.lab.Host("router").Neighbours()
	c.check(err)
	macs := map[string]string{}
	for _, n := range neighbours {
		if n.Interface == "eth1" {
			macs[n.Addr.String()] = n.MAC.String()
		}
	}
	return macs
}

// provocations are what a careless real server gives itself away by.
var provocations = []struct {
	name string
	do   func(c *cluster, real *lab.Host) error
}{
	{"the router asks for the VIP", func(c *cluster, _ *lab.Host) error {
		router := c.lab.Host("router")
		if err := router.ForgetNeighbours(); err != nil {
			return err
		}
		return say(router, netip.Addr{}, lab.VIP)
	}},
	{"it asks for its gateway", func(c *cluster, real *lab.Host) error {
		if err := real.ForgetNeighbours(); err != nil {
			return err
		}
		return say(real, netip.Addr{}, c.lab.Host("client").Addr())
	}},
	{"it asks for its gateway on behalf of the VIP", func(c *cluster, real *lab.Host) error {
		if err := real.ForgetNeighbours(); err != nil {
			return err
		}
		return say(real, lab.VIP, c.lab.Host("client").Addr())
	}},
	{"it restarts, is set up again, and announces its addresses", func(c *cluster, real *lab.Host) error {
		if err := real.SetSysctl("net/ipv4/conf/eth0/arp_notify", "1"); err != nil {
			return err
		}
		for _, state := range []string{"down", "up"} {
			if _, err := c.try(real.Name, "ip link set eth0 "+state); err != nil {
				return err
			}
		}
		if c.lab.Options.ARP == lab.ARPNone {
			_, err := c.try(real.Name, "ip route add default via 192.168.60.1")
			return err
		}
		_, err := c.try(real.Name, fmt.Sprintf("xdplb realserver setup %s --gateway 192.168.60.1 --arp-mode %s", lab.VIP, c.lab.Options.ARP))
		return err
	}},
}

// say sends a datagram from a host to a port at which nobody listens.
func say(h *lab.Host, from, to netip.Addr) error {
	return h.Do(func() error {
		var local *net.UDPAddr
		if from.IsValid() {
			local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		conn, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("x"))
		return err
	})
}

// TestClusterSilence provokes each real server in each way, and wants the router to know the VIP with the director's MAC
// address, and requests to be shared.
func TestClusterSilence(t *testing.T) {
	for _, mode := range []lab.ARPMode{lab.ARPSysctl, lab.ARPFilter} {
		t.Run(string(mode), func(t *testing.T) {
			c := serve(t, lab.Options{ARP: mode}, web, "rr")
			director := c.lab.Host("director").Interfaces[0].MAC.String()
			for _, provocation := range provocations {
				for _, real := range c.reals() {
					c.check(provocation.do(c, real))
					c.sequence(1, netip.Addr{}, web)
					if got := routerKnows(c)[lab.VIP.String()]; got != director {
						t.Errorf("%s: %s: the router knows the VIP at %q, want the director's %s", real.Name, provocation.name, got, director)
					}
				}
			}
			if got := count(c.sequence(10, netip.Addr{}, web)); got["real1"] != 5 || got["real2"] != 5 {
				t.Errorf("10 requests afterwards: %v, want 5 each", got)
			}
		})
	}
}

// TestClusterARPProblem shows what the silence is for: without it, the router learns a real server's MAC address, and that
// real server gets what the director should.
func TestClusterARPProblem(t *testing.T) {
	c := serve(t, lab.Options{ARP: lab.ARPNone}, web, "rr")
	director := c.lab.Host("director").Interfaces[0].MAC.String()
	for _, real := range c.reals() {
		var noticed []string
		for _, provocation := range provocations {
			c.on("router", "ip neigh replace 172.10.0.9 dev eth1 lladdr %s nud reachable", director)
			c.check(provocation.do(c, real))
			// What a real server does of its own accord is on the wire by now, or will be in a moment.
			if eventually(func() bool { return routerKnows(c)[lab.VIP.String()] == real.Interfaces[0].MAC.String() }) {
				noticed = append(noticed, provocation.name)
				got := distinct(c.sequence(4, netip.Addr{}, web))
				if diff := cmp.Diff([]string{real.Name}, got); diff != "" {
					t.Errorf("%s: who answers (-want +got):\n%s", provocation.name, diff)
				}
			}
		}
		if !strings.Contains(strings.Join(noticed, "\n"), "on behalf of the VIP") {
			t.Errorf("%s has given itself away by %q, want at least its question on behalf of the VIP", real.Name, noticed)
		}
	}
}

// eventually waits, not long, for a condition.
func eventually(condition func() bool) bool {
	for range 50 {
		if condition() {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

// TestClusterRealServerSetup compares the real servers before the set-up and after the teardown, and wants them to serve
// in between.
func TestClusterRealServerSetup(t *testing.T) {
	for _, mode := range []string{"sysctl", "filter"} {
		t.Run(mode, func(t *testing.T) {
			c := raise(t, lab.Options{Bare: true, IPv6: true})
			c.director(small)
			for _, service := range []netip.AddrPort{web, web6} {
				c.director("service add %s --scheduler rr", service)
			}
			before := map[string]string{}
			for _, real := range c.reals() {
				before[real.Name] = everything(c, real)
				c.on(real.Name, "xdplb realserver setup %s %s --gateway 192.168.60.1 --gateway 2001:db8:60::1 --arp-mode %s", lab.VIP, lab.VIP6, mode)
				c.on(real.Name, "xdplb realserver check")
				if everything(c, real) == before[real.Name] {
					t.Errorf("%s is what it was before the set-up", real.Name)
				}
				c.director("backend add %s --service %s", real.Addr(), web)
				c.director("backend add %s --service %s", real.Addr6(), web6)
			}
			for _, service := range []netip.AddrPort{web, web6} {
				if got := count(c.sequence(4, netip.Addr{}, service)); got["real1"] != 2 || got["real2"] != 2 {
					t.Errorf("4 requests to %s: %v, want 2 each", service, got)
				}
			}
			for _, real := range c.reals() {
				c.on(real.Name, "xdplb realserver teardown")
				if diff := cmp.Diff(before[real.Name], everything(c, real)); diff != "" {
					t.Errorf("%s before the set-up and after the teardown (-before +after):\n%s", real.Name, diff)
				}
			}
		})
	}
}

// everything is what a real server's set-up might touch, as text.
func everything(c *cluster, real *lab.Host) string {
	c.t.Helper()
	var all strings.Builder
	for _, command := range []string{
		"ip -o addr show scope global", "ip -o addr show dev lo", "ip -4 route show table all", "ip -6 route show table all", "ip rule",
	} {
		all.WriteString(c.on(real.Name, "%s", command))
	}
	c.check(real.Do(func() error {
		for _, dir := range []string{"/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"} {
			if err := writeFiles(&all, dir); err != nil {
				return err
			}
		}
		connection, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := connection.ListTables()
		for _, table := range tables {
			fmt.Fprintf(&all, "table %s of family %d\n", table.Name, table.Family)
		}
		return err
	}))
	return all.String()
}

// writeFiles writes the paths below a directory with what can be read there.
func writeFiles(all *strings.Builder, dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, _ := os.ReadFile(path) // some cannot be read, as stable_secret while it is unset
		fmt.Fprintf(all, "%s %s\n", path, strings.TrimSpace(string(content)))
		return nil
	})
}
