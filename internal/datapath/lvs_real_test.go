// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
	"xdplb/internal/testenv"
)

// TestRealLVS gives the kernel's own LVS, its model and the program the same packets, of connections that come, go on, and
// end by FIN, by RST or because they are idle, while weights change, and compares where each packet goes, and how many
// connections each real server has.
//
// There are two orders that only LVS's internals tell. Of equals it takes the one that was added last: so real servers are
// added here from the highest address down, and the list is in the order of xdplb's. And where rr and wrr go on after
// weights have changed is anywhere in their cycle, in LVS as in xdplb: so the program's turn is set to where LVS is, if the
// cycle is the same (align), which is each real server's share; and the decisions are compared from there on.
//
// Thresholds have a lower one and stay what they are: what LVS makes of others that are given to a full real server, and of
// three quarters, has changed in its stable kernels (ip_vs_dest_update_overload).
//
// LVS counts a handshake under way as active (tcp_state_active_table in ip_vs_proto_tcp.c), xdplb as inactive: so the
// handshake ends before the next connection comes.
//
// The others are not here: lblc and lblcr go by the time of day, sh and mh by other hashes, and twos by random numbers.
func TestRealLVS(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Command("/usr/sbin/ipvsadm"))
	testenv.RequireLVS(t)
	d := newRig(t, tableOf(8*flowBuckets, spillBuckets))
	for _, scheduler := range []lb.Scheduler{lb.RR, lb.WRR, lb.LC, lb.WLC, lb.SED, lb.NQ, lb.FO, lb.OVF, lb.DH} {
		for _, run := range []struct {
			protocol    lb.Protocol
			reals, kind int // kind of weights
			steps       int
			limited     bool
		}{
			{lb.TCP, 5, 2, 200, false},
			{lb.TCP, 70, 1, 100, false},
			{lb.UDP, 3, 2, 60, true},
		} {
			t.Run(fmt.Sprintf("%s, %s, %d", scheduler, run.protocol, run.reals), func(t *testing.T) {
				seed := uint64(time.Now().UnixNano())
				w := d.newLVSWorld(t, scheduler, run.protocol, rand.New(rand.NewPCG(seed, 0)))
				w.kind, w.limited = run.kind, run.limited
				w.real = newRealLVS(t, w)
				for range run.reals {
					w.add(w.weight())
				}
				for _, d := range w.service.dests {
					for w.limit(d); d.upper > 0 && d.lower == 0; w.limit(d) {
					}
				}
				w.real.addServers(w.service.dests)
				w.publish()
				for step := range run.steps {
					what := w.stepOfReal(t)
					if t.Failed() {
						w.compareWithReal(t)
						t.Fatalf("step %d of seed %d: %s", step, seed, what)
					}
				}
				w.compareLoads(t)
				w.compareWithReal(t)
			})
		}
	}
}

// stepOfReal is a step that LVS takes too. What has ended sends no more: what a SYN on the same tuple does is not the
// scheduler's.
func (w *lvsWorld) stepOfReal(t *testing.T) string {
	w.real.settle(t, w)
	var open []int
	for number := range w.live {
		if !w.ended[number] {
			open = append(open, number)
		}
	}
	slices.Sort(open)
	switch n := w.random.IntN(100); {
	case n < 4:
		i := w.random.IntN(len(w.service.dests))
		what := w.setWeight(w.service.dests[i], w.weight())
		w.real.ipvsadm("%s", w.real.rule("-e", i, w.service.dests[i]))
		return what
	case n < 50 || len(open) == 0:
		w.next++
		what := w.connect(t, w.next)
		if w.live[w.next] != nil {
			w.goOn(w.next, tcpFlags{ack: true})
		}
		return what
	case n < 53:
		return w.connect(t, open[w.random.IntN(len(open))])
	case n < 54:
		return w.idle(t, open[:min(len(open), 5)])
	default:
		return w.goOn(open[w.random.IntN(len(open))], tcpFlags{ack: true, fin: n >= 80, rst: n >= 95})
	}
}

