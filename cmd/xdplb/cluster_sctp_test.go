// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xdplb/internal/lab"
	"xdplb/internal/testenv"
)

// TestClusterSCTP has associations with both real servers: each stays where it is, also when its backend takes no more, and
// is listed by LVS's states until it is over.
func TestClusterSCTP(t *testing.T) {
	testenv.RequireSCTP(t)
	c := raise(t, lab.Options{IPv6: true})
	c.director(small)
	for _, vip := range []netip.Addr{lab.VIP, lab.VIP6} {
		at := netip.AddrPortFrom(vip, 3868)
		c.director("service add %s --protocol sctp --scheduler rr", at)
		for _, real := range c.reals() {
			c.director("backend add %s --service %s --protocol sctp", address(real, vip), at)
			c.answerSCTP(real, at)
		}
		var all []net.Conn
		var servers []string
		for range 6 {
			conn, err := c.associate(at)
			c.check(err)
			all = append(all, conn)
			server, err := askSCTP(conn)
			c.check(err)
			servers = append(servers, server)
		}
		if counts := count(servers); counts["real1"] != 3 || counts["real2"] != 3 {
			t.Errorf("%s: 6 associations: %v, want 3 with each", at, servers)
		}
		count := func(filter string) string {
			return strings.TrimSpace(c.director("connections --count --service %s --state %s", at, filter))
		}
		if got := count("ESTABLISHED"); got != "6" {
			t.Errorf("%s: %s associations are established, want 6", at, got)
		}
		c.director("backend set %s --service %s --protocol sctp --weight 0", address(c.reals()[0], vip), at)
		for i, conn := range all {
			for range 5 {
				if server, err := askSCTP(conn); err != nil || server != servers[i] {
					t.Fatalf("%s: association %d of %s: %q answers, %v", at, i, servers[i], server, err)
				}
			}
		}
		for _, conn := range all {
			c.check(conn.Close())
		}
		if !eventually(func() bool { return count("CLOSED") == "6" }) {
			t.Errorf("%s: when all associations were shut down:\n%s", at, c.director("connections -n --service %s", at))
		}
	}
}

// socketSCTP makes a socket of one association at a time, which is used as TCP's are.
func socketSCTP(at netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP); err != nil {
		return -1, fmt.Errorf("an SCTP socket: %w", err)
	}
	// Bound to one address, it tells the other end of no other.
	if err := unix.Bind(fd, socketAddress(at)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind to %s: %w", at, err)
	}
	return fd, nil
}

func socketAddress(at netip.AddrPort) unix.Sockaddr {
	if at.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
	}
	return &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
}

// answerSCTP lets a host answer each line with its name.
func (c *cluster) answerSCTP(h *lab.Host, at netip.AddrPort) {
	c.t.Helper()
	var listener net.Listener
	c.check(h.Do(func() error {
		fd, err := socketSCTP(at)
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(fd), "listener")
		defer file.Close()
		if err := unix.Listen(fd, 16); err != nil {
			return err
		}
		listener, err = net.FileListener(file)
		return err
	}))
	c.answer(listener, func(conn net.Conn) {
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			fmt.Fprintln(conn, h.Name)
		}
	})
}

// associate opens an association from the client.
func (c *cluster) associate(to netip.AddrPort) (conn net.Conn, err error) {
	h := c.lab.Host("client")
	err = h.Do(func() error {
		fd, err := socketSCTP(netip.AddrPortFrom(address(h, to.Addr()), 0))
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(fd), "association")
		defer file.Close()
		limit := unix.NsecToTimeval(int64(patience))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
			return err
		}
		if err := unix.Connect(fd, socketAddress(to)); err != nil {
			return fmt.Errorf("connect to %s: %w", to, err)
		}
		conn, err = net.FileConn(file)
		return err
	})
	if err == nil {
		c.t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// askSCTP sends a line and reads the answer, who answers.
func askSCTP(conn net.Conn) (server string, err error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, "who"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}
