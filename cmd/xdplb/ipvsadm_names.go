// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

// resolver finds the hosts and ports that a command line of ipvsadm's names.
func (env *environment) resolver() ipvsadm.Names {
	return ipvsadm.Names{Host: env.hostAddr, Port: portNumber}
}

// hostAddr finds a host's IPv4 address; ipvsadm asks for no other.
func (env *environment) hostAddr(name string) (netip.Addr, bool) {
	defer env.slow("looking up " + name)()
	ctx, cancel := context.WithTimeout(env.ctx, nameTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", name)
	if err != nil || len(addrs) == 0 { // every error of a lookup means the same here: no such host
		return netip.Addr{}, false
	}
	return addrs[0].Unmap(), true
}

func portNumber(name string, protocol lb.Protocol) (uint16, bool) {
	file, err := os.Open("/etc/services")
	if err != nil {
		return 0, false
	}
	defer file.Close()
	return findPort(file, name, protocol)
}

// findPort looks for a name or an alias in a file in the format of services(5).
func findPort(file io.Reader, name string, protocol lb.Protocol) (uint16, bool) {
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != name && !slices.Contains(fields[2:], name) {
			continue
		}
		word, ok := strings.CutSuffix(fields[1], "/"+protocol.String())
		if port, err := strconv.ParseUint(word, 10, 16); ok && err == nil {
			return uint16(port), true
		}
	}
	return 0, false
}
