// SPDX-License-Identifier: Apache-2.0

package vip_test

import (
	"bufio"
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/testenv"
	"xdplb/internal/vip"
)

// director puts the test on a host with eth0 (02:00:00:00:00:04, 192.168.60.4/24) on a segment with the host router
// (172.10.0.1/16, 2001:db8::1/64).
func director(t *testing.T) {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Command("ip"))
	testenv.Namespace(t)
	ip(t,
		"netns add router",
		"link add eth0 address 02:00:00:00:00:04 type veth peer name eth0 address 02:00:00:00:00:01 netns router",
		"addr add 192.168.60.4/24 dev eth0",
		"-n router addr add 172.10.0.1/16 dev eth0",
		"-n router addr add 2001:db8::1/64 dev eth0 nodad",
		"link set eth0 up", "-n router link set eth0 up",
	)
	// The router hears IPv6 multicast a moment after its interface has come up.
	eventually(t, "the router's multicast route", func() bool {
		return strings.Contains(ip(t, "-n router -6 route show table local"), "multicast")
	})
}

// eventually waits, for at most ten seconds, until done is true.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func ip(t *testing.T, commands ...string) string {
	t.Helper()
	var all strings.Builder
	for _, command := range commands {
		out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %s: %v\n%s", command, err, out)
		}
		all.Write(out)
	}
	return all.String()
}

func prefix(t *testing.T, s string) netip.Prefix {
	t.Helper()
	parsed, err := vip.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// add adds an address without waiting for the repetitions of its announcement.
func add(t *testing.T, s string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := vip.Add(ctx, prefix(t, s), "eth0"); !errors.Is(err, context.Canceled) {
		t.Fatalf("Add(%s): got the error %v, want context.Canceled after the first announcement", s, err)
	}
}

func list(t *testing.T) []string {
	t.Helper()
	listed, err := vip.List("eth0")
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, address := range listed {
		words = append(words, address.Prefix.String()+" "+address.Interface)
	}
	return words
}

func TestAddTakesTheAddressOverFromAnotherHost(t *testing.T) {
	for _, test := range []struct{ address, vip string }{
		{"172.10.0.9", "172.10.0.9"},
		{"172.10.0.9", "172.10.0.9/16"},
		{"2001:db8::9", "2001:db8::9"},
	} {
		t.Run(test.vip, func(t *testing.T) {
			t.Parallel()
			director(t)
			ip(t, "-n router neigh add "+test.address+" lladdr 02:00:00:00:00:99 dev eth0 nud reachable")
			add(t, test.vip)
			const want = "02:00:00:00:00:04"
			// The frame crosses a veth, but is received in a softirq.
			var got string
			for try := 0; try < 100 && !strings.Contains(got, want); try++ {
				got = ip(t, "-n router neigh show "+test.address)
				time.Sleep(time.Millisecond)
			}
			if !strings.Contains(got, want) {
				t.Errorf("the router has %q, want the hardware address %s", got, want)
			}
		})
	}
}

func TestAnnounceSendsThreeTimes(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Command("tcpdump"), testenv.Command("nsenter"))
	director(t)
	// -e shows the Ethernet header, -vv verifies the checksum, -U and -l let nothing wait in a buffer.
	// It ends after nine packets, or by the deadline.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	capture := exec.CommandContext(ctx, "nsenter", "--net=/run/netns/router",
		"tcpdump", "-i", "eth0", "-netvvx", "-l", "--immediate-mode", "-c", "9", "arp or (icmp6 and ip6[40] == 136)")
	var out strings.Builder
	capture.Stdout = &out
	talk, err := capture.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := capture.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(talk).ReadString('\n'); !strings.Contains(line, "listening on eth0") {
		t.Fatalf("tcpdump said %q, %v", line, err)
	}

	// Link-local addresses that come up meanwhile announce nothing, so that nine frames are ours.
	for _, s := range []string{"172.10.0.9", "2001:db8::9"} {
		start := time.Now()
		if err := vip.Announce(context.Background(), netip.MustParseAddr(s), "eth0"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 2*time.Second {
			t.Errorf("three announcements of %s took %v, want them a second apart", s, took)
		}
	}
	if err := capture.Wait(); err != nil {
		t.Fatalf("tcpdump: %v\n%s", err, out.String())
	}
	const (
		request = "02:00:00:00:00:04 > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 42: " +
			"Ethernet (len 6), IPv4 (len 4), Request who-has 172.10.0.9 tell 172.10.0.9, length 28\n" +
			"\t0x0000:  0001 0800 0604 0001 0200 0000 0004 ac0a\n" +
			"\t0x0010:  0009 0000 0000 0000 ac0a 0009\n"
		reply = "02:00:00:00:00:04 > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 42: " +
			"Ethernet (len 6), IPv4 (len 4), Reply 172.10.0.9 is-at 02:00:00:00:00:04, length 28\n" +
			"\t0x0000:  0001 0800 0604 0002 0200 0000 0004 ac0a\n" +
			"\t0x0010:  0009 0200 0000 0004 ac0a 0009\n"
		advertisement = "02:00:00:00:00:04 > 33:33:00:00:00:01, ethertype IPv6 (0x86dd), length 86: " +
			"(hlim 255, next-header ICMPv6 (58) payload length: 32) 2001:db8::9 > ff02::1: [icmp6 sum ok] " +
			"ICMP6, neighbor advertisement, length 32, tgt is 2001:db8::9, Flags [override]\n" +
			"\t  destination link-address option (2), length 8 (1): 02:00:00:00:00:04\n" +
			"\t    0x0000:  0200 0000 0004\n" +
			"\t0x0000:  6000 0000 0020 3aff 2001 0db8 0000 0000\n" +
			"\t0x0010:  0000 0000 0000 0009 ff02 0000 0000 0000\n" +
			"\t0x0020:  0000 0000 0000 0001 8800 f917 2000 0000\n" +
			"\t0x0030:  2001 0db8 0000 0000 0000 0000 0000 0009\n" +
			"\t0x0040:  0201 0200 0000 0004\n"
	)
	want := strings.Repeat(request+reply, 3) + strings.Repeat(advertisement, 3)
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("what the router received (-want +got):\n%s", diff)
	}
}

