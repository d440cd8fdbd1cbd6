// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// eventually waits, for at most ten seconds, until done is true.
func eventually(t *testing.T, what string, done func() bool, got func() any) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s: %v", what, got())
		}
	}
}

// complaint is an error's text, with its hint if it has one.
func complaint(err error) string {
	var refused *RefusedError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refused):
		return refused.Text + " | " + refused.Hint
	}
	return err.Error()
}

func TestSetupRefusesBeforeAnyChange(t *testing.T) {
	t.Parallel()
	good := realServer(t)
	settled(t)
	run(t, "ip addr add 172.10.0.20/16 dev lo", "ip addr add 172.10.0.21/16 dev eth0", "nft add table arp xdplb",
		"ip link add eth1 type veth peer name eth2")
	before := snapshot(t)
	addr := netip.MustParseAddr
	tests := []struct {
		name string
		edit func(*Options)
		want string
	}{
		{"no VIP", func(o *Options) { o.VIPs = nil }, "set up a real server: no VIP given"},
		{"multicast VIP", func(o *Options) { o.VIPs = []netip.Addr{addr("224.0.0.9")} }, "VIP 224.0.0.9 is a multicast address"},
		{"on lo with the subnet's mask", func(o *Options) { o.VIPs = []netip.Addr{addr("172.10.0.20")} },
			"set up 172.10.0.20: this host has it already, as 172.10.0.20/16 on lo | ip address del 172.10.0.20/16 dev lo"},
		{"on eth0", func(o *Options) { o.VIPs = []netip.Addr{addr("172.10.0.21")} },
			"set up 172.10.0.21: this host has it already, as 172.10.0.21/16 on eth0 | ip address del 172.10.0.21/16 dev eth0"},
		{"unknown mode", func(o *Options) { o.ArpMode = "none" }, `ARP mode "none": want sysctl or filter`},
		{"foreign table", func(o *Options) { o.ArpMode = Filter },
			"the nftables table arp xdplb is there already, and xdplb did not make it | if nobody needs it, delete it: nft delete table arp xdplb"},
		{"unknown interface", func(o *Options) { o.Dev = "eth7" }, "find interface eth7: Link not found"},
		{"interface down", func(o *Options) { o.Dev = "eth1" }, "interface eth1 is down | ip link set eth1 up"},
		{"lo", func(o *Options) { o.Dev = "lo" }, "interface lo does not lead to the cluster"},
		{"distant gateway", func(o *Options) { o.Gateways = []netip.Addr{addr("10.0.0.1")} },
			"gateway 10.0.0.1 is not on a directly connected network of eth0"},
		{"distant gateway, interface not named", func(o *Options) { o.Dev, o.Gateways = "", []netip.Addr{addr("10.0.0.1")} },
			"gateway 10.0.0.1 is not on a directly connected network"},
		{"own gateway", func(o *Options) { o.Gateways = []netip.Addr{addr("192.168.60.8")} },
			"gateway 192.168.60.8 is one of this host's own addresses"},
		{"two gateways", func(o *Options) { o.Gateways = []netip.Addr{gateway4, addr("192.168.60.2")} },
			"gateways 192.168.60.1 and 192.168.60.2: only one of each family can be the default"},
		{"no interface known", func(o *Options) { o.Dev, o.Gateways = "", nil },
			"the interface towards the cluster is not known: there is no default route; name it with --dev"},
		{"no executable", func(o *Options) { o.Persist = true }, "install the systemd unit: the path of xdplb is not known"},
	}
	for _, test := range tests {
		o := good
		test.edit(&o)
		if got := complaint(Setup(o)); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	if diff := cmp.Diff(before, snapshot(t)); diff != "" {
		t.Errorf("refused calls changed something (-before +after):\n%s", diff)
	}
}

func TestOthersSettingsAreLeftAlone(t *testing.T) {
	t.Parallel()
	o := realServer(t)
	o.VIPs = []netip.Addr{vip4}
	settled(t)
	// There before: a VIP with its route, a stricter value, the gateway.
	run(t, "ip addr add 172.10.0.9/32 broadcast 172.10.0.9 dev lo", "ip route add 172.10.0.9/32 dev lo",
		"ip route add default via 192.168.60.1", "sysctl -w net.ipv4.conf.all.arp_ignore=2 net.ipv4.conf.lo.arp_ignore=8")
	o.Gateways = []netip.Addr{gateway4}
	before := snapshot(t)
	if err := Setup(o); err != nil {
		t.Fatal(err)
	}
	if got := run(t, "sysctl -n net.ipv4.conf.all.arp_ignore net.ipv4.conf.lo.arp_ignore"); got != "2\n8\n" {
		t.Errorf("arp_ignore of all and lo are %q after Setup, want them as good as they were", got)
	}
	if err := Teardown(o); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, snapshot(t)); diff != "" {
		t.Errorf("after Teardown (-before +after):\n%s", diff)
	}

	// Changed by another after Setup.
	if err := Setup(o); err != nil {
		t.Fatal(err)
	}
	run(t, "sysctl -w net.ipv4.conf.all.arp_announce=1")
	if err := Teardown(o); err != nil {
		t.Fatal(err)
	}
	if got := run(t, "sysctl -n net.ipv4.conf.all.arp_announce"); got != "1\n" {
		t.Errorf("arp_announce of all is %q after Teardown, want another's 1", got)
	}
}

