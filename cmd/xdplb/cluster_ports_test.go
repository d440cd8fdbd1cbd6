// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

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

// TestClusterFTP: the data connections of a persistent service of port 21 reach the server that has the client's session,
// whoever opens them.
func TestClusterFTP(t *testing.T) {
	ftp := netip.AddrPortFrom(lab.VIP, 21)
	c := serve(t, lab.Options{}, web, "rr")
	c.director("service add %s --scheduler rr --persistent", ftp)
	for _, real := range c.reals() {
		c.director("backend add %s --service %s", real.Addr(), ftp)
		for _, port := range []uint16{21, 50000} {
			c.tellName(real, netip.AddrPortFrom(lab.VIP, port))
		}
	}
	sessions := map[string]int{}
	for i := range 4 {
		client := netip.AddrFrom4([4]byte{10, 10, 3, byte(i + 2)})
		c.check(c.lab.Host("client").AddAddress("eth0", netip.PrefixFrom(client, 8)))
		server := c.heard(client, ftp)
		sessions[server]++
		if got := c.heard(client, netip.AddrPortFrom(lab.VIP, 50000)); got != server {
			t.Errorf("%s: its session is with %s, and data comes from %s", client, server, got)
		}
		if err := c.dialBack(server, client); err != nil {
			t.Errorf("%s: data from %s, which opens the connection: %v", client, server, err)
		}
	}
	if sessions["real1"] != 2 || sessions["real2"] != 2 {
		t.Errorf("sessions: %v, want 2 with each", sessions)
	}
	if got := count(c.sequence(4, netip.Addr{}, web)); got["real1"] != 2 || got["real2"] != 2 {
		t.Errorf("requests to %s: %v, want 2 to each", web, got)
	}
}

// tellName lets a host tell its name to whoever connects.
func (c *cluster) tellName(h *lab.Host, at netip.AddrPort) {
	c.t.Helper()
	listener, err := h.Listen("tcp4", at.String())
	c.check(err)
	c.answer(listener, func(conn net.Conn) { fmt.Fprint(conn, h.Name) })
}

// heard is what the client hears from one of its addresses.
func (c *cluster) heard(from netip.Addr, to netip.AddrPort) string {
	c.t.Helper()
	conn, err := c.connect(from, to)
	c.check(err)
	defer conn.close()
	said, err := io.ReadAll(conn.reader)
	c.check(err)
	return string(said)
}

// dialBack lets a real server open a connection to the client, in the VIP's name from port 20, and hear the client.
func (c *cluster) dialBack(server string, client netip.Addr) error {
	listener, err := c.lab.Host("client").Listen("tcp4", netip.AddrPortFrom(client, 0).String())
	if err != nil {
		return err
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			conn.Write([]byte("data"))
			conn.Close()
		}
	}()
	var said []byte
	err = c.lab.Host(server).Do(func() error {
		dialer := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(lab.VIP, 20))}
		conn, err := dialer.Dial("tcp4", listener.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		said, err = io.ReadAll(conn)
		return err
	})
	if err == nil && string(said) != "data" {
		err = fmt.Errorf("it heard %q", said)
	}
	return err
}
