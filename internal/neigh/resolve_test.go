// SPDX-License-Identifier: Apache-2.0

package neigh_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lb"
	"xdplb/internal/neigh"
	"xdplb/internal/testenv"
)

var (
	peerMAC  = [6]byte{2, 0, 0, 0, 0, 8}
	otherMAC = [6]byte{2, 0, 0, 0, 1, 8}
)

// segment puts the test on a host with two interfaces: eth0 (192.168.60.4/24, 2001:db8::4/64) on a segment with the
// host peer, and eth1 (10.0.0.4/8) on one with the host other.
func segment(t *testing.T) {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Command("ip"))
	testenv.Namespace(t)
	// Without duplicate address detection the link-local addresses can be used at once.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	ip(t,
		"netns add peer",
		"netns add other",
		"link add eth0 address 02:00:00:00:00:04 type veth peer name eth0 address 02:00:00:00:00:08 netns peer",
		"link add eth1 address 02:00:00:00:01:04 type veth peer name eth0 address 02:00:00:00:01:08 netns other",
		"addr add 192.168.60.4/24 dev eth0",
		"addr add 2001:db8::4/64 dev eth0 nodad",
		"addr add 10.0.0.4/8 dev eth1",
		"-n peer addr add 192.168.60.8/24 dev eth0",
		"-n peer addr add 2001:db8::8/64 dev eth0 nodad",
		"-n peer addr add fe80::8/64 dev eth0 nodad",
		"-n other addr add 10.0.0.8/8 dev eth0",
		"addr add fe80::99/64 dev eth1 nodad",
		"-n peer addr add fe80::99/64 dev eth0 nodad",
		"link set eth0 up", "link set eth1 up",
		"-n peer link set eth0 up", "-n other link set eth0 up",
		"route add 172.16.0.0/16 via 192.168.60.8",
	)
}

func ip(t *testing.T, commands ...string) {
	t.Helper()
	for _, command := range commands {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", command, err, out)
		}
	}
}

func index(t *testing.T, name string) int {
	t.Helper()
	found, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return found.Index
}

func TestResolve(t *testing.T) {
	t.Parallel()
	segment(t)
	eth0, eth1 := index(t, "eth0"), index(t, "eth1")
	both := []int{eth0, eth1}
	ip(t,
		"neigh add 192.168.60.20 lladdr 02:00:00:00:00:20 dev eth0 nud permanent",
		"neigh add 192.168.60.21 lladdr 02:00:00:00:00:21 dev eth0 nud noarp",
		// The peer's address, last known at a hardware address that nobody has any more.
		"neigh add 192.168.60.8 lladdr 02:00:00:00:00:99 dev eth0 nud stale",
	)
	tests := []struct {
		name     string
		addr     string
		attached []int
		want     lb.NextHop
	}{
		{"permanent entry", "192.168.60.20", both, lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 0, 0x20}, Ifindex: eth0}},
		{"noarp entry", "192.168.60.21", both, lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 0, 0x21}, Ifindex: eth0}},
		{"stale entry of a host that moved", "192.168.60.8", both, lb.NextHop{MAC: peerMAC, Ifindex: eth0}},
		{"now reachable", "192.168.60.8", both, lb.NextHop{MAC: peerMAC, Ifindex: eth0}},
		{"no entry", "10.0.0.8", both, lb.NextHop{MAC: otherMAC, Ifindex: eth1}},
		{"mapped into IPv6", "::ffff:10.0.0.8", both, lb.NextHop{MAC: otherMAC, Ifindex: eth1}},
		{"IPv6", "2001:db8::8", both, lb.NextHop{MAC: peerMAC, Ifindex: eth0}},
		{"IPv6 link-local, asked on both", "fe80::8", both, lb.NextHop{MAC: peerMAC, Ifindex: eth0}},
		{"IPv6 link-local with zone", "fe80::8%eth0", both, lb.NextHop{MAC: peerMAC, Ifindex: eth0}},
		{"IPv6 link-local that eth1 holds too", "fe80::99%eth0", both, lb.NextHop{MAC: peerMAC, Ifindex: eth0}},
	}
	for _, test := range tests {
		// Not t.Run: a subtest would run on another thread, outside the namespace.
		got, err := neigh.Resolve(context.Background(), netip.MustParseAddr(test.addr), test.attached)
		if err != nil {
			t.Errorf("%s: Resolve(%s): %v", test.name, test.addr, err)
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: Resolve(%s) (-want +got):\n%s", test.name, test.addr, diff)
		}
	}
}

func TestResolvePrefersTheLongestPrefix(t *testing.T) {
	t.Parallel()
	segment(t)
	ip(t, "route add 10.0.0.8/32 dev eth0", "-n peer addr add 10.0.0.8/32 dev eth0")
	eth0, eth1 := index(t, "eth0"), index(t, "eth1")
	got, err := neigh.Resolve(context.Background(), netip.MustParseAddr("10.0.0.8"), []int{eth0, eth1})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lb.NextHop{MAC: peerMAC, Ifindex: eth0}, got); diff != "" {
		t.Errorf("Resolve (-want +got):\n%s", diff)
	}
}