// idle lets some connections be idle for as long as their timeout.
func (w *lvsWorld) idle(t *testing.T, numbers []int) string {
	w.real.ipvsadm("--set 1 1 1")
	for _, number := range numbers {
		w.goOn(number, tcpFlags{ack: true})
	}
	w.real.ipvsadm("--set 900 120 300")
	w.real.until = time.Time{}
	w.real.settle(t, w)
	for _, number := range numbers {
		if w.live[number] != nil {
			t.Errorf("client %d is idle, but LVS has not forgotten it", number)
		}
	}
	return fmt.Sprintf("clients %d are idle", numbers)
}

// compareWithReal compares the real servers' weights and numbers of connections.
func (w *lvsWorld) compareWithReal(t *testing.T) {
	t.Helper()
	w.real.settle(t, w)
	var want []realServer
	for i, d := range w.service.dests {
		at := fmt.Sprintf("%X:%04X", realAddr(i).AsSlice(), portPlain)
		want = append(want, realServer{at, d.weight, d.active, d.inactive})
	}
	if diff := cmp.Diff(want, w.real.servers()); diff != "" {
		t.Errorf("real servers (-model +LVS):\n%s", diff)
	}
}

// realServer is one as LVS lists it.
type realServer struct {
	At                       string // address and port in hexadecimal
	Weight, Active, Inactive int64
}

// servers are the real servers in LVS's order.
func (r *realLVS) servers() (all []realServer) {
	r.tb.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	r.check(err)
	for line := range strings.Lines(string(text)) {
		var s realServer
		if _, err := fmt.Sscanf(line, " -> %s Route %d %d %d", &s.At, &s.Weight, &s.Active, &s.Inactive); err == nil {
			all = append(all, s)
		}
	}
	return all
}

// realLVS is the kernel's LVS as a director with one service. Frames come in at one end of a veth pair and go out there
// again; the test holds the other end.
type realLVS struct {
	tb      testing.TB
	socket  int       // at the other end
	service string    // as ipvsadm names it
	until   time.Time // no connection expires before
}

const (
	// shortest is the least of the timeouts that LVS gives to what the tests send, of CLOSE.
	shortest = 10 * time.Second
	// margin is how long before a connection expires nothing more is sent, so that a machine that stalls changes nothing.
	margin = 3 * time.Second
)

// newRealLVS is the director of a world's service, without real servers, in namespaces of its own.
func newRealLVS(t *testing.T, w *lvsWorld) *realLVS {
	t.Helper()
	testenv.Namespace(t)
	r := &realLVS{tb: t, service: "-t " + w.at.String()}
	if w.protocol == lb.UDP {
		r.service = "-u " + w.at.String()
	}
	near := r.addLinks()
	gateway := realAddr(0).Prev() // to which LVS's own ICMP errors go
	for addr, bits := range map[netip.Addr]int{w.at.Addr(): 32, dip4: 24} {
		prefix := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, 32)}
		r.check(netlink.AddrAdd(near, &netlink.Addr{IPNet: prefix}))
	}
	r.addNeighbour(near, gateway, routerMAC)
	r.check(netlink.RouteAdd(&netlink.Route{LinkIndex: near.Attrs().Index, Gw: gateway.AsSlice()}))
	for i := range 70 {
		r.addNeighbour(near, realAddr(i), realMAC(i))
	}
	for _, setting := range []string{"conf/all/rp_filter", "conf/near/rp_filter", "icmp_ratemask"} {
		r.check(os.WriteFile("/proc/sys/net/ipv4/"+setting, []byte("0"), 0o644))
	}
	r.ipvsadm("-A %s -s %s", r.service, w.service.scheduler)
	return r
}

func (r *realLVS) check(err error) {
	r.tb.Helper()
	if err != nil {
		r.tb.Fatal(err)
	}
}

// addLinks makes the veth pair and opens a socket at its other end. It returns the director's end.
func (r *realLVS) addLinks() netlink.Link {
	r.tb.Helper()
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.HardwareAddr = "near", directorMAC[:]
	r.check(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: "far"}))
	near, err := netlink.LinkByName("near")
	r.check(err)
	far, err := netlink.LinkByName("far")
	r.check(err)
	r.check(netlink.LinkSetUp(near))
	r.check(netlink.LinkSetUp(far))
	r.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	r.check(err)
	r.tb.Cleanup(func() { unix.Close(r.socket) })
	patience := unix.Timeval{Sec: 30}
	r.check(unix.SetsockoptTimeval(r.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
	r.check(unix.Bind(r.socket, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: far.Attrs().Index}))
	return near
}

