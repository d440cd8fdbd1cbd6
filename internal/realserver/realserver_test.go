// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/testenv"
)

var (
	vip4     = netip.MustParseAddr("172.10.0.9")
	vip4b    = netip.MustParseAddr("172.10.0.10")
	vip6     = netip.MustParseAddr("2001:db8:10::9")
	gateway4 = netip.MustParseAddr("192.168.60.1")
	gateway6 = netip.MustParseAddr("2001:db8:60::1")
)

// realServer puts the test on a host with eth0 (02:00:00:00:00:08, 192.168.60.8/24, 2001:db8:60::8/64) on a segment
// with the host router (192.168.60.1/24, 172.10.0.1/16, 2001:db8:60::1/64, 2001:db8:10::1/64), and gives a directory
// for the record.
func realServer(t *testing.T) Options {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Command("ip"), testenv.Command("nft"), testenv.Command("arping"),
		testenv.Command("nsenter"), testenv.Command("ping"), testenv.Command("sysctl"), testenv.Command("bash"))
	testenv.Namespace(t)
	// Without duplicate address detection the link-local addresses are there at once.
	run(t,
		"ip netns add router",
		"sysctl -w net.ipv6.conf.default.accept_dad=0",
		"nsenter --net=/run/netns/router sysctl -w net.ipv6.conf.default.accept_dad=0",
		"ip link add eth0 address 02:00:00:00:00:08 type veth peer name eth0 address 02:00:00:00:00:01 netns router",
		"ip addr add 192.168.60.8/24 dev eth0",
		"ip addr add 2001:db8:60::8/64 dev eth0 nodad",
		"ip -n router addr add 192.168.60.1/24 dev eth0",
		"ip -n router addr add 172.10.0.1/16 dev eth0",
		"ip -n router addr add 2001:db8:60::1/64 dev eth0 nodad",
		"ip -n router addr add 2001:db8:10::1/64 dev eth0 nodad",
		"ip link set eth0 up", "ip -n router link set eth0 up",
	)
	return Options{
		VIPs: []netip.Addr{vip4, vip6}, Dev: "eth0", Gateways: []netip.Addr{gateway4, gateway6}, ArpMode: Sysctl,
		StateDir: t.TempDir(), Root: t.TempDir(),
	}
}

func run(t *testing.T, commands ...string) string {
	t.Helper()
	var all strings.Builder
	for _, command := range commands {
		words := strings.Fields(command)
		out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		all.Write(out)
	}
	return all.String()
}

// snapshot describes everything that Setup may change.
func snapshot(t *testing.T) string {
	t.Helper()
	described := run(t,
		"ip -d addr show",
		"ip -d -4 route show table all",
		"ip -d -6 route show table all",
		"nft list ruleset",
	)
	settings, err := filepath.Glob("/proc/sys/net/ipv4/conf/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, setting := range settings {
		value, err := os.ReadFile(setting)
		if err != nil {
			t.Fatal(err)
		}
		described += setting + " " + string(value)
	}
	return described
}

// settled waits until the kernel has finished with the new links (IPv6 addresses and routes come late), so that
// snapshots differ only in what Setup does.
func settled(t *testing.T) {
	t.Helper()
	eventually(t, "the links to settle", func() bool {
		routes := run(t, "ip -6 route show table all dev eth0")
		return strings.Contains(routes, "multicast ff00::/8") && strings.Contains(routes, "local fe80::ff:fe00:8")
	}, func() any { return run(t, "ip -6 route show table all") })
}

func problems(t *testing.T, o Options) []string {
	t.Helper()
	found, err := Check(o)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, problem := range found {
		words = append(words, problem.Text+" | "+problem.Hint)
	}
	return words
}

func TestRealServerIsSilentAndServes(t *testing.T) {
	for _, mode := range []ArpMode{Sysctl, Filter} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := realServer(t)
			o.ArpMode = mode
			settled(t)
			if err := Setup(o); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string(nil), problems(t, o)); diff != "" {
				t.Errorf("Check after Setup (-want +got):\n%s", diff)
			}
			wantSilent(t)
			wantNoWrongSender(t)
			wantService(t, vip4)
			wantService(t, vip6)
		})
	}
}

