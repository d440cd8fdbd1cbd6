// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
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
	parsedVar(flags, &f.vlan, "vlan", "ID", "", "VLAN tag of its frames, 1 to 4094 (default: as they came); needs --mac", lb.ParseVLAN)
	completeFlag(cmd, "mac", cobra.FixedCompletions([]string{"auto"}, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "dev", env.completeLive(func(_ lb.State, attached interfaces) []string { return attached.names() }))
	return f
}

// parseMAC reads a MAC address, or "auto", which is the zero address.
func parseMAC(word string) ([6]byte, error) {
	if word == "auto" {
		return [6]byte{}, nil
	}
	return lb.ParseMAC(word)
}

// given says whether any of the flags was.
func (f *hopFlags) given() bool {
	flags := f.cmd.Flags()
	return flags.Changed("mac") || flags.Changed("dev") || flags.Changed("vlan")
}

// find returns the next hop that the flags say, or asks the segment for it.
func (f *hopFlags) find(env *environment, service lb.ServiceKey, addr netip.Addr, attached interfaces) (lb.NextHop, error) {
	hop, err := f.ask(env, service, addr, attached)
	if err == nil && hop.Local {
		err = env.warnOfVIP(service.Addr.Addr())
	}
	return hop, err
}

func (f *hopFlags) ask(env *environment, service lb.ServiceKey, addr netip.Addr, attached interfaces) (lb.NextHop, error) {
	if service.MustBeLocal(addr) && !f.given() {
		return lb.NextHop{Local: true}, nil
	}
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
	var found answer
	found.hop, found.err = neigh.Resolve(env.ctx, addr, candidates)
	return found.hop, found.takeLocal()
}

const (
	// findTimeout is how long all backends of a file together may take to answer: the kernel asks each for three
	// seconds, side by side.
	findTimeout = 5 * time.Second
	// findAtOnce bounds the sockets, and with --netns the threads, in use.
	findAtOnce = 128
)

// question asks for the next hop of a backend, on one attached interface or, if ifindex is 0, on all.
type question struct {
	addr    netip.Addr
	ifindex int
}

// answer is what came of a question.
type answer struct {
	hop lb.NextHop
	err error
}

// takeLocal makes an answer of the error that the address is the director's own. It returns any other.
func (a *answer) takeLocal() error {
	if errors.As(a.err, new(*neigh.OwnAddressError)) {
		*a = answer{hop: lb.NextHop{Local: true}}
	}
	return a.err
}

// warnOfLocal warns of services with local backends for whose connections the director has no address.
func (env *environment) warnOfLocal(state lb.State) error {
	warned := make(map[netip.Addr]bool)
	for i := range state.Services {
		vip := state.Services[i].Addr.Addr()
		isLocal := func(b lb.Backend) bool { return b.Hop.Local }
		if warned[vip] || !slices.ContainsFunc(state.Services[i].Backends, isLocal) {
			continue
		}
		warned[vip] = true
		if err := env.warnOfVIP(vip); err != nil {
			return err
		}
	}
	return nil
}

// warnOfVIP warns if the director, which is to serve connections to a VIP, does not have it.
func (env *environment) warnOfVIP(address netip.Addr) error {
	held, err := neigh.Addresses()
	if err != nil {
		return err
	}
	has := func(a neigh.Address) bool { return a.Prefix.Addr() == address }
	if !slices.ContainsFunc(held, has) {
		env.warn("this host does not have %s, and so cannot be a backend for it until it does: see \"xdplb vip add --help\"", address)
	}
	return nil
}

// findAll asks the segments for many backends side by side. Its own error is that of an interrupted command.
func (env *environment) findAll(questions []question, attached interfaces) ([]answer, error) {
	defer env.slow("waiting for backends to answer")()
	ctx, cancel := context.WithTimeout(env.ctx, findTimeout)
	defer cancel()
	answers := make([]answer, len(questions))
	var group errgroup.Group
	group.SetLimit(findAtOnce)
	for i, q := range questions {
		group.Go(env.concurrently(func() error {
			candidates := []int{q.ifindex}
			if q.ifindex == 0 {
				candidates = attached.indexes()
			}
			answers[i].hop, answers[i].err = neigh.Resolve(ctx, q.addr, candidates)
			return env.ctx.Err()
		}))
	}
	return answers, group.Wait()
}