func (r *realLVS) addNeighbour(link netlink.Link, addr netip.Addr, mac macAddr) {
	r.tb.Helper()
	r.check(netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: unix.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac[:],
	}))
}

// realAddr is the address of the real server whose MAC address is realMAC(i).
func realAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 60, byte(50 + i)}) }

// ipvsadm does one command, or several lines of them.
func (r *realLVS) ipvsadm(format string, args ...any) {
	r.tb.Helper()
	rules := fmt.Sprintf(format, args...)
	restore := exec.Command("/usr/sbin/ipvsadm", "-R")
	restore.Stdin = strings.NewReader(rules)
	if out, err := restore.CombinedOutput(); err != nil || len(out) > 0 {
		r.tb.Fatalf("ipvsadm %s: %v: %s", rules, err, out)
	}
}

// rule adds a real server (-a) or edits one (-e).
func (r *realLVS) rule(command string, i int, d *lvsDest) string {
	return fmt.Sprintf("%s %s -r %s -g -w %d -x %d -y %d\n", command, r.service, realAddr(i), d.weight, d.upper, d.lower)
}

// addServers adds those of the model, so that LVS's list is in their order.
func (r *realLVS) addServers(dests []*lvsDest) {
	r.tb.Helper()
	var rules strings.Builder
	for i, d := range slices.Backward(dests) {
		rules.WriteString(r.rule("-a", i, d))
	}
	r.ipvsadm("%s", &rules)
}

// send returns the number of the real server that LVS sends a frame to, or -1 when it answers by ICMP that it has none.
func (r *realLVS) send(in []byte) int {
	r.tb.Helper()
	if _, err := unix.Write(r.socket, in); err != nil {
		r.tb.Fatalf("sending a frame: %v", err)
	}
	const protocolAt, sourceAt, destinationAt, end = 14 + 9, 14 + 12, 14 + 16, 14 + 20
	client := in[sourceAt:destinationAt]
	out := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(r.socket, out, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			r.tb.Fatalf("waiting for what LVS does with a frame: %v", err)
		case n < end:
		case out[protocolAt] == unix.IPPROTO_ICMP && bytes.Equal(out[destinationAt:end], client):
			return -1
		case bytes.Equal(out[sourceAt:destinationAt], client):
			to := int(out[5])
			if macAddr(out[:6]) != realMAC(to) {
				r.tb.Fatalf("LVS sends a frame to %x", out[:6])
			}
			return to
		}
	}
}

// settle waits until LVS has forgotten what it will forget soon, and lets the model and the program forget the same.
func (r *realLVS) settle(t *testing.T, w *lvsWorld) {
	t.Helper()
	if time.Now().Before(r.until) {
		return
	}
	before := map[netip.AddrPort]time.Duration{}
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		left, counted := r.connections(), r.counted()
		soonest := shortest
		for _, one := range left {
			soonest = min(soonest, one)
		}
		// A listing may lack a connection that LVS has, if others end while it is read; and LVS takes a connection out of
		// its table before it counts it down.
		quiet := maps.EqualFunc(before, left, func(_, _ time.Duration) bool { return true }) && counted == len(left)
		if quiet && soonest > margin {
			for number := range w.live {
				if _, known := left[lvsClient(number)]; !known {
					w.expire(number)
				}
			}
			r.until = time.Now().Add(soonest - margin)
			return
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("LVS lists %d connections, of which one ends in %v, and counts %d", len(left), soonest, counted)
		}
		before = left
	}
}

// counted is how many connections LVS says that its real servers have.
func (r *realLVS) counted() (sum int) {
	r.tb.Helper()
	for _, s := range r.servers() {
		sum += int(s.Active + s.Inactive)
	}
	return sum
}

// connections are the clients that LVS knows, and how long it will if they are silent.
func (r *realLVS) connections() map[netip.AddrPort]time.Duration {
	r.tb.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/ip_vs_conn")
	r.check(err)
	left := map[netip.AddrPort]time.Duration{}
	r.check(ipvsadm.ReadConnections(bytes.NewReader(text), func(_ int, _ string, c ipvsadm.Connection, err error) {
		r.check(err)
		left[c.Client] = c.Left
	}))
	return left
}
