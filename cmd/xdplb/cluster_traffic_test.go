// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lab"
)

// TestClusterSplit wants rr to be exact, whether requests come one by one or all at once, and none to fail.
func TestClusterSplit(t *testing.T) {
	c := serve(t, lab.Options{}, web, "rr")
	half := func(n int) map[string]int { return map[string]int{"real1": n / 2, "real2": n / 2} }
	if diff := cmp.Diff(half(1000), count(c.sequence(1000, netip.Addr{}, web))); diff != "" {
		t.Errorf("1,000 requests one by one (-want +got):\n%s", diff)
	}
	for _, some := range []int{20, 200} {
		if diff := cmp.Diff(half(200), c.atOnce(200, some, web)); diff != "" {
			t.Errorf("200 requests, %d at once (-want +got):\n%s", some, diff)
		}
	}
}

// TestClusterWeights wants each cycle of wrr to be exact.
func TestClusterWeights(t *testing.T) {
	c := serve(t, lab.Options{}, web, "wrr")
	c.director("backend set 192.168.60.8 --weight 3")
	servers := c.sequence(40, netip.Addr{}, web)
	for cycle := range slices.Chunk(servers, 4) {
		if diff := cmp.Diff(map[string]int{"real1": 3, "real2": 1}, count(cycle)); diff != "" {
			t.Errorf("%v: a cycle of weights 3 and 1 (-want +got):\n%s", servers, diff)
			break
		}
	}
	if diff := cmp.Diff(map[string]int{"real1": 150, "real2": 50}, c.atOnce(200, 20, web)); diff != "" {
		t.Errorf("200 requests, 20 at once (-want +got):\n%s", diff)
	}
}

// TestClusterSourceHashing wants sh and mh to send a client always to the same server, and clients to different ones.
func TestClusterSourceHashing(t *testing.T) {
	c := serve(t, lab.Options{}, web, "sh")
	client := c.lab.Host("client")
	var addresses []netip.Addr
	for i := range 24 {
		addr := netip.AddrFrom4([4]byte{10, 10, byte(7 * i), byte(i + 2)})
		c.check(client.AddAddress("eth0", netip.PrefixFrom(addr, 8)))
		addresses = append(addresses, addr)
	}
	for _, scheduler := range []string{"sh", "mh"} {
		c.director("service set %s --scheduler %s", web, scheduler)
		shares := map[string]int{}
		for _, addr := range addresses {
			got := distinct(c.sequence(4, addr, web))
			if len(got) != 1 {
				t.Errorf("%s: 4 requests of %s reached %v, want one server", scheduler, addr, got)
			}
			shares[got[0]]++
		}
		if shares["real1"] < 4 || shares["real2"] < 4 {
			t.Errorf("%s: 24 clients are spread as %v, want at least 4 on each server", scheduler, shares)
		}
	}
}

const (
	downloadSize = 64 << 20
	uploadSize   = 16 << 20
)

// content returns bytes that look like noise and are always the same.
func content(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

func checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// library answers GET with the content, and POST with the checksum of what it gets.
type library []byte

func (l library) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		_, _ = w.Write(l) // the client sees what is missing
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, checksum(body))
}

// openLibraries starts a library on every real server.
func (c *cluster) openLibraries(at netip.AddrPort) {
	c.t.Helper()
	data := library(content(downloadSize))
	for _, real := range c.reals() {
		listener, err := real.Listen("tcp", at.String())
		c.check(err)
		server := &http.Server{Handler: data}
		c.t.Cleanup(func() { server.Close() })
		go func() { _ = server.Serve(listener) }() // until closed
	}
}

