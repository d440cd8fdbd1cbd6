// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lab"
)

// TestWebServerRestart wants a stopped web server to refuse at once and a started one to answer.
func TestWebServerRestart(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{Backends: 1, WebServers: true})
	ctx := requestContext(t)
	client, real := l.Host("client"), l.Host("real1")
	const url = "http://192.168.60.8/"
	if err := real.StopWebServer(); err != nil {
		t.Fatal(err)
	}
	if answer, err := client.Get(ctx, url); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("answer of a stopped web server: %q, %v, want a refusal", answer, err)
	}
	if err := real.StartWebServer(ctx); err != nil {
		t.Fatal(err)
	}
	if answer, err := client.Get(ctx, url); err != nil || answer != "real1\n" {
		t.Errorf("answer of a web server started again: %q, %v", answer, err)
	}
}

// TestDatagrams sends one there and back from goroutines that are in no namespace of the cluster.
func TestDatagrams(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{Backends: 1, IPv6: true})
	ctx := requestContext(t)
	real := l.Host("real1")
	for network, addr := range map[string]netip.Addr{"udp4": real.Addr(), "udp6": real.Addr6()} {
		server, err := real.ListenPacket(network, netip.AddrPortFrom(addr, 5353).String())
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		go func() {
			buffer := make([]byte, 16)
			// An error shows as an answer that does not come.
			if n, from, err := server.ReadFrom(buffer); err == nil {
				_, _ = server.WriteTo(buffer[:n], from)
			}
		}()
		conn, err := l.Host("client").DialContext(ctx, network, server.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		deadline, _ := ctx.Deadline()
		if err := conn.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("there")); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 16)
		n, err := conn.Read(answer)
		if err != nil || string(answer[:n]) != "there" {
			t.Errorf("%s: answer %q, %v", network, answer[:n], err)
		}
	}
}

// TestFailover moves the VIP to the second director by hand.
func TestFailover(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{Backends: 1, Directors: 2})
	vip := netip.PrefixFrom(lab.VIP, 16)
	first, second := l.Host("director"), l.Host("director2")
	if err := first.DeleteAddress("eth0", vip); err != nil {
		t.Fatal(err)
	}
	if err := second.AddAddress("eth0", vip); err != nil {
		t.Fatal(err)
	}
	got := map[string][]netip.Prefix{}
	for _, h := range []*lab.Host{first, second} {
		addresses, err := h.Addresses("eth0")
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = addresses
	}
	want := map[string][]netip.Prefix{
		"director":  {netip.MustParsePrefix("192.168.60.4/24")},
		"director2": {vip, netip.MustParsePrefix("192.168.60.5/24")},
	}
	equal := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{mac(second)}, claimants(t, l)); diff != "" {
		t.Errorf("who claims the VIP (-want +got):\n%s", diff)
	}
}

// TestCommand wants a command to see the host's network and the test's files, also from a goroutine that is in none of
// the test's namespaces, through Do.
func TestCommand(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{Backends: 1})
	ctx := requestContext(t)
	director := l.Host("director")
	if err := director.SetSysctl("net/ipv4/conf/eth0/log_martians", "1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(director.PinDir(), 0o750); err != nil {
		t.Fatal(err)
	}
	out, err := director.Run(ctx, "sh", "-c", `cat /proc/sys/net/ipv4/conf/eth0/log_martians; ls -d "$XDPLB_PIN_DIR"`)
	if want := "1\n" + director.PinDir() + "\n"; err != nil || out != want {
		t.Errorf("command on the director: %q, %v, want %q", out, err, want)
	}
	elsewhere := make(chan error)
	go func() {
		elsewhere <- director.Do(func() error {
			_, err := os.Stat(director.PinDir())
			return err
		})
	}()
	if err := <-elsewhere; err != nil {
		t.Errorf("pins from another goroutine: %v", err)
	}
	_, err = director.Run(ctx, "sh", "-c", "echo because >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "exit status 3: because") {
		t.Errorf("a command that fails: %v, want its status and what it said", err)
	}
}
