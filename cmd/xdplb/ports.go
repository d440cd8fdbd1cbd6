// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"xdplb/internal/lb"
)

const portsHelp = `One service can have several ports: --port takes a list of ports and ranges. They share the service's backends, turns
and counters, and the real servers listen on all of them. The service goes by the port that was given with its address
or, if there was none, by the first of the list. No port can belong to two services.`

// portsFlag is --port, the ports of a service that has several.
type portsFlag struct {
	flags  *pflag.FlagSet
	ranges []lb.PortRange
}

// add adds it to a command.
func (f *portsFlag) add(cmd *cobra.Command) {
	f.flags = cmd.Flags()
	parsedVar(f.flags, &f.ranges, "port", "PORTS", "", "ports besides the one in ADDRESS:PORT, such as 8000-8099,443", lb.ParsePorts)
}

// complete gives an address that stands alone the first port of the list.
func (f *portsFlag) complete(word string) string {
	if addr, err := lb.ParseVIP(word); err == nil && len(f.ranges) > 0 {
		return f.ranges[0].Of(addr).String()
	}
	return word
}

// edit changes the service's ports, if they were given.
func (f *portsFlag) edit(service *lb.Service) {
	if f.flags.Changed("port") {
		service.Ports = lb.NewPorts(service.Addr.Port(), f.ranges...)
	}
}

// portsText is all ports of a service.
func portsText(s lb.Service) string {
	if s.Ports == "" {
		return strconv.Itoa(int(s.Addr.Port()))
	}
	return string(s.Ports)
}
