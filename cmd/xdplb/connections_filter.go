// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

// connectionFilter says which connections are wanted: those that fit everything that was given.
type connectionFilter struct {
	client  netip.Prefix
	service netip.AddrPort // whatever the protocol
	backend netip.Addr
	state   string // in LVS's words
}

// newConnectionFilter adds the filter's flags to a command.
func newConnectionFilter(cmd *cobra.Command) *connectionFilter {
	f := &connectionFilter{}
	flags := cmd.Flags()
	parsedVar(flags, &f.client, "client", "ADDRESS[/LENGTH]", "", "only those of a client, or of a network of clients", parseClient)
	parsedVar(flags, &f.service, "service", "VIP:PORT", "", "only those to a service, whatever the protocol", parseServiceAddr)
	parsedVar(flags, &f.backend, "backend", "ADDRESS", "", "only those with a backend", lb.ParseBackendAddr)
	parsedVar(flags, &f.state, "state", "STATE", "", "only those in a state, as the listing names it", parseState)
	return f
}

func (f *connectionFilter) wants(c *datapath.Connection) bool {
	return (!f.client.IsValid() || f.client.Contains(c.Client.Addr())) &&
		(!f.service.IsValid() || f.service == c.Service.Addr) &&
		(!f.backend.IsValid() || f.backend == c.Backend) &&
		(f.state == "" || f.state == string(c.State))
}

// parseClient reads an address, or a network. Bits behind the network's length do not matter.
func parseClient(word string) (netip.Prefix, error) {
	if !strings.Contains(word, "/") {
		word += "/128"
		if !strings.Contains(word, ":") {
			word = strings.TrimSuffix(word, "128") + "32"
		}
	}
	prefix, err := netip.ParsePrefix(word)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, errors.New("want an IP address, or one and a length: 192.0.2.0/24")
	}
	return prefix.Masked(), nil
}

func parseServiceAddr(word string) (netip.AddrPort, error) {
	key, err := lb.ParseServiceKey(word, lb.TCP.String())
	return key.Addr, err
}

// parseState reads a state in upper or lower case.
func parseState(word string) (string, error) {
	var names []string
	for _, state := range datapath.ConnectionStates() {
		names = append(names, string(state))
	}
	if name := strings.ToUpper(word); slices.Contains(names, name) {
		return name, nil
	}
	last := len(names) - 1
	return "", fmt.Errorf("want %s or %s", strings.Join(names[:last], ", "), names[last])
}
