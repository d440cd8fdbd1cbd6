// SPDX-License-Identifier: Apache-2.0

package lb_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lb"
)

func TestParseServiceKey(t *testing.T) {
	t.Parallel()
	tests := []struct {
		addrport, protocol string
		want               string // the key's String, or the error's
		ok                 bool
	}{
		{"172.10.0.9:80", "tcp", "TCP 172.10.0.9:80", true},
		{"172.10.0.9:80", "TCP", "TCP 172.10.0.9:80", true},
		{"172.10.0.9:53", "Udp", "UDP 172.10.0.9:53", true},
		{"[2001:db8::64]:80", "tcp", "TCP [2001:db8::64]:80", true},
		{"[2001:0DB8:0::64]:65535", "tcp", "TCP [2001:db8::64]:65535", true},
		{"172.10.0.9:80", "icmp", `unknown protocol "icmp": want tcp, udp or sctp`, false},
		{"172.10.0.9:80", "sctp", "SCTP 172.10.0.9:80", true},
		{"172.10.0.9", "tcp", `service "172.10.0.9" has no port: want ADDRESS:PORT`, false},
		{"", "tcp", `service "" has no port: want ADDRESS:PORT`, false},
		{"2001:db8::64:80", "tcp", `service "2001:db8::64:80": an IPv6 address needs brackets: want [ADDRESS]:PORT`, false},
		{"[2001:db8::64]", "tcp", `service "[2001:db8::64]": want [IPV6-ADDRESS]:PORT`, false},
		{"[172.10.0.9]:80", "tcp", `service "[172.10.0.9]:80": want [IPV6-ADDRESS]:PORT`, false},
		{"www.example.org:80", "tcp", `VIP "www.example.org" is not an IP address`, false},
		{"172.10.0.9:0", "tcp", "TCP 172.10.0.9:0", true},
		{"172.10.0.9:70000", "tcp", "port 70000: want 0 to 65535", false},
		{"172.10.0.9:-1", "tcp", "port -1: want 0 to 65535", false},
		{"172.10.0.9:+80", "tcp", `port "+80": want 0 to 65535`, false},
		{"172.10.0.9:http", "tcp", `port "http": want 0 to 65535`, false},
		{"172.10.0.9:", "tcp", `port "": want 0 to 65535`, false},
		{"224.0.0.18:80", "tcp", "VIP 224.0.0.18 is a multicast address", false},
		{"[ff02::12]:80", "tcp", "VIP ff02::12 is a multicast address", false},
		{"127.0.0.1:80", "tcp", "VIP 127.0.0.1 is a loopback address", false},
		{"[::1]:80", "tcp", "VIP ::1 is a loopback address", false},
		{"0.0.0.0:80", "tcp", "VIP 0.0.0.0 is the unspecified address", false},
		{"[::]:80", "tcp", "VIP :: is the unspecified address", false},
		{"255.255.255.255:80", "tcp", "VIP 255.255.255.255 is the broadcast address", false},
		{"[::ffff:172.10.0.9]:80", "tcp", "VIP ::ffff:172.10.0.9 is an IPv4 address in IPv6 form: write 172.10.0.9", false},
		{"[2001:db8::64%eth0]:80", "tcp", "VIP 2001:db8::64%eth0: a zone cannot be given, the interface is found by the route", false},
		{"[fe80::9]:80", "tcp", "VIP fe80::9 is a link-local address: real servers, which have it on lo, would not take packets for it", false},
		{"[fe80::9%eth0]:80", "tcp", "VIP fe80::9%eth0 is a link-local address: real servers, which have it on lo, would not take packets for it", false},
		{"169.254.0.9:80", "tcp", "TCP 169.254.0.9:80", true},
	}
	for _, tt := range tests {
		key, err := lb.ParseServiceKey(tt.addrport, tt.protocol)
		if got := outcome(t, key.String(), err); got != tt.want || (err == nil) != tt.ok {
			t.Errorf("ParseServiceKey(%q, %q): got %q, want %q", tt.addrport, tt.protocol, got, tt.want)
		}
	}
}

