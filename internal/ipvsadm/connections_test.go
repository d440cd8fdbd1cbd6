// SPDX-License-Identifier: Apache-2.0

package ipvsadm_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

// connection is a row between addresses in text.
func connection(protocol lb.Protocol, left time.Duration, state, client, vip, backend string) ipvsadm.Connection {
	return ipvsadm.Connection{
		Protocol: protocol, Left: left, State: state,
		Client: netip.MustParseAddrPort(client), VIP: netip.MustParseAddrPort(vip), Backend: netip.MustParseAddrPort(backend),
	}
}

// walk visits connections.
func walk(connections ...ipvsadm.Connection) func(func(ipvsadm.Connection) bool) error {
	return func(visit func(ipvsadm.Connection) bool) error {
		for _, c := range connections {
			if !visit(c) {
				break
			}
		}
		return nil
	}
}

func listConnections(t testing.TB, l ipvsadm.ConnectionListing) string {
	t.Helper()
	var out strings.Builder
	if err := ipvsadm.ListConnections(&out, l); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestListConnectionsGolden(t *testing.T) {
	t.Parallel()
	got := listConnections(t, ipvsadm.ConnectionListing{Walk: walk(
		connection(lb.TCP, 897*time.Second, "ESTABLISHED", "192.168.60.1:54321", "192.168.60.100:80", "192.168.60.8:80"),
		connection(lb.TCP, 117*time.Second, "FIN_WAIT", "192.168.60.1:54322", "192.168.60.100:80", "192.168.60.9:80"),
		connection(lb.TCP, 355*time.Second, "NONE", "192.168.60.1:0", "192.168.60.100:80", "192.168.60.8:80"),
		connection(lb.UDP, 298*time.Second-1, "UDP", "192.168.60.1:54323", "192.168.60.100:53", "192.168.60.8:53"),
		connection(lb.TCP, 57*time.Second, "SYN_RECV", "[2001:db8::1]:54324", "[2001:db8::64]:80", "[2001:db8::8]:80"),
	)})
	if diff := cmp.Diff(golden(t, "lvs/17-conn.txt"), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestListConnectionsNames(t *testing.T) {
	t.Parallel()
	hosts := map[string]string{"192.168.60.100": "www.example.org", "192.168.60.1": "client.example.org", "2001:db8::8": "real6"}
	got := listConnections(t, ipvsadm.ConnectionListing{
		Walk: walk(
			connection(lb.TCP, 3600*time.Second, "CLOSE", "192.168.60.1:80", "192.168.60.100:80", "192.168.60.8:80"),
			connection(lb.TCP, 0, "CLOSE", "[2001:db8::1]:1024", "[2001:db8::64]:81", "[2001:db8::8]:81"),
		),
		Host: func(addr netip.Addr) string { return hosts[addr.String()] },
		Port: func(port uint16, _ lb.Protocol) string { return map[uint16]string{80: "http"}[port] },
	})
	want := `IPVS connection entries
pro expire state       source             virtual            destination
TCP 60:00  CLOSE       192.168.60.1:80    www.example.org:http 192.168.60.8:http
TCP 00:00  CLOSE       [2001:db8::1]:1024 [2001:db8::64]:81  [real6]:81
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestListConnectionsErrors(t *testing.T) {
	t.Parallel()
	errWalk := errors.New("cannot walk")
	var out strings.Builder
	err := ipvsadm.ListConnections(&out, ipvsadm.ConnectionListing{
		Walk: func(func(ipvsadm.Connection) bool) error { return errWalk },
	})
	if !errors.Is(err, errWalk) || out.Len() != 0 {
		t.Errorf("a walk that fails: error %v, written %q", err, &out)
	}

	row := connection(lb.UDP, time.Second, "UDP", "192.168.60.1:1", "192.168.60.100:53", "192.168.60.8:53")
	visits := 0
	err = ipvsadm.ListConnections(failing{}, ipvsadm.ConnectionListing{Walk: func(visit func(ipvsadm.Connection) bool) error {
		for visits < 100000 && visit(row) {
			visits++
		}
		return nil
	}})
	if !errors.Is(err, errFull) || visits == 0 || visits == 100000 {
		t.Errorf("a full device: error %v after %d connections, want an early end", err, visits)
	}
}