// Without Setup's protection the same tests must find the leak, or they prove nothing.
func TestUnprotectedVIPAnswers(t *testing.T) {
	t.Parallel()
	realServer(t)
	run(t, "ip addr add 172.10.0.9/32 dev lo", "ip route add default via 192.168.60.1")
	if !answersARP(t, 10*time.Second) {
		t.Error("the host does not answer ARP for a VIP on lo without arp_ignore")
	}
	if sender := learned(t, "172.10.0.9"); !strings.Contains(sender, "02:00:00:00:00:08") {
		t.Errorf("a ping from the VIP taught the router %q, want the host's hardware address", sender)
	}
	// IPv6 needs no protection: this is how the kernel is.
	run(t, "ip addr add 2001:db8:10::9/128 dev lo nodad")
	wantNoNeighbour(t)
}

// wantSilent has the router ask for the VIPs, as any host on the segment would.
func wantSilent(t *testing.T) {
	t.Helper()
	if answersARP(t, time.Second) {
		t.Error("the host answers ARP for its VIP")
	}
	wantNoNeighbour(t)
}

func answersARP(t *testing.T, wait time.Duration) bool {
	t.Helper()
	// -f ends at the first answer, with status 0.
	out, err := exec.Command("nsenter", "--net=/run/netns/router", "arping", "-f", "-w", fmt.Sprint(wait.Seconds()), "-I", "eth0", "172.10.0.9").CombinedOutput()
	if err != nil && !strings.Contains(string(out), "Received 0 response") {
		t.Fatalf("arping: %v\n%s", err, out)
	}
	return err == nil
}

// wantNoNeighbour fails if the router gets an answer to a neighbour solicitation for the IPv6 VIP; it asks for the
// host's own address too, to see that the question arrives.
func wantNoNeighbour(t *testing.T) {
	t.Helper()
	_ = exec.Command("nsenter", "--net=/run/netns/router", "ping", "-c", "1", "-W", "1", "2001:db8:10::9").Run()
	run(t, "nsenter --net=/run/netns/router ping -c 1 -W 2 2001:db8:60::8")
	if entry := run(t, "ip -n router neigh show 2001:db8:10::9"); strings.Contains(entry, "lladdr") {
		t.Errorf("the router learned of the IPv6 VIP: %s", entry)
	}
}

// learned lets the host ping its gateway with the VIP as source, and returns what the router then has for it. The
// router holds the VIP at the director's hardware address before, and only a change of it would be noticed.
func learned(t *testing.T, vip string) string {
	t.Helper()
	run(t, "ip -n router neigh replace "+vip+" lladdr 02:00:00:00:00:04 dev eth0 nud stale", "ip neigh flush dev eth0")
	// The first echo request makes the host ask for the gateway. The answer goes to the director, so nobody waits.
	_ = exec.Command("ping", "-c", "1", "-W", "1", "-I", vip, "192.168.60.1").Run()
	return run(t, "ip -n router neigh show "+vip)
}

func wantNoWrongSender(t *testing.T) {
	t.Helper()
	if entry := learned(t, "172.10.0.9"); !strings.Contains(entry, "02:00:00:00:00:04") {
		t.Errorf("after a ping from the VIP the router has %q, want the director's hardware address", entry)
	}
	if own := run(t, "ip -n router neigh show 192.168.60.8"); !strings.Contains(own, "02:00:00:00:00:08") {
		t.Errorf("the router has %q for the host's own address: it has asked with no sender", own)
	}
	// An announcement would not ask for the gateway: it is dropped or not sent.
	if entry := run(t, "ip neigh show 192.168.60.1"); !strings.Contains(entry, "02:00:00:00:00:01") {
		t.Errorf("the host has %q for its gateway: its ARP requests get no answer", entry)
	}
}