// transfer downloads and uploads, and compares checksums.
func (c *cluster) transfer(at netip.AddrPort) {
	c.t.Helper()
	client := c.lab.Host("client").HTTPClient()
	got, err := c.lab.Host("client").Get(c.t.Context(), "http://"+at.String())
	c.check(err)
	if len(got) != downloadSize || checksum([]byte(got)) != checksum(content(downloadSize)) {
		c.t.Errorf("the download from %s has %d bytes, or others than were sent", at, len(got))
	}
	data := content(uploadSize)
	response, err := client.Post("http://"+at.String(), "application/octet-stream", bytes.NewReader(data))
	c.check(err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	c.check(err)
	if string(answer) != checksum(data) {
		c.t.Errorf("the upload to %s arrived with checksum %s, want %s", at, answer, checksum(data))
	}
}

// TestClusterTransfers moves much data in both directions.
func TestClusterTransfers(t *testing.T) {
	for _, vip := range []netip.Addr{lab.VIP, lab.VIP6} {
		t.Run(vip.String(), func(t *testing.T) {
			at := netip.AddrPortFrom(vip, 8000)
			c := serve(t, lab.Options{IPv6: vip.Is6()}, at, "rr")
			c.openLibraries(at)
			c.transfer(at)
		})
	}
}

// TestClusterPathMTU narrows the way to the client, so that real servers hear of it only by an ICMP error to the VIP, which
// the director must give to the one whose packet was too big.
func TestClusterPathMTU(t *testing.T) {
	for _, vip := range []netip.Addr{lab.VIP, lab.VIP6} {
		t.Run(vip.String(), func(t *testing.T) {
			at := netip.AddrPortFrom(vip, 80)
			c := serve(t, lab.Options{Backends: 4, IPv6: vip.Is6()}, at, "rr")
			c.on("router", "ip link set eth0 mtu 1300")
			client := address(c.lab.Host("client"), vip)
			for range 2 {
				conn, err := c.connect(netip.Addr{}, at)
				c.check(err)
				defer conn.close()
				server, response, err := conn.request("/large")
				c.check(err)
				if n, err := io.Copy(io.Discard, response.Body); err != nil || n != lab.LargeFileSize {
					t.Errorf("%d bytes from %s: %v, want %d", n, server, err, lab.LargeFileSize)
				}
				if route := c.on(server, "ip route get %s from %s", client, vip); !strings.Contains(route, "mtu 1300") {
					t.Errorf("%s has not learned the path's MTU of 1300 bytes, so this shows nothing:\n%s", server, route)
				}
			}
		})
	}
}

// openEchoes starts a UDP server on every real server, which sends back its own name and what it got.
func (c *cluster) openEchoes(at netip.AddrPort) {
	c.t.Helper()
	for _, real := range c.reals() {
		conn, err := real.ListenPacket("udp", at.String())
		c.check(err)
		c.t.Cleanup(func() { conn.Close() })
		go func() {
			buffer := make([]byte, 1<<16)
			for {
				n, client, err := conn.ReadFrom(buffer)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = conn.WriteTo(append([]byte(real.Name+"\n"), buffer[:n]...), client) // the client sees what is missing
				}
			}
		}()
	}
}

// echo sends datagrams of a size from a port of the client, and returns which real servers have sent them back.
func (c *cluster) echo(port int, at netip.AddrPort, datagrams, size int) []string {
	c.t.Helper()
	var conn net.Conn
	c.check(c.lab.Host("client").Do(func() (err error) {
		conn, err = net.DialUDP("udp", &net.UDPAddr{Port: port}, net.UDPAddrFromAddrPort(at))
		return err
	}))
	defer conn.Close()
	var servers []string
	buffer := make([]byte, 1<<16)
	for range datagrams {
		sent := content(size)
		_, err := conn.Write(sent)
		c.check(err)
		c.check(conn.SetReadDeadline(time.Now().Add(patience / 3)))
		n, err := conn.Read(buffer)
		c.check(err)
		server, got, _ := bytes.Cut(buffer[:n], []byte("\n"))
		if !bytes.Equal(got, sent) {
			c.t.Errorf("%s sent back %d bytes, or others than the %d that it was sent", server, len(got), size)
		}
		servers = append(servers, string(server))
	}
	return servers
}