func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	segment(t)
	eth0, eth1 := index(t, "eth0"), index(t, "eth1")
	// A default route that needs no gateway makes no address directly connected.
	ip(t, "route add default dev eth0")
	tests := []struct {
		addr     string
		attached []int
		want     string
	}{
		{"192.168.60.4", []int{eth0}, "192.168.60.4 is one of this host's own addresses (on eth0)"},
		{"10.0.0.4", []int{eth0}, "10.0.0.4 is one of this host's own addresses (on eth1)"},
		{"2001:db8::4", []int{eth0}, "2001:db8::4 is one of this host's own addresses (on eth0)"},
		{"fe80::99", []int{eth0, eth1}, "fe80::99 is one of this host's own addresses (on eth1)"},
		{"127.0.0.9", []int{eth0}, "127.0.0.9 is one of this host's own addresses (on lo)"},
		{"10.0.0.8", []int{eth0}, "10.0.0.8 is not on a directly connected network of an attached interface; these are: eth0 (192.168.60.0/24)"},
		{"172.16.0.1", []int{eth0, eth1}, "172.16.0.1 is not on a directly connected network of an attached interface; " +
			"these are: eth0 (192.168.60.0/24), eth1 (10.0.0.0/8)"},
		{"192.168.60.8", nil, "192.168.60.8 is not on a directly connected network: no interface is attached"},
		{"224.0.0.1", []int{eth0}, "224.0.0.1 is not the address of a host"},
		{"0.0.0.0", []int{eth0}, "0.0.0.0 is not the address of a host"},
	}
	for _, test := range tests {
		got, err := neigh.Resolve(context.Background(), netip.MustParseAddr(test.addr), test.attached)
		if err == nil || err.Error() != test.want {
			t.Errorf("Resolve(%s) = %v, %v; want the error %q", test.addr, got, err, test.want)
		}
	}

	ip(t, "link set eth1 down")
	_, err := neigh.Resolve(context.Background(), netip.MustParseAddr("10.0.0.8"), []int{eth1})
	want := "10.0.0.8 is not on a directly connected network of an attached interface; these are: eth1 (down)"
	if err == nil || err.Error() != want {
		t.Errorf("on an interface that is down: got the error %v, want %q", err, want)
	}
	var notConnected *neigh.NotConnectedError
	if !errors.As(err, &notConnected) {
		t.Errorf("on an interface that is down: got a %T, want a NotConnectedError", err)
	}
}

func TestResolveWithoutAnswer(t *testing.T) {
	t.Parallel()
	segment(t)
	eth0 := []int{index(t, "eth0")}
	// A host that has died, but was seen a moment ago.
	ip(t, "neigh add 192.168.60.77 lladdr 02:00:00:00:00:77 dev eth0 nud stale")
	for _, test := range []struct{ addr, want string }{
		{"192.168.60.9", "192.168.60.9 does not answer ARP on eth0"},
		{"192.168.60.77", "192.168.60.77 does not answer ARP on eth0"},
		{"2001:db8::9", "2001:db8::9 does not answer neighbour discovery on eth0"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		_, err := neigh.Resolve(ctx, netip.MustParseAddr(test.addr), eth0)
		cancel()
		var noAnswer *neigh.NoAnswerError
		if !errors.As(err, &noAnswer) || err.Error() != test.want {
			t.Errorf("Resolve(%s): got the error %v, want %q", test.addr, err, test.want)
		}
	}

	// The kernel gives up before the deadline.
	if err := os.WriteFile("/proc/sys/net/ipv4/neigh/eth0/retrans_time_ms", []byte("20"), 0); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	var noAnswer *neigh.NoAnswerError
	if _, err := neigh.Resolve(context.Background(), netip.MustParseAddr("192.168.60.10"), eth0); !errors.As(err, &noAnswer) {
		t.Errorf("got the error %v, want a NoAnswerError", err)
	}
	if took := time.Since(start); took > neigh.DefaultTimeout/2 {
		t.Errorf("it took %v to see that the kernel had given up", took)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := neigh.Resolve(ctx, netip.MustParseAddr("192.168.60.11"), eth0); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: got the error %v, want context.Canceled", err)
	}
}

func TestHardwareAddr(t *testing.T) {
	t.Parallel()
	segment(t)
	got, err := neigh.HardwareAddr(index(t, "eth0"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([6]byte{2, 0, 0, 0, 0, 4}, got); diff != "" {
		t.Errorf("HardwareAddr (-want +got):\n%s", diff)
	}
	_, err = neigh.HardwareAddr(index(t, "lo"))
	if want := "interface lo has no Ethernet address"; err == nil || err.Error() != want {
		t.Errorf("of the loopback interface: got the error %v, want %q", err, want)
	}
}
