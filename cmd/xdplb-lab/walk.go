// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"xdplb/internal/lab"
)

// step is a part of the demo; what it shows is right if it returns no error.
type step struct {
	title string
	do    func(*demo) error
}

// demoSteps is the walk.
func demoSteps() []step {
	return []step{
		{"The real servers: hold the VIP, silently", (*demo).setUpRealServers},
		{"The director: attach, one service, two backends", (*demo).setUpDirector},
		{"The client asks six times, each on a new connection", (*demo).alternate},
		{"The router's ARP cache: who owns the VIP?", (*demo).showNeighbours},
		{"Quiesce real1 while requests and a download run", (*demo).quiesce},
		{"Remove real1 while requests run", (*demo).remove},
	}
}

// setUpRealServers leaves both real servers ready.
func (d *demo) setUpRealServers() error {
	d.voice.lvs("real1",
		"echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore       (and lo)",
		"echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce     (and lo)",
		"ip addr add 172.10.0.9/32 broadcast 172.10.0.9 dev lo",
		"ip route add default via 192.168.60.1")
	for _, host := range []string{"real1", "real2"} {
		err := d.runAll(host,
			"xdplb realserver setup 172.10.0.9 --gateway 192.168.60.1",
			"xdplb realserver check 172.10.0.9")
		if err != nil {
			return err
		}
		vip := netip.PrefixFrom(lab.VIP, 32)
		if held, err := d.lab.Host(host).Addresses("lo"); err != nil || !slices.Contains(held, vip) {
			return fmt.Errorf("lo of %s holds %v, not %s: %w", host, held, vip, err)
		}
	}
	d.voice.right("both hold 172.10.0.9/32 on lo")
	return nil
}

// setUpDirector types the three commands that the README promises to be the whole set-up, and the listing.
func (d *demo) setUpDirector() error {
	if err := d.runAll("director", "xdplb attach eth0"); err != nil {
		return err
	}
	d.voice.lvs("director", "ipvsadm -A -t 172.10.0.9:80 -s rr")
	if err := d.runAll("director", "xdplb service add 172.10.0.9:80 --scheduler rr"); err != nil {
		return err
	}
	d.voice.lvs("director",
		"ipvsadm -a -t 172.10.0.9:80 -r 192.168.60.9:80 -g -w 1",
		"ipvsadm -a -t 172.10.0.9:80 -r 192.168.60.8:80 -g -w 1")
	if err := d.runAll("director", "xdplb backend add 192.168.60.9", "xdplb backend add 192.168.60.8"); err != nil {
		return err
	}
	x, err := d.lab.Host("director").XDP("eth0")
	if err != nil {
		return err
	}
	if x.Mode != "native" {
		return fmt.Errorf("eth0 of the director carries XDP program %q in mode %q, want native", x.Program, x.Mode)
	}
	if err := d.list(row{"192.168.60.8", 1, 0}, row{"192.168.60.9", 1, 0}); err != nil {
		return err
	}
	d.voice.right("native XDP, and the listing is LVS's to the byte")
	return nil
}

// row is a backend as the listing has it, with weight and inactive connections; no connection is open when the demo
// lists.
type row struct {
	address  string
	weight   int
	inactive int
}

// list shows the listing and compares it with what LVS would print.
func (d *demo) list(rows ...row) error {
	want := "IP Virtual Server version 1.2.1 (size=4096)\n" +
		"Prot LocalAddress:Port Scheduler Flags\n" +
		"  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n" +
		"TCP  172.10.0.9:80 rr\n"
	for _, r := range rows {
		want += fmt.Sprintf("  -> %-28s %-7s %-6d %-10d %-10d\n", r.address+":80", "Route", r.weight, 0, r.inactive)
	}
	d.voice.lvs("director", "ipvsadm -L -n")
	got, err := d.run("director", "xdplb list -n")
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("the listing is not as expected, which is:\n%s", want)
	}
	return nil
}

// alternate asks for the page and wants the real servers to take strict turns.
func (d *demo) alternate() error {
	const requests = 6
	var last string
	for i := range requests {
		answer, err := d.run("client", "curl -sS --max-time 5 http://172.10.0.9/")
		if err != nil {
			return err
		}
		if answer != "real1\n" && answer != "real2\n" {
			return fmt.Errorf("request %d: the answer %q is neither real1's nor real2's", i+1, answer)
		}
		if answer == last {
			return fmt.Errorf("request %d: %s again: no strict alternation", i+1, strings.TrimSpace(answer))
		}
		last = answer
	}
	d.voice.right("real1 and real2 take strict turns")
	if err := d.list(row{"192.168.60.8", 1, requests / 2}, row{"192.168.60.9", 1, requests / 2}); err != nil {
		return err
	}
	d.voice.right("the listing has seen %d connections end on each", requests/2)
	return nil
}