// TestClusterUDP wants the datagrams of a port of the client, whole or in fragments, to reach one real server, and those of
// several ports to be shared.
func TestClusterUDP(t *testing.T) {
	for _, vip := range []netip.Addr{lab.VIP, lab.VIP6} {
		t.Run(vip.String(), func(t *testing.T) {
			at := netip.AddrPortFrom(vip, 5300)
			c := raise(t, lab.Options{IPv6: vip.Is6()})
			c.director(small)
			c.director("service add %s --protocol udp --scheduler rr", at)
			for _, real := range c.reals() {
				c.director("backend add %s", address(real, vip))
			}
			c.openEchoes(at)
			for _, size := range []int{100, 6000} {
				shares := map[string]int{}
				for i := range 10 {
					// Not a port that the kernel picks, which may be one again whose flow lives.
					got := distinct(c.echo(10000+size+i, at, 5, size))
					if len(got) != 1 {
						t.Errorf("5 datagrams of %d bytes from one port reached %v, want one server", size, got)
					}
					shares[got[0]]++
				}
				if diff := cmp.Diff(map[string]int{"real1": 5, "real2": 5}, shares); diff != "" {
					t.Errorf("10 ports, datagrams of %d bytes (-want +got):\n%s", size, diff)
				}
			}
		})
	}
}

// TestClusterJumbo has frames of 9,000 bytes everywhere: native mode takes and forwards them whole, without a warning.
func TestClusterJumbo(t *testing.T) {
	c := raise(t, lab.Options{})
	for _, h := range c.lab.Hosts() {
		for line := range strings.Lines(c.on(h.Name, "ip -o link show type veth")) {
			name, _, _ := strings.Cut(strings.Fields(line)[1], "@")
			c.on(h.Name, "ip link set %s mtu 9000", name)
		}
	}
	at := netip.AddrPortFrom(lab.VIP, 5300)
	c.director(small)
	if status := c.director("status"); !strings.Contains(status, "MTU 9000  native mode\n") || strings.Contains(status, "warning") {
		t.Errorf("the status is\n%s\nwant the native mode, and no warning", status)
	}
	c.director("service add %s --protocol udp --scheduler rr", at)
	c.director("backend add %s", c.lab.Host("real1").Addr())
	c.openEchoes(at)
	const datagrams, size = 5, 9000 - 20 - 8
	if got := distinct(c.echo(10000, at, datagrams, size)); !slices.Equal(got, []string{"real1"}) {
		t.Errorf("datagrams as long as the MTU reached %v, want real1", got)
	}
	want := fmt.Sprintf("UDP %s 1 %d 0 %d 0", at, datagrams, datagrams*(size+8+20))
	if got := c.director("list -n --stats"); !strings.Contains(strings.Join(strings.Fields(got), " "), want) {
		t.Errorf("the listing is\n%s\nwant in it %q: whole datagrams", got, want)
	}
}

// TestClusterIPv6 wants of IPv6 what it wants of IPv4, and both at once.
func TestClusterIPv6(t *testing.T) {
	c := serve(t, lab.Options{IPv6: true}, web6, "rr")
	c.director("service add %s --scheduler rr", web)
	for _, real := range c.reals() {
		c.director("backend add %s --service %s", real.Addr(), web)
	}
	for _, service := range []netip.AddrPort{web6, web} {
		servers := c.sequence(10, netip.Addr{}, service)
		for i := range servers[1:] {
			if servers[i] == servers[i+1] {
				t.Errorf("%s: %v: want strict turns", service, servers)
				break
			}
		}
		if diff := cmp.Diff(map[string]int{"real1": 100, "real2": 100}, c.atOnce(200, 20, service)); diff != "" {
			t.Errorf("200 requests to %s, 20 at once (-want +got):\n%s", service, diff)
		}
	}
	c.on("real1", "ping -c 1 -W 2 2001:db8:60::1")
	c.on("router", "ping -c 1 -W 2 %s", lab.VIP6)
	neighbours, err := c.lab.Host("router").Neighbours()
	c.check(err)
	owners := map[string]bool{}
	for _, n := range neighbours {
		if n.Addr == lab.VIP6 {
			owners[n.MAC.String()] = true
		}
	}
	want := map[string]bool{c.lab.Host("director").Interfaces[0].MAC.String(): true}
	if diff := cmp.Diff(want, owners); diff != "" {
		t.Errorf("whom the router knows as the VIP (-want +got):\n%s", diff)
	}
}

