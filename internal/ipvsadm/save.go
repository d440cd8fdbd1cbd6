// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"

	"xdplb/internal/lb"
)

// Save writes the state as "ipvsadm -S -n" does: one -A line for each service, and under it one -a line for each
// backend. "ipvsadm -R" takes it. Next hops are not saved; the format has no place for them. The error is w's.
func Save(w io.Writer, state lb.State) error {
	out := bufio.NewWriter(w)
	for i := range state.Services {
		service := &state.Services[i]
		flag := serviceFlag(service.Protocol)
		fmt.Fprintf(out, "-A %s %s -s %s\n", flag, service.Addr, service.Scheduler)
		for _, b := range service.Backends {
			fmt.Fprintf(out, "-a %s %s -r %s -g -w %d\n", flag, service.Addr, backendAddrPort(service, b), b.Weight)
		}
	}
	return out.Flush()
}

func serviceFlag(p lb.Protocol) string {
	if p == lb.UDP {
		return "-u"
	}
	return "-t"
}

// backendAddrPort is the backend's address with the service's port.
func backendAddrPort(s *lb.Service, b lb.Backend) netip.AddrPort {
	return netip.AddrPortFrom(b.Addr, s.Addr.Port())
}
