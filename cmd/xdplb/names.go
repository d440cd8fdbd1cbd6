// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"xdplb/internal/lb"
)

// nameTimeout is how long a listing with names may wait for all of them; what is not known by then is printed as a
// number.
const nameTimeout = 2 * time.Second

// names are the names of addresses and ports, as ipvsadm prints them without -n.
type names struct {
	hosts map[netip.Addr]string
	ports map[string]string // "80/tcp": "http"
}

// lookUpNames finds the names of everything in a state.
func (env *environment) lookUpNames(state lb.State) names {
	defer env.slow("looking up names; -n prints numbers")()
	n := names{hosts: make(map[netip.Addr]string), ports: make(map[string]string)}
	if file, err := os.Open("/etc/services"); err == nil {
		n.readPorts(file)
		file.Close()
	}
	addrs := make(map[netip.Addr]bool)
	for _, s := range state.Services {
		addrs[s.Addr.Addr()] = true
		for _, b := range s.Backends {
			addrs[b.Addr] = true
		}
	}
	ctx, cancel := context.WithTimeout(env.ctx, nameTimeout)
	defer cancel()
	var (
		mu    sync.Mutex
		group errgroup.Group
	)
	group.SetLimit(64)
	for addr := range addrs {
		// In xdplb's own network namespace, whatever --netns says: that is where its resolver is configured.
		group.Go(func() error {
			// The errors of a lookup all mean the same here: a number.
			if found, err := net.DefaultResolver.LookupAddr(ctx, addr.String()); err == nil && len(found) > 0 {
				mu.Lock()
				defer mu.Unlock()
				n.hosts[addr] = strings.TrimSuffix(found[0], ".")
			}
			return nil
		})
	}
	_ = group.Wait() // every function returns nil
	return n
}

// readPorts reads a file in the format of services(5): "http 80/tcp www # comment". The first name of a port counts.
func (n names) readPorts(file io.Reader) {
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if fields := strings.Fields(line); len(fields) >= 2 && n.ports[fields[1]] == "" {
			n.ports[fields[1]] = fields[0]
		}
	}
}

func (n names) host(addr netip.Addr) string { return n.hosts[addr] }

func (n names) port(port uint16, protocol lb.Protocol) string {
	return n.ports[strconv.Itoa(int(port))+"/"+protocol.String()]
}
