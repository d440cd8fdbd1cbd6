// SPDX-License-Identifier: Apache-2.0

package lb_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"xdplb/internal/lb"
)

func TestNewPorts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		own  uint16
		list string
		want lb.Ports
	}{
		{80, "80", ""},
		{80, "443", "80,443"},
		{443, "8000-8099,443", "443,8000-8099"},
		{8000, "8000-8099", "8000-8099"},
		{80, "81", "80-81"},
		{80, "70-79,81-90", "70-90"},
		{80, "8000-8050,8040-8099,8010-8020", "80,8000-8099"},
		{65535, "1-65534", "1-65535"},
		{1, "65535,65535,65534", "1,65534-65535"},
	} {
		ranges, err := lb.ParsePorts(tt.list)
		if err != nil {
			t.Errorf("%s: %v", tt.list, err)
			continue
		}
		if got := lb.NewPorts(tt.own, ranges...); got != tt.want {
			t.Errorf("%d and %s: got %q, want %q", tt.own, tt.list, got, tt.want)
		}
	}
	for list, want := range map[string]string{
		"":         `port "": want 1 to 65535`,
		"80,":      `port "": want 1 to 65535`,
		"90-80":    `ports "90-80": the first is above the last`,
		"80-":      `port "": want 1 to 65535`,
		"0":        "port 0: want 1 to 65535",
		"1-2-3":    `port "2-3": want 1 to 65535`,
		"80-70000": "port 70000: want 1 to 65535",
		"80, 81":   `port " 81": want 1 to 65535`,
	} {
		_, err := lb.ParsePorts(list)
		if got := outcome(t, "accepted", err); got != want {
			t.Errorf("%q: got %q, want %q", list, got, want)
		}
	}
}

// TestPortsOverlap: no port has two services, however they come into a state; port 0 is what is left.
func TestPortsOverlap(t *testing.T) {
	t.Parallel()
	service := func(at string, ports lb.Ports) lb.Service {
		return lb.Service{
			ServiceKey: lb.ServiceKey{Addr: netip.MustParseAddrPort(at), Protocol: lb.TCP}, Ports: ports, Scheduler: lb.RR,
		}
	}
	several := service("172.10.0.9:8000", "443,8000-8099")
	for _, tt := range []struct {
		other lb.Service
		want  string
	}{
		{service("172.10.0.9:80", ""), ""},
		{service("172.10.0.8:443", ""), ""},
		{service("172.10.0.9:9000", "444,8100-8199,9000"), ""},
		{service("172.10.0.9:443", ""), "service TCP 172.10.0.9:8000: port 443 already exists in TCP 172.10.0.9:443"},
		{service("172.10.0.9:8099", ""), "service TCP 172.10.0.9:8099: port 8099 already exists in TCP 172.10.0.9:8000"},
		{service("172.10.0.9:9000", "8050-9000"), "service TCP 172.10.0.9:9000: port 8050 already exists in TCP 172.10.0.9:8000"},
		{service("172.10.0.9:1", "1-65535"), "service TCP 172.10.0.9:8000: port 443 already exists in TCP 172.10.0.9:1"},
	} {
		check := func(how string, err error) {
			t.Helper()
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, lb.ErrExists) || err.Error() != tt.want) {
				t.Errorf("%s: %s with %s: %v, want %q", how, tt.other.ServiceKey, tt.other.Ports, err, tt.want)
			}
		}
		_, err := lb.NewState([]lb.Service{several, tt.other})
		check("NewState", err)
		for _, pair := range [][2]lb.Service{{several, tt.other}, {tt.other, several}} {
			state := lb.State{}
			if err := state.AddService(pair[0]); err != nil {
				t.Fatal(err)
			}
			check("AddService", state.AddService(pair[1]))
			if len(state.Services) != 2 && tt.want == "" || len(state.Services) != 1 && tt.want != "" {
				t.Errorf("%d services", len(state.Services))
			}
			state = lb.State{}
			plain := pair[1]
			plain.Ports = ""
			if state.AddService(pair[0]) != nil || state.AddService(plain) != nil {
				continue
			}
			check("SetService", state.SetService(plain.ServiceKey, func(s *lb.Service) error { s.Ports = pair[1].Ports; return nil }))
			if err := state.Validate(); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		}
	}
	for _, bad := range []lb.Service{
		service("172.10.0.9:80", "443,8000"), service("172.10.0.9:80", "80"), service("172.10.0.9:80", "80,81"),
		service("172.10.0.9:443", "8000,443"), service("172.10.0.9:80", "x"),
	} {
		if err := new(lb.State).AddService(bad); !errors.Is(err, lb.ErrInvalid) {
			t.Errorf("ports %q of %s: %v", bad.Ports, bad.ServiceKey, err)
		}
	}
}

// TestServiceOf: the port's own service, else FTP's data, else port 0.
func TestServiceOf(t *testing.T) {
	t.Parallel()
	persistent := lb.Persistence{Timeout: time.Minute, Prefix: 32}
	service := func(at string, ports lb.Ports, persistence lb.Persistence) lb.Service {
		return lb.Service{ServiceKey: lb.ServiceKey{Addr: netip.MustParseAddrPort(at), Protocol: lb.TCP}, Ports: ports, Scheduler: lb.RR, Persistence: persistence}
	}
	state, err := lb.NewState([]lb.Service{
		service("192.0.2.1:0", "", persistent), service("192.0.2.1:21", "", persistent), service("192.0.2.1:8080", "", lb.Persistence{}),
		service("192.0.2.1:2000", "1000-1030,2000-2100", lb.Persistence{}),
		service("192.0.2.2:21", "", persistent),
		service("192.0.2.3:21", "", lb.Persistence{}),
		service("192.0.2.4:21", "20-21", persistent),
	})
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{
		"192.0.2.1:0": "192.0.2.1:0", "192.0.2.1:19": "192.0.2.1:0", "192.0.2.1:20": "192.0.2.1:21", "192.0.2.1:21": "192.0.2.1:21",
		"192.0.2.1:22": "192.0.2.1:0", "192.0.2.1:1000": "192.0.2.1:2000", "192.0.2.1:1030": "192.0.2.1:2000", "192.0.2.1:1031": "192.0.2.1:21",
		"192.0.2.1:8080": "192.0.2.1:8080", "192.0.2.1:65535": "192.0.2.1:21",
		"192.0.2.2:0": "192.0.2.2:21", "192.0.2.2:20": "192.0.2.2:21", "192.0.2.2:1023": "", "192.0.2.2:1024": "192.0.2.2:21",
		"192.0.2.3:20": "", "192.0.2.3:0": "", "192.0.2.3:5000": "",
		"192.0.2.4:20": "192.0.2.4:21", "192.0.2.4:5000": "", "192.0.2.5:21": "",
	} {
		got := ""
		if s, found := state.ServiceOf(lb.ServiceKey{Addr: netip.MustParseAddrPort(at), Protocol: lb.TCP}); found {
			got = s.Addr.String()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", at, got, want)
		}
		if s, found := state.ServiceOf(lb.ServiceKey{Addr: netip.MustParseAddrPort(at), Protocol: lb.UDP}); found {
			t.Errorf("%s of UDP: got %s", at, s.ServiceKey)
		}
	}
}
