// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"xdplb/internal/lab"
)

// requestContext ends before the test's own deadline does.
func requestContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestRealServersAnswer does by hand what a director does: the router sends the VIP's packets straight to a real
// server, which answers the client. Everything but the director takes part.
func TestRealServersAnswer(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{IPv6: true, WebServers: true})
	ctx := requestContext(t)
	client, router := l.Host("client"), l.Host("router")
	for _, vip := range []netip.Addr{lab.VIP, lab.VIP6} {
		for _, name := range []string{"real1", "real2"} {
			if err := router.SetNeighbour("eth1", vip, l.Host(name).Interfaces[0].MAC); err != nil {
				t.Fatal(err)
			}
			got, err := client.Get(ctx, fmt.Sprintf("http://%s/", netip.AddrPortFrom(vip, 80)))
			if err != nil {
				t.Fatal(err)
			}
			if want := name + "\n"; got != want {
				t.Errorf("GET / of %s answers %q, want %q", vip, got, want)
			}
		}
	}
}
