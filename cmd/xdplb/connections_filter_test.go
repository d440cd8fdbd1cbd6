// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"

	"github.com/spf13/cobra"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

func TestConnectionFilter(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort
	c := datapath.Connection{
		Service: lb.ServiceKey{Addr: at("172.10.0.9:80"), Protocol: lb.TCP}, Client: at("203.0.113.7:4000"), VIPPort: 80,
		Backend: netip.MustParseAddr("192.168.60.8"), State: datapath.StateFIN,
	}
	for _, test := range []struct {
		client, service, backend, state string
		want                            bool
	}{
		{want: true},
		{client: "203.0.113.7", want: true},
		{client: "203.0.113.7/32", want: true},
		{client: "203.0.113.0/24", want: true},
		{client: "203.0.113.99/24", want: true},
		{client: "0.0.0.0/0", want: true},
		{client: "203.0.113.8"},
		{client: "::/0"},
		{service: "172.10.0.9:80", want: true},
		{service: "172.10.0.9:81"},
		{backend: "192.168.60.8", want: true},
		{backend: "192.168.60.9"},
		{state: "fin_wait", want: true},
		{state: "ESTABLISHED"},
		{client: "203.0.113.7", service: "172.10.0.9:80", backend: "192.168.60.8", state: "FIN_WAIT", want: true},
		{client: "203.0.113.7", service: "172.10.0.9:80", backend: "192.168.60.8", state: "CLOSE"},
	} {
		var words []string
		for name, word := range map[string]string{"client": test.client, "service": test.service, "backend": test.backend, "state": test.state} {
			if word != "" {
				words = append(words, "--"+name, word)
			}
		}
		cmd := &cobra.Command{}
		filter := newConnectionFilter(cmd)
		if err := cmd.ParseFlags(words); err != nil {
			t.Fatal(err)
		}
		if got := filter.wants(&c); got != test.want {
			t.Errorf("%q: %v, want %v", words, got, test.want)
		}
	}
}