// TestClusterManyServices has two VIPs and two ports at once, each with real servers of its own.
func TestClusterManyServices(t *testing.T) {
	c := raise(t, lab.Options{Backends: 4})
	second := netip.MustParseAddr("172.10.0.10")
	c.director(small)
	c.director("vip add %s --dev eth0", second)
	for _, real := range c.reals() {
		c.on(real.Name, "xdplb realserver setup %s --dev eth0", second)
	}
	services := []struct {
		service  netip.AddrPort
		backends []string
	}{
		{web, []string{"real1", "real2"}},
		{netip.AddrPortFrom(lab.VIP, 8000), []string{"real3"}},
		{netip.AddrPortFrom(second, 80), []string{"real3", "real4"}},
		{netip.AddrPortFrom(second, 8000), []string{"real1", "real4"}},
	}
	for _, s := range services {
		c.director("service add %s --scheduler rr", s.service)
		for _, name := range s.backends {
			c.director("backend add %s --service %s", c.lab.Host(name).Addr(), s.service)
		}
		if s.service.Port() == 80 {
			continue // nginx
		}
		for _, real := range c.reals() {
			listener, err := real.Listen("tcp", s.service.String())
			c.check(err)
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Real-Server", real.Name)
				fmt.Fprintln(w, real.Name)
			})}
			t.Cleanup(func() { server.Close() })
			go func() { _ = server.Serve(listener) }() // until closed
		}
	}
	got := make([]map[string]int, len(services))
	for range 10 {
		for i, s := range services { // interleaved: one service's turn is none of another's
			if got[i] == nil {
				got[i] = map[string]int{}
			}
			got[i][c.sequence(1, netip.Addr{}, s.service)[0]]++
		}
	}
	for i, s := range services {
		want := map[string]int{}
		for _, name := range s.backends {
			want[name] = 10 / len(s.backends)
		}
		if !maps.Equal(want, got[i]) {
			t.Errorf("10 requests to %s: %v, want %v", s.service, got[i], want)
		}
	}
}

// TestClusterGeneric has the program in the kernel's own stack instead of the driver.
func TestClusterGeneric(t *testing.T) {
	c := raise(t, lab.Options{})
	c.director(strings.Replace(small, "native", "generic", 1))
	if x, err := c.lab.Host("director").XDP("eth0"); err != nil || x.Mode != "generic" {
		t.Fatalf("eth0 of the director carries %+v (%v), want a program in generic mode", x, err)
	}
	at := netip.AddrPortFrom(lab.VIP, 8000)
	for _, service := range []netip.AddrPort{web, at} {
		c.director("service add %s --scheduler rr", service)
		for _, real := range c.reals() {
			c.director("backend add %s --service %s", real.Addr(), service)
		}
	}
	if diff := cmp.Diff(map[string]int{"real1": 100, "real2": 100}, c.atOnce(200, 20, web)); diff != "" {
		t.Errorf("200 requests, 20 at once (-want +got):\n%s", diff)
	}
	c.openLibraries(at)
	c.transfer(at)
}

// TestClusterSecondSegment has a real server behind another interface of the director, to which frames are redirected.
func TestClusterSecondSegment(t *testing.T) {
	for _, vip := range []netip.Addr{lab.VIP, lab.VIP6} {
		t.Run(vip.String(), func(t *testing.T) {
			c := raise(t, lab.Options{Backends: 1, FarBackends: 2, IPv6: vip.Is6()})
			c.director(small)
			c.director("attach eth1 --mode native")
			web, bulk := netip.AddrPortFrom(vip, 80), netip.AddrPortFrom(vip, 8000)
			for _, service := range []netip.AddrPort{web, bulk} {
				c.director("service add %s --scheduler rr", service)
				for _, real := range c.reals() {
					c.director("backend add %s --service %s", address(real, vip), service)
				}
			}
			want := map[string]int{"real1": 40, "far1": 40, "far2": 40}
			if diff := cmp.Diff(want, c.atOnce(120, 20, web)); diff != "" {
				t.Errorf("120 requests, 20 at once (-want +got):\n%s", diff)
			}
			c.openLibraries(bulk)
			for range 3 { // one each
				c.transfer(bulk)
			}
		})
	}
}