func TestParseHop(t *testing.T) {
	t.Parallel()
	if got, err := lb.ParseMAC("02:00:00:00:00:08"); err != nil || got != [6]byte{2, 0, 0, 0, 0, 8} {
		t.Errorf("ParseMAC: got %x, %v", got, err)
	}
	for word, want := range map[string]string{
		"":                        `MAC "": want six bytes such as 02:00:00:00:00:08`,
		"02:00":                   `MAC "02:00": want six bytes such as 02:00:00:00:00:08`,
		"02:00:00:00:00:08:00:01": `MAC "02:00:00:00:00:08:00:01": want six bytes such as 02:00:00:00:00:08`,
		"00:00:00:00:00:00":       "MAC 00:00:00:00:00:00 is not the address of one host",
		"01:00:5e:00:00:01":       "MAC 01:00:5e:00:00:01 is not the address of one host",
	} {
		mac, err := lb.ParseMAC(word)
		if got := outcome(t, fmt.Sprint(mac), err); got != want {
			t.Errorf("ParseMAC(%q): got %q, want %q", word, got, want)
		}
	}
	if got, err := lb.ParseVLAN("4094"); err != nil || got != lb.MaxVLAN {
		t.Errorf("ParseVLAN: got %d, %v", got, err)
	}
	for word, want := range map[string]string{
		"0": "VLAN 0: want 1 to 4094", "4095": "VLAN 4095: want 1 to 4094", "x": `VLAN "x": want 1 to 4094`,
	} {
		vlan, err := lb.ParseVLAN(word)
		if got := outcome(t, fmt.Sprint(vlan), err); got != want {
			t.Errorf("ParseVLAN(%q): got %q, want %q", word, got, want)
		}
	}
}

func TestParseWeight(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]uint32{"0": 0, "1": 1, "2147483647": lb.MaxWeight} {
		if got, err := lb.ParseWeight(word); err != nil || got != want {
			t.Errorf("ParseWeight(%q) = %d, %v, want %d", word, got, err, want)
		}
	}
	for word, want := range map[string]string{
		"-1":                    "weight -1: want 0 to 2147483647",
		"2147483648":            "weight 2147483648: want 0 to 2147483647",
		"4294967297":            "weight 4294967297: want 0 to 2147483647",
		"99999999999999999999":  "weight 99999999999999999999: want 0 to 2147483647",
		"-99999999999999999999": "weight -99999999999999999999: want 0 to 2147483647",
		"x":                     `weight "x": want 0 to 2147483647`,
		"0x1":                   `weight "0x1": want 0 to 2147483647`,
		"":                      `weight "": want 0 to 2147483647`,
	} {
		_, err := lb.ParseWeight(word)
		if got := outcome(t, "accepted", err); got != want {
			t.Errorf("ParseWeight(%q): got %q, want %q", word, got, want)
		}
	}
}

func TestParseBackendAddr(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"192.168.60.8", "2001:db8::8", "127.0.0.1", "::1"} {
		if got, err := lb.ParseBackendAddr(word); err != nil || got != netip.MustParseAddr(word) {
			t.Errorf("ParseBackendAddr(%q) = %s, %v", word, got, err)
		}
	}
	for word, want := range map[string]string{
		"192.168.60.8:80": `backend "192.168.60.8:80" is not an IP address`,
		"0.0.0.0":         "backend 0.0.0.0 is the unspecified address",
		"239.1.2.3":       "backend 239.1.2.3 is a multicast address",
	} {
		_, err := lb.ParseBackendAddr(word)
		if got := outcome(t, "accepted", err); got != want {
			t.Errorf("ParseBackendAddr(%q): got %q, want %q", word, got, want)
		}
	}
}

func TestParseScheduler(t *testing.T) {
	t.Parallel()
	var names []string
	for _, s := range lb.Schedulers() {
		names = append(names, s.String())
		if got, err := lb.ParseScheduler(s.String()); err != nil || got != s {
			t.Errorf("ParseScheduler(%q) = %s, %v", s, got, err)
		}
	}
	if diff := cmp.Diff(strings.Fields("rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos"), names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for word, want := range map[string]string{
		"foo": `unknown scheduler "foo": want rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos`,
		"RR":  `unknown scheduler "RR": want rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos`,
		"":    `unknown scheduler "": want rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos`,
	} {
		_, err := lb.ParseScheduler(word)
		if got := outcome(t, "accepted", err); got != want {
			t.Errorf("ParseScheduler(%q): got %q, want %q", word, got, want)
		}
	}
}

func TestParseRemoval(t *testing.T) {
	t.Parallel()
	for _, r := range []lb.Removal{lb.Reschedule, lb.Keep} {
		if got, err := lb.ParseRemoval(r.String()); err != nil || got != r {
			t.Errorf("ParseRemoval(%q) = %s, %v", r, got, err)
		}
	}
	_, err := lb.ParseRemoval("drop")
	if got, want := outcome(t, "accepted", err), `on-removal "drop": want reschedule or keep`; got != want {
		t.Errorf("ParseRemoval(drop): got %q, want %q", got, want)
	}
}

// outcome is what a parse came to, in words; an error must be an ErrInvalid.
func outcome(t testing.TB, ok string, err error) string {
	t.Helper()
	if err == nil {
		return ok
	}
	if !errors.Is(err, lb.ErrInvalid) {
		t.Errorf("%q is not an ErrInvalid", err)
	}
	return err.Error()
}