// wantService connects from the router to the VIP at this host's hardware address, as the director's frames do.
func wantService(t *testing.T, vip netip.Addr) {
	t.Helper()
	listener, err := net.Listen("tcp", netip.AddrPortFrom(vip, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		connection, err := listener.Accept()
		if err == nil {
			_, _ = io.WriteString(connection, "served")
			_ = connection.Close()
		}
	}()
	run(t, "ip -n router neigh replace "+vip.String()+" lladdr 02:00:00:00:00:08 dev eth0 nud permanent")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	got, err := exec.CommandContext(ctx, "nsenter", "--net=/run/netns/router", "bash", "-c",
		fmt.Sprintf("exec 3<>/dev/tcp/%s/80; cat <&3", vip)).Output()
	if err != nil || string(got) != "served" {
		t.Errorf("a connection to %s gave %q, %v; want %q", vip, got, err, "served")
	}
}

var errCrash = errors.New("crash")

// crashAt returns a function that ends a call at its nth step, and counts the steps in all.
func crashAt(n int, steps *int) func(string) error {
	return func(string) error {
		*steps++
		if *steps == n {
			return errCrash
		}
		return nil
	}
}

func TestTeardownAfterACrash(t *testing.T) {
	for _, mode := range []ArpMode{Sysctl, Filter} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := realServer(t)
			o.ArpMode = mode
			settled(t)
			// Default routes that Setup has to replace, and values that it has to find again.
			run(t,
				"ip route add default via 192.168.60.77 dev eth0 src 192.168.60.8 mtu 1400 proto 99",
				"ip route add default via 192.168.60.78 dev eth0 metric 100",
				"ip -6 route add default via 2001:db8:60::77 dev eth0 metric 1",
				"ip -6 route add default via 2001:db8:60::78 dev eth0 metric 1024",
				"sysctl -w net.ipv4.conf.lo.arp_announce=1",
				"sysctl -w net.ipv4.conf.eth0.arp_ignore=3",
			)
			before := snapshot(t)
			wantBefore := func(what string, n int) {
				t.Helper()
				if diff := cmp.Diff(before, snapshot(t)); diff != "" {
					t.Fatalf("after a crash of %s at step %d and Teardown (-before +after):\n%s", what, n, diff)
				}
				if left, _ := filepath.Glob(o.StateDir + "/*.json"); len(left) > 0 {
					t.Fatalf("the record %v is left", left)
				}
			}
			for n, crashed := 1, true; crashed; n++ {
				steps := 0
				err := setup(o, crashAt(n, &steps))
				if crashed = errors.Is(err, errCrash); err != nil && !crashed {
					t.Fatalf("Setup that shall crash at step %d: %v", n, err)
				}
				if n%3 == 0 { // as an operator who tries again first
					if err := Setup(o); err != nil {
						t.Fatalf("Setup after a crash at step %d: %v", n, err)
					}
				}
				if err := Teardown(o); err != nil {
					t.Fatalf("Teardown after a crash at step %d: %v", n, err)
				}
				wantBefore("Setup", n)
			}
			for n, crashed := 1, true; crashed; n++ {
				if err := Setup(o); err != nil {
					t.Fatal(err)
				}
				steps := 0
				err := teardown(o, crashAt(n, &steps))
				if crashed = errors.Is(err, errCrash); err != nil && !crashed {
					t.Fatalf("Teardown that shall crash at step %d: %v", n, err)
				}
				if err := Teardown(o); err != nil {
					t.Fatalf("Teardown after its crash at step %d: %v", n, err)
				}
				wantBefore("Teardown", n)
			}
		})
	}
}

func TestSetupAgainAndMore(t *testing.T) {
	for _, mode := range []ArpMode{Sysctl, Filter} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := realServer(t)
			o.ArpMode = mode
			o.VIPs = []netip.Addr{vip4}
			settled(t)
			before := snapshot(t)
			if err := Setup(o); err != nil {
				t.Fatal(err)
			}
			first := snapshot(t)
			if first == before {
				t.Fatal("Setup changed nothing")
			}
			if err := Setup(o); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(first, snapshot(t)); diff != "" {
				t.Errorf("Setup again (-first +second):\n%s", diff)
			}
			records, err := filepath.Glob(o.StateDir + "/*.json")
			if err != nil || len(records) != 1 {
				t.Fatalf("the records are %v, %v; want one", records, err)
			}
			if info, err := os.Stat(records[0]); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the record is %v, %v; want mode 0600", info, err)
			}

			second := o
			second.VIPs = []netip.Addr{vip4b, vip6}
			if err := Setup(second); err != nil {
				t.Fatal(err)
			}
			all := o
			all.VIPs = nil
			if diff := cmp.Diff([]string(nil), problems(t, all)); diff != "" {
				t.Errorf("Check with three VIPs (-want +got):\n%s", diff)
			}
			if err := Teardown(second); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(first, snapshot(t)); diff != "" {
				t.Errorf("after the second VIPs' Teardown (-first +after):\n%s", diff)
			}
			if diff := cmp.Diff([]string(nil), problems(t, o)); diff != "" {
				t.Errorf("Check of the VIP that stays (-want +got):\n%s", diff)
			}
			wantSilent(t)

			// The other mode takes the place of the first.
			o.ArpMode = map[ArpMode]ArpMode{Sysctl: Filter, Filter: Sysctl}[mode]
			if err := Setup(o); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string(nil), problems(t, o)); diff != "" {
				t.Errorf("Check in the other mode (-want +got):\n%s", diff)
			}
			wantSilent(t)
			if err := Teardown(all); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, snapshot(t)); diff != "" {
				t.Errorf("after Teardown (-before +after):\n%s", diff)
			}
		})
	}
}