func TestAddAndDeleteTouchOneAddress(t *testing.T) {
	t.Parallel()
	director(t)
	before := list(t)
	for _, s := range []string{"172.10.0.9/16", "172.10.0.10/16", "172.10.0.11/16", "2001:db8::9", "172.10.1.1"} {
		add(t, s)
	}
	want := []string{
		"192.168.60.4/24 eth0", "172.10.0.9/16 eth0", "172.10.1.1/32 eth0", "172.10.0.10/16 eth0", "172.10.0.11/16 eth0", "2001:db8::9/128 eth0",
	}
	if diff := cmp.Diff(want, list(t)); diff != "" {
		t.Errorf("after Add (-want +got):\n%s", diff)
	}
	const promote = "/proc/sys/net/ipv4/conf/eth0/promote_secondaries"
	settingBefore, err := os.ReadFile(promote)
	if err != nil {
		t.Fatal(err)
	}

	// The first of its network: the kernel would take the others along.
	if err := vip.Delete(prefix(t, "172.10.0.9/16"), "eth0"); err != nil {
		t.Fatal(err)
	}
	want = []string{"192.168.60.4/24 eth0", "172.10.1.1/32 eth0", "172.10.0.10/16 eth0", "172.10.0.11/16 eth0", "2001:db8::9/128 eth0"}
	if diff := cmp.Diff(want, list(t)); diff != "" {
		t.Errorf("after the first Delete (-want +got):\n%s", diff)
	}
	settingAfter, err := os.ReadFile(promote)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(settingBefore), string(settingAfter)); diff != "" {
		t.Errorf("promote_secondaries (-before +after):\n%s", diff)
	}

	for _, s := range []string{"172.10.0.10/16", "172.10.0.11/16", "2001:db8::9", "172.10.1.1"} {
		if err := vip.Delete(prefix(t, s), "eth0"); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(before, list(t)); diff != "" {
		t.Errorf("after all Deletes (-before +after):\n%s", diff)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	director(t)
	add(t, "172.10.0.9/16")
	ip(t, "link add down0 type veth peer name down1")
	before := ip(t, "addr show")
	tests := []struct {
		name  string
		do    func() error
		is    error
		error string
	}{
		{"add again", func() error { return vip.Add(context.Background(), prefix(t, "172.10.0.9/16"), "eth0") }, vip.ErrExists,
			"add 172.10.0.9 to eth0: this host has it already, as 172.10.0.9/16 on eth0"},
		{"add with another prefix", func() error { return vip.Add(context.Background(), prefix(t, "172.10.0.9"), "eth0") }, vip.ErrExists,
			"add 172.10.0.9 to eth0: this host has it already, as 172.10.0.9/16 on eth0"},
		{"add to an unknown interface", func() error { return vip.Add(context.Background(), prefix(t, "172.10.0.8"), "eth7") }, nil,
			"add 172.10.0.8: find interface eth7: Link not found"},
		{"add to lo", func() error { return vip.Add(context.Background(), prefix(t, "172.10.0.8"), "lo") }, nil,
			"add 172.10.0.8: interface lo has no Ethernet address"},
		{"add to an interface that is down", func() error { return vip.Add(context.Background(), prefix(t, "172.10.0.8"), "down0") }, nil,
			"add 172.10.0.8: interface down0 is down"},
		{"delete a missing one", func() error { return vip.Delete(prefix(t, "172.10.0.8"), "eth0") }, vip.ErrNotFound,
			"delete 172.10.0.8/32 from eth0: no such address"},
		{"delete with another prefix", func() error { return vip.Delete(prefix(t, "172.10.0.9"), "eth0") }, vip.ErrNotFound,
			"delete 172.10.0.9/32 from eth0: no such address; this host has 172.10.0.9/16 on eth0"},
		{"delete from an unknown interface", func() error { return vip.Delete(prefix(t, "172.10.0.9"), "eth7") }, nil,
			"delete 172.10.0.9: find interface eth7: Link not found"},
	}
	for _, test := range tests {
		err := test.do()
		if err == nil || err.Error() != test.error || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%s: got the error %v, want %q", test.name, err, test.error)
		}
	}
	if diff := cmp.Diff(before, ip(t, "addr show")); diff != "" {
		t.Errorf("refused operations changed something (-before +after):\n%s", diff)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"172.10.0.9":      "172.10.0.9/32",
		"172.10.0.9/16":   "172.10.0.9/16",
		"2001:db8::9":     "2001:db8::9/128",
		"2001:db8::9/64":  "2001:db8::9/64",
		"172.10.0.9/0":    `VIP "172.10.0.9/0": the prefix length is 1 to 32`,
		"172.10.0.9/33":   `VIP "172.10.0.9/33": the prefix length is 1 to 32`,
		"172.10.0.9/":     `VIP "172.10.0.9/": the prefix length is 1 to 32`,
		"172.10.0.9/+8":   `VIP "172.10.0.9/+8": the prefix length is 1 to 32`,
		"2001:db8::9/129": `VIP "2001:db8::9/129": the prefix length is 1 to 128`,
		"224.0.0.1":       "VIP 224.0.0.1 is a multicast address",
		"127.0.0.1":       "VIP 127.0.0.1 is a loopback address",
		"web":             `VIP "web" is not an IP address`,
	} {
		got, err := vip.Parse(s)
		word := got.String()
		if err != nil {
			word = err.Error()
		}
		if word != want {
			t.Errorf("Parse(%q) = %q, want %q", s, word, want)
		}
	}
}