func TestGatewayChangedByASecondSetup(t *testing.T) {
	t.Parallel()
	o := realServer(t)
	o.VIPs, o.Gateways = []netip.Addr{vip4}, []netip.Addr{gateway4}
	settled(t)
	run(t, "ip route add default via 192.168.60.77")
	before := snapshot(t)
	for _, gateway := range []string{"192.168.60.1", "192.168.60.2"} {
		o.Gateways = []netip.Addr{netip.MustParseAddr(gateway)}
		if err := Setup(o); err != nil {
			t.Fatal(err)
		}
		if got := run(t, "ip route show default"); !strings.Contains(got, "via "+gateway+" ") || strings.Count(got, "\n") != 1 {
			t.Errorf("the default routes are %q, want one via %s", got, gateway)
		}
	}
	if err := Teardown(o); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, snapshot(t)); diff != "" {
		t.Errorf("after Teardown (-before +after):\n%s", diff)
	}
}

// Hosts in namespaces share /run; each has its own record.
func TestRecordBelongsToNamespaceAndBoot(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	for _, host := range []string{"real1", "real2"} {
		t.Run(host, func(t *testing.T) {
			o := realServer(t)
			o.StateDir = shared
			o.VIPs = nil
			j, err := open(shared, func(string) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			defer j.close()
			if len(j.VIPs) > 0 {
				t.Errorf("%s reads a record of other VIPs: %v", host, j.VIPs)
			}
			j.VIPs = []netip.Addr{vip4}
			if err := j.save(); err != nil {
				t.Fatal(err)
			}
			j.Boot = "another"
			if err := j.save(); err != nil {
				t.Fatal(err)
			}
			j.close()
			again, err := open(shared, func(string) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			defer again.close()
			if len(again.VIPs) > 0 {
				t.Errorf("a record of another boot counts: %v", again.VIPs)
			}
		})
	}
	if records, _ := filepath.Glob(shared + "/*.json"); len(records) != 2 {
		t.Errorf("the records are %v, want two", records)
	}
}

func TestPersist(t *testing.T) {
	t.Parallel()
	o := realServer(t)
	o.Persist, o.Executable = true, "/opt/my tools/xdplb%1"
	if err := Setup(o); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(o.Root, "etc/systemd/system/xdplb-realserver.service")
	link := filepath.Join(o.Root, "etc/systemd/system/multi-user.target.wants/xdplb-realserver.service")
	line := func() string {
		t.Helper()
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(content), "ExecStart=")
		first, _, _ := strings.Cut(rest, "\n")
		return first
	}
	const flags = " --dev eth0 --gateway 192.168.60.1 --gateway 2001:db8:60::1 --arp-mode sysctl"
	const command = `"/opt/my tools/xdplb%%1" realserver setup `
	if got, want := line(), command+"172.10.0.9 2001:db8:10::9"+flags; got != want {
		t.Errorf("ExecStart=%s, want %s", got, want)
	}
	if target, err := os.Readlink(link); target != "/etc/systemd/system/xdplb-realserver.service" {
		t.Errorf("the link leads to %q, %v", target, err)
	}

	some := o
	some.VIPs = []netip.Addr{vip6}
	if err := Teardown(some); err != nil {
		t.Fatal(err)
	}
	if got, want := line(), command+"172.10.0.9"+flags; got != want {
		t.Errorf("after the Teardown of one VIP: ExecStart=%s, want %s", got, want)
	}
	for range 2 {
		if err := Teardown(o); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{path, link} {
		if _, err := os.Lstat(file); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", file, err)
		}
	}
}
