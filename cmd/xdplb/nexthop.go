// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"xdplb/internal/lb"
	"xdplb/internal/neigh"
)

// hopFlags are --mac, --dev and --vlan, with which the operator says where a backend's frames go.
type hopFlags struct {
	cmd  *cobra.Command
	mac  [6]byte // zero: find it
	dev  string
	vlan uint16
}

func newHopFlags(env *environment, cmd *cobra.Command) *hopFlags {
	f := &hopFlags{cmd: cmd}
	flags := cmd.Flags()
	parsedVar(flags, &f.mac, "mac", "MAC", "", "the backend's MAC address, or \"auto\": find it", parseMAC)
	flags.StringVar(&f.dev, "dev", "", "the attached `INTERFACE` that leads to the backend")
	parsedVar(flags, &f.vlan, "vlan", "ID", "", "VLAN tag of its frames, 1 to 4094 (default: as they came); needs --mac", parseVLAN)
	completeFlag(cmd, "mac", cobra.FixedCompletions([]string{"auto"}, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "dev", env.completeLive(func(_ lb.State, attached interfaces) []string { return attached.names() }))
	return f
}

// parseMAC reads a 48-bit MAC address, or "auto", which is the zero address.
func parseMAC(word string) ([6]byte, error) {
	if word == "auto" {
		return [6]byte{}, nil
	}
	mac, err := net.ParseMAC(word)
	if err != nil || len(mac) != 6 {
		return [6]byte{}, fmt.Errorf("%q is not a MAC address such as 02:00:00:00:00:08", word)
	}
	if [6]byte(mac) == [6]byte{} || mac[0]&1 != 0 {
		return [6]byte{}, fmt.Errorf("%q is not the MAC address of one host", word)
	}
	return [6]byte(mac), nil
}

func parseVLAN(word string) (uint16, error) {
	id, err := strconv.ParseUint(word, 10, 16)
	if err != nil || id < 1 || id > lb.MaxVLAN {
		return 0, fmt.Errorf("VLAN %q: want 1 to %d", word, lb.MaxVLAN)
	}
	return uint16(id), nil
}

// given says whether any of the flags was.
func (f *hopFlags) given() bool {
	flags := f.cmd.Flags()
	return flags.Changed("mac") || flags.Changed("dev") || flags.Changed("vlan")
}

// find returns the next hop that the flags say, or asks the segment for it.
func (f *hopFlags) find(env *environment, addr netip.Addr, attached interfaces) (lb.NextHop, error) {
	if f.mac != [6]byte{} {
		ifindex, err := attached.index(f.dev)
		return lb.NextHop{MAC: f.mac, Ifindex: ifindex, VLAN: f.vlan, Static: true}, err
	}
	if f.vlan != 0 {
		return lb.NextHop{}, usagef("--vlan %d needs --mac: a backend that is found is found with its VLAN", f.vlan)
	}
	candidates := attached.indexes()
	if f.dev != "" {
		ifindex, err := attached.index(f.dev)
		if err != nil {
			return lb.NextHop{}, err
		}
		candidates = []int{ifindex}
	}
	defer env.slow("waiting for " + addr.String() + " to answer")()
	return neigh.Resolve(env.ctx, addr, candidates)
}

const (
	// findTimeout is how long all backends of a file together may take to answer: the kernel asks each for three
	// seconds, side by side.
	findTimeout = 5 * time.Second
	// findAtOnce bounds the sockets, and with --netns the threads, in use.
	findAtOnce = 128
)

// findAll asks the segments for many backends side by side. What went wrong with a backend stands in the second map;
// the error is that of an interrupted command.
func (env *environment) findAll(addrs []netip.Addr, attached interfaces) (map[netip.Addr]lb.NextHop, map[netip.Addr]error, error) {
	defer env.slow("waiting for backends to answer")()
	ctx, cancel := context.WithTimeout(env.ctx, findTimeout)
	defer cancel()
	var (
		mu     sync.Mutex
		found  = make(map[netip.Addr]lb.NextHop)
		failed = make(map[netip.Addr]error)
		group  errgroup.Group
	)
	group.SetLimit(findAtOnce)
	for _, addr := range addrs {
		group.Go(env.concurrently(func() error {
			hop, err := neigh.Resolve(ctx, addr, attached.indexes())
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[addr] = err
			} else {
				found[addr] = hop
			}
			return env.ctx.Err()
		}))
	}
	return found, failed, group.Wait()
}
