// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"

	"xdplb/internal/lb"
)

// Saving is what Save writes. Host and Port name addresses and ports, as in Listing.
type Saving struct {
	State lb.State
	Host  func(netip.Addr) string
	Port  func(uint16, lb.Protocol) string
}

// Save writes a state as "ipvsadm -S" does: one -A line for each service, and under it one -a line for each backend.
// "ipvsadm -R" takes it, but for what LVS does not have, services of several ports and kept connections of removed backends:
// --port and --on-removal, which ParseRules takes, are behind the options. Thresholds, which ipvsadm loses, are written behind the weight. Next hops and timeouts are not
// saved; the format has no place for them. The error is w's.
func Save(w io.Writer, s Saving) error {
	out := bufio.NewWriter(w)
	for i := range s.State.Services {
		service := &s.State.Services[i]
		at := serviceFlag(service.Protocol) + " " + name(service.Addr, service.Protocol, s.Host, s.Port)
		fmt.Fprintf(out, "-A %s -s %s%s\n", at, service.Scheduler, savedOptions(service))
		for j := range service.Backends {
			b := &service.Backends[j]
			server := netip.AddrPortFrom(b.Addr, service.Addr.Port())
			fmt.Fprintf(out, "-a %s -r %s -g -w %d%s\n",
				at, name(server, service.Protocol, s.Host, s.Port), b.Weight, savedThresholds(b))
		}
	}
	return out.Flush()
}

func serviceFlag(p lb.Protocol) string {
	switch p {
	case lb.UDP:
		return "-u"
	case lb.SCTP:
		return "--sctp-service"
	}
	return "-t"
}

// savedOptions are the options of a service behind its scheduler.
func savedOptions(s *lb.Service) string {
	words := persistenceOf(s, " -p %d", " -M ")
	if s.OnePacket {
		words += " -o"
	}
	if s.Flags != 0 {
		words += " -b " + s.Scheduler.FlagNames(s.Flags)
	}
	if s.Ports != "" {
		words += " " + portsOption + " " + string(s.Ports)
	}
	if s.OnRemoval != lb.Reschedule {
		words += " " + removalOption + " " + s.OnRemoval.String()
	}
	return words
}

func savedThresholds(b *lb.Backend) (words string) {
	if b.Upper != 0 {
		words += fmt.Sprintf(" -x %d", b.Upper)
	}
	if b.Lower != 0 {
		words += fmt.Sprintf(" -y %d", b.Lower)
	}
	return words
}
