// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"xdplb/internal/config"
	"xdplb/internal/lb"
)

var byValue = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(config.Backend{}),
}

const example = `# the web
services:
  - address: "[2001:db8::64]:53"
    protocol: UDP
    scheduler: mh
    sched-flags: mh-fallback,mh-port
    one-packet: true
    on-removal: keep
  - address: 172.10.0.9:80
    backends: &web
      - address: 192.168.60.9
      - address: 192.168.60.8
        weight: 0
        upper: 100
        lower: 50
        mac: 02:00:00:00:00:08
        dev: eth0
        vlan: 100
  - {address: "172.10.0.9:443", scheduler: wrr, backends: *web}
`

func TestRead(t *testing.T) {
	t.Parallel()
	got, err := config.Read("lb.yaml", strings.NewReader(example))
	if err != nil {
		t.Fatal(err)
	}
	web := []config.Backend{
		{Addr: netip.MustParseAddr("192.168.60.9"), Weight: 1},
		{Addr: netip.MustParseAddr("192.168.60.8"), Upper: 100, Lower: 50, MAC: [6]byte{2, 0, 0, 0, 0, 8}, Dev: "eth0", VLAN: 100},
	}
	want := config.File{Services: []config.Service{
		{ServiceKey: lb.ServiceKey{Addr: netip.MustParseAddrPort("[2001:db8::64]:53"), Protocol: lb.UDP}, Scheduler: lb.MH, Flags: lb.MHFallback | lb.MHPort, OnePacket: true, OnRemoval: lb.Keep},
		{ServiceKey: lb.ServiceKey{Addr: netip.MustParseAddrPort("172.10.0.9:80"), Protocol: lb.TCP}, Scheduler: lb.WLC, Backends: web},
		{ServiceKey: lb.ServiceKey{Addr: netip.MustParseAddrPort("172.10.0.9:443"), Protocol: lb.TCP}, Scheduler: lb.WRR, Backends: web},
	}}
	if diff := cmp.Diff(want, got, byValue); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReadTimeouts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, want string
		timeouts   lb.Timeouts
	}{
		{"timeouts: {tcp: 7200, tcpfin: 60, udp: 1}", "", lb.Timeouts{TCP: 2 * time.Hour, TCPFin: time.Minute, UDP: time.Second}},
		{"timeouts: {udp: 2678400}", "", lb.Timeouts{UDP: 31 * 24 * time.Hour}},
		{"timeouts: {tcp: 900, udp: 300}", "", lb.Timeouts{}},
		{"timeouts: {}", "", lb.Timeouts{}},
		{"timeouts: 900", "f:1:11: want keys (tcp, tcpfin, udp), got the number 900", lb.Timeouts{}},
		{"timeouts: {sctp: 900}", `f:1:12: unknown key "sctp": want tcp, tcpfin, udp`, lb.Timeouts{}},
		{"timeouts: {tcp: 1h}", `f:1:17: tcp: want a whole number, got the text "1h"`, lb.Timeouts{}},
		{"timeouts: {tcp: 900, tcpfin: 0}", "f:1:30: timeout 0: want 1 to 2678400", lb.Timeouts{}},
		{"timeouts: {udp: 2678401}", "f:1:17: timeout 2678401: want 1 to 2678400", lb.Timeouts{}},
	} {
		file, err := config.Read("f", strings.NewReader(tt.text+"\nservices: []\n"))
		if tt.want != "" {
			if err == nil || err.Error() != tt.want {
				t.Errorf("%s:\n got %v\nwant %s", tt.text, err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
		}
		state, err := file.State(nil)
		if err != nil || state.Timeouts != tt.timeouts {
			t.Errorf("%s: %+v, %v; want %+v", tt.text, state.Timeouts, err, tt.timeouts)
		}
	}
}

func TestReadNoServices(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"services: []", "---\nservices: []\n...\n"} {
		got, err := config.Read("lb.yaml", strings.NewReader(text))
		if err != nil || len(got.Services) != 0 {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	file, err := config.Read("lb.yaml", strings.NewReader(example))
	if err != nil {
		t.Fatal(err)
	}
	hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 0, 8}, Ifindex: 7, VLAN: 100, Static: true}
	got, err := file.State(func(b config.Backend) (lb.NextHop, error) {
		if b.Dev != "eth0" {
			return lb.NextHop{}, nil
		}
		return lb.NextHop{MAC: b.MAC, Ifindex: 7, VLAN: b.VLAN, Static: true}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	web := []lb.Backend{
		{Addr: netip.MustParseAddr("192.168.60.8"), Upper: 100, Lower: 50, Hop: hop},
		{Addr: netip.MustParseAddr("192.168.60.9"), Weight: 1},
	}
	want := lb.State{Services: []lb.Service{
		{ServiceKey: lb.ServiceKey{Addr: netip.MustParseAddrPort("172.10.0.9:80"), Protocol: lb.TCP}, Scheduler: lb.WLC, Backends: web},
		{ServiceKey: lb.ServiceKey{Addr: netip.MustParseAddrPort("172.10.0.9:443"), Protocol: lb.TCP}, Scheduler: lb.WRR, Backends: web},
		{ServiceKey: lb.ServiceKey{Addr: netip.MustParseAddrPort("[2001:db8::64]:53"), Protocol: lb.UDP}, Scheduler: lb.MH, Flags: lb.MHFallback | lb.MHPort, OnePacket: true, OnRemoval: lb.Keep},
	}}
	if diff := cmp.Diff(want, got, byValue); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	unknown := errors.New("no interface eth0")
	_, err = file.State(func(b config.Backend) (lb.NextHop, error) {
		if b.Dev == "eth0" {
			return lb.NextHop{}, unknown
		}
		return lb.NextHop{}, nil
	})
	if !errors.Is(err, unknown) || err.Error() != "lb.yaml:12:18: backend 192.168.60.8 of TCP 172.10.0.9:80: no interface eth0" {
		t.Errorf("an error of the resolver: got %v", err)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	const service = "services:\n  - address: 172.10.0.9:80\n"
	const backend = service + "    backends:\n      - address: 192.168.60.8\n"
	for _, tt := range []struct{ text, want string }{
		{"", "f: the file is empty: want services: [...], or services: [] for none"},
		{"# nothing\n", "f: the file is empty: want services: [...], or services: [] for none"},
		{"{}", "f:1:1: no key services: want services: [...], or services: [] for none"},
		{"services:\n", "f:1:10: services: want a list, got nothing"},
		{"services: 5\n", "f:1:11: services: want a list, got the number 5"},
		{"- services\n", "f:1:1: want keys (timeouts, services), got a list"},
		{"web", `f:1:1: want keys (timeouts, services), got the text "web"`},
		{"services: []\nservice: []\n", `f:2:1: unknown key "service": want timeouts, services`},
		{"services: []\nservices: []\n", "f:2:1: key services is given twice"},
		{"services: []\n---\nservices: []\n", "f:2:1: a second document: want one"},
		{"services:\n  - web\n", `f:2:5: want keys (address, ports, protocol, scheduler, sched-flags, one-packet, on-removal, persistent, netmask, expire-quiescent, backends), got the text "web"`},
		{"services:\n  - scheduler: rr\n", "f:2:5: the service has no address"},
		{"services:\n  - adress: 172.10.0.9:80\n", `f:2:5: unknown key "adress": want address, ports, protocol, scheduler, sched-flags, one-packet, on-removal, persistent, netmask, expire-quiescent, backends`},
		{"services:\n  - address: 172.10.0.9\n    ports: 90-80\n", `f:3:12: ports "90-80": the first is above the last`},
		{"services:\n  - address: 172.10.0.9\n    ports: [80]\n", "f:3:12: ports: want text, got a list"},
		{"services:\n  - address: 172.10.0.9\n", `f:2:14: service "172.10.0.9" has no port: want ADDRESS:PORT`},
		{"services:\n  - address: 172.10.0.9:70000\n", "f:2:14: port 70000: want 0 to 65535"},
		{"services:\n  - address: 80\n", "f:2:14: address: want text, got the number 80"},
		{"services:\n  - address: [172.10.0.9:80]\n", "f:2:14: address: want text, got a list"},
		{service + "    protocol: icmp\n", `f:3:15: unknown protocol "icmp": want tcp, udp or sctp`},
		{service + "    protocol: icmp\n    scheduler: foo\n", `f:3:15: unknown protocol "icmp": want tcp, udp or sctp`},
		{service + "    protocol: 6\n", "f:3:15: protocol: want text, got the number 6"},
		{service + "    scheduler: foo\n", `f:3:16: unknown scheduler "foo": want rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos`},
		{service + "    scheduler: yes\n", `f:3:16: unknown scheduler "yes": want rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos`},
		{service + "    scheduler: true\n", "f:3:16: scheduler: want text, got true"},
		{service + "    on-removal: drop\n", `f:3:17: on-removal "drop": want reschedule or keep`},
		{service + "    on-removal: true\n", "f:3:17: on-removal: want text, got true"},
		{service + "    backends: {}\n", "f:3:15: backends: want a list, got keys"},
		{service + "    backends: [192.168.60.8]\n", `f:3:16: want keys (address, weight, upper, lower, mac, dev, vlan), got the text "192.168.60.8"`},
		{service + "    backends:\n      - weight: 1\n", "f:4:9: the backend has no address"},
		{service + "  - protocol: tcp\n    address: 172.10.0.9:80\n", "f:3:5: service TCP 172.10.0.9:80 already exists, at f:2:5"},
		{backend + "        weight: heavy\n", `f:5:17: weight: want a whole number, got the text "heavy"`},
		{backend + "        weight: \"1\"\n", `f:5:17: weight: want a whole number, got the text "1"`},
		{backend + "        weight: 1.5\n", "f:5:17: weight: want a whole number, got the number 1.5"},
		{backend + "        weight: -1\n", "f:5:17: weight -1: want 0 to 2147483647"},
		{backend + "        lower: 9\n", "f:5:16: backend 192.168.60.8 of TCP 172.10.0.9:80: the lower threshold 9 needs an upper one"},
		{backend + "        upper: 5\n        lower: 9\n", "f:6:16: backend 192.168.60.8 of TCP 172.10.0.9:80: the lower threshold 9 is above the upper 5"},
		{backend + "        weight: 2147483648\n", "f:5:17: weight 2147483648: want 0 to 2147483647"},
		{backend + "        weight:\n", "f:5:16: weight: want a whole number, got nothing"},
		{backend + "        port: 8080\n", `f:5:9: unknown key "port": want address, weight, upper, lower, mac, dev, vlan`},
		{backend + "        mac: 02:00\n", `f:5:14: MAC "02:00": want six bytes such as 02:00:00:00:00:08`},
		{backend + "        mac: 01:00:5e:00:00:01\n", "f:5:14: MAC 01:00:5e:00:00:01 is not the address of one host"},
		{backend + "        mac: 00:00:00:00:00:00\n", "f:5:14: MAC 00:00:00:00:00:00 is not the address of one host"},
		{backend + "        dev: \"\"\n", "f:5:14: dev is empty"},
		{backend + "        vlan: 4095\n", "f:5:15: VLAN 4095: want 1 to 4094"},
		{backend + "        vlan: 100\n", "f:5:15: vlan needs mac: a backend that is found is found with its VLAN"},
		{backend + "      - address: 192.168.60.8\n", "f:5:9: backend 192.168.60.8 of TCP 172.10.0.9:80 already exists, at f:4:18"},
		{backend + "      - address: 2001:db8::8\n", "f:5:18: backend 2001:db8::8 is IPv6, the service TCP 172.10.0.9:80 is IPv4"},
		{backend + "      - address: 224.0.0.1\n", "f:5:18: backend 224.0.0.1 is a multicast address"},
		{"services: &a\n  - *a\n", "f:1:11: want keys (address, ports, protocol, scheduler, sched-flags, one-packet, on-removal, persistent, netmask, expire-quiescent, backends), got a list"},
	} {
		file, err := config.Read("f", strings.NewReader(tt.text))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s\n got %v\nwant %s", tt.text, err, tt.want)
		}
		if len(file.Services) != 0 {
			t.Errorf("%s: refused, but services came with it", tt.text)
		}
	}
	broken := errors.New("broken")
	if _, err := config.Read("f", iotest.ErrReader(broken)); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("reader's error: got %v", err)
	}
}

// TestReadSyntax wants syntax errors at the word that the parser does not take, whatever line the parser itself names.
func TestReadSyntax(t *testing.T) {
	t.Parallel()
	const service = "services:\n  - address: 172.10.0.9:80\n"
	for _, tt := range []struct{ text, want string }{
		{"services:\n\t- x\n", "f:2:1: a tab cannot indent: use spaces"},
		{service + "\tbackends: []\n", "f:3:1: a tab cannot indent: use spaces"},
		{service + "   protocol: tcp\n", "f:3:4: did not find expected '-' indicator"},
		{service + " protocol: tcp\n", "f:3:2: did not find expected key"},
		{service + "      protocol: tcp\n", "f:3:7: mapping values are not allowed in this context"},
		{service + "    protocol tcp\n    scheduler: rr\n", "f:3:5: could not find expected ':'"},
		{service + "    protocol: tcp scheduler: rr\n", "f:3:19: mapping values are not allowed in this context"},
		{service + "    protocol: \"tcp\" udp\n", "f:3:21: did not find expected key"},
		{service + "    protocol: \"tcp\\q\"\n", "f:3:16: found unknown escape character"},
		{service + "    protocol: @tcp\n", "f:3:15: found character that cannot start any token"},
		{service + "    backends: *web\n", "f:3:15: unknown anchor 'web' referenced"},
		{service + "    backends: &\n", "f:3:15: did not find expected alphabetic or numeric character"},
		{service + "    backends: []]\n", "f:3:17: did not find expected key"},
		{service + "    backends: [\n", "f:3:15: did not find expected node content"},
		{service + "    backends: [{address: 192.168.60.8]\n", "f:3:26: did not find expected ',' or '}'"},
		{service + "    backends:\n      - {address: 192.168.60.8}\n      - {address: 192.168.60.9\n", "f:5:19: did not find expected ',' or '}'"},
		{"services:\n  - address: [2001:db8::64]:80\n", `f:2:28: an IPv6 address with a port needs quotes: "[ADDRESS]:PORT"`},
		{"services:\n  - address: é\x01\n", "f:2:14: control characters are not allowed"},
		{"services: []\n---\n[\n", "f:3:1: did not find expected node content"},
		{"\"services: []\n", "f:1:1: the quote is not closed"},
		{service + "    protocol: 'tcp\n  - address: b\n", "f:3:15: the quote is not closed"},
		{service + "  - {address: \"a\", protocol: \"tcp}\n" + strings.Repeat("  - address: b\n", 1000), "f:3:30: the quote is not closed"},
		{strings.Repeat(service[len("services:\n"):], 1000) + " x\n", "f:1001:2: did not find expected <document start>"},
		{"[" + strings.Repeat("{address: \"a\"}, ", 10000) + "{address: a b: c}]", "f:1:160012: did not find expected ',' or '}'"},
	} {
		_, err := config.Read("f", strings.NewReader(tt.text))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%.200q\n got %v\nwant %s", tt.text, err, tt.want)
		}
	}
}