// showNeighbours makes the router and the real servers ask anew, and wants the router to know the VIP with the
// director's MAC address and every host with its own.
func (d *demo) showNeighbours() error {
	for _, place := range []struct{ host, iface string }{{"router", "eth1"}, {"real1", "eth0"}, {"real2", "eth0"}} {
		if err := d.runAll(place.host, "ip neigh flush dev "+place.iface); err != nil {
			return err
		}
	}
	// A careless real server gives itself away now: it has an answer from the VIP to send, and asks for its gateway first.
	for range 2 {
		if err := d.runAll("client", "curl -sS --max-time 5 http://172.10.0.9/"); err != nil {
			return err
		}
	}
	if err := d.runAll("router", "ping -q -c 1 -W 2 192.168.60.4"); err != nil {
		return err
	}
	d.voice.lvs("router", "arp -e")
	if err := d.runAll("router", "ip neigh show dev eth1"); err != nil {
		return err
	}
	return d.checkNeighbours()
}

func (d *demo) checkNeighbours() error {
	director := d.lab.Host("director")
	want := map[netip.Addr]string{lab.VIP: director.Interfaces[0].MAC.String()}
	for _, h := range []*lab.Host{director, d.lab.Host("real1"), d.lab.Host("real2")} {
		want[h.Addr()] = h.Interfaces[0].MAC.String()
	}
	neighbours, err := d.lab.Host("router").Neighbours()
	if err != nil {
		return err
	}
	for _, n := range neighbours {
		if n.Interface != "eth1" {
			continue
		}
		if mac := n.MAC.String(); mac != want[n.Addr] {
			return fmt.Errorf("the router knows %s at %s, want %q", n.Addr, mac, want[n.Addr])
		}
		delete(want, n.Addr)
	}
	if len(want) > 0 {
		return fmt.Errorf("the router's ARP cache lacks %v", want)
	}
	d.voice.right("the VIP has the director's MAC address and no other, each host its own")
	return nil
}

// quiesce takes new connections away from real1, which keeps those that it has.
func (d *demo) quiesce() error {
	client := d.lab.Host("client")
	counts, err := askMany(d.ctx, client, 100)
	if err != nil {
		return err
	}
	d.voice.say("100 requests, four at a time: %s", counts)
	if counts["real1"] != 50 || counts["real2"] != 50 {
		return errors.New("they are not shared 50 to 50")
	}
	d.voice.right("exact halves")

	held, err := d.holdDownload("real1")
	if err != nil {
		return err
	}
	defer held.Close()
	d.voice.say("a download of %d MiB from real1 has begun", lab.LargeFileSize>>20)
	load := startLoad(d.ctx, client)
	defer load.stop()
	d.voice.lvs("director", "ipvsadm -e -t 172.10.0.9:80 -r 192.168.60.8:80 -g -w 0")
	if err := d.runAll("director", "xdplb backend set 192.168.60.8 --weight 0"); err != nil {
		return err
	}
	if err := d.onlyReal2(load, "after it"); err != nil {
		return err
	}
	length, err := io.Copy(io.Discard, held)
	if err != nil {
		return fmt.Errorf("go on with the download from real1: %w", err)
	}
	if length != lab.LargeFileSize {
		return fmt.Errorf("the download from real1 has %d bytes, want %d", length, lab.LargeFileSize)
	}
	d.voice.right("the download from real1 came to its end: %d MiB", length>>20)
	return nil
}

// remove takes real1 out of the service.
func (d *demo) remove() error {
	load := startLoad(d.ctx, d.lab.Host("client"))
	defer load.stop()
	d.voice.lvs("director", "ipvsadm -d -t 172.10.0.9:80 -r 192.168.60.8:80")
	if err := d.runAll("director", "xdplb backend del 192.168.60.8"); err != nil {
		return err
	}
	if err := d.onlyReal2(load, "after it"); err != nil {
		return err
	}
	listing, err := d.run("director", "xdplb list -n")
	if err != nil {
		return err
	}
	if strings.Contains(listing, "192.168.60.8:80") || !strings.Contains(listing, "192.168.60.9:80") {
		return errors.New("the listing does not show 192.168.60.9 alone")
	}
	d.voice.right("real2 alone")
	return nil
}

// onlyReal2 lets the load run on for a while after a command, ends it, and wants no request to have failed, and none that was begun
// since to have met real1.
func (d *demo) onlyReal2(load *load, when string) error {
	before, after, err := load.finish()
	if err != nil {
		return fmt.Errorf("a request failed meanwhile: %w", err)
	}
	d.voice.say("requests begun before: %s; %s: %s", before, when, after)
	if after["real1"] != 0 || after["real2"] == 0 {
		return errors.New("new requests do not all go to real2")
	}
	d.voice.right("none failed, and new ones go to real2 alone")
	return nil
}

// holdDownload begins a download that the named real server serves, and returns its body unread. The turns being strict, it
// is one of two.
func (d *demo) holdDownload(real string) (io.ReadCloser, error) {
	client := d.lab.Host("client").HTTPClient()
	for range 2 {
		request, err := http.NewRequestWithContext(d.ctx, http.MethodGet, "http://172.10.0.9/large", nil)
		if err != nil {
			return nil, err
		}
		response, err := client.Do(request)
		if err != nil {
			return nil, fmt.Errorf("begin a download: %w", err)
		}
		if response.Header.Get("Real-Server") == real {
			return response.Body, nil
		}
		response.Body.Close()
	}
	return nil, fmt.Errorf("begin a download: neither of two came from %s", real)
}