// A small file of aliases cannot grow without bound.
func TestReadBoundsAliases(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("services:\n  - address: 10.0.0.1:1\n    backends: &b\n")
	for i := range 3000 {
		text.WriteString("      - address: 10.1." + netip.AddrFrom4([4]byte{0, 0, byte(i >> 8), byte(i)}).String()[4:] + "\n")
	}
	for i := range 400 {
		text.WriteString("  - {address: \"10.0.0.1:" + string(rune('1'+i/100)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10)) + "\", backends: *b}\n")
	}
	_, err := config.Read("f", strings.NewReader(text.String()))
	if err == nil || !strings.HasSuffix(err.Error(), "more than 1048576 backends") {
		t.Errorf("got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(example)
	f.Add("services: &a\n  - *a\n")
	f.Add("services:\n  - {address: !!int x, ? [a] : b, <<: {}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := config.Read("f", strings.NewReader(text))
		if err != nil {
			if !regexp.MustCompile(`^f:([0-9]+:[0-9]+:| the file is empty:) `).MatchString(err.Error()) {
				t.Errorf("error without its place: %v", err)
			}
			return
		}
		if _, err := file.State(func(config.Backend) (lb.NextHop, error) { return lb.NextHop{}, nil }); err != nil {
			t.Errorf("what was read makes no state: %v", err)
		}
	})
}

func TestPorts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"address: 172.10.0.9:80":                          "TCP 172.10.0.9:80 ",
		"{address: 172.10.0.9, ports: 443}":               "TCP 172.10.0.9:443 ",
		"{address: 172.10.0.9:80, ports: 443}":            "TCP 172.10.0.9:80 80,443",
		"{address: 172.10.0.9, ports: \"8000-8099,443\"}": "TCP 172.10.0.9:8000 443,8000-8099",
		"{address: \"2001:db8::9\", ports: 80-89}":        "TCP [2001:db8::9]:80 80-89",
	} {
		file, err := config.Read("f", strings.NewReader("services:\n  - "+text+"\n"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		state, err := file.State(func(config.Backend) (lb.NextHop, error) { return lb.NextHop{}, nil })
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := state.Services[0].String() + " " + string(state.Services[0].Ports); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}
