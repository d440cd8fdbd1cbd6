// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"xdplb/internal/lb"
)

func backendCommand(env *environment) *cobra.Command {
	return noun(&cobra.Command{
		Use:   "backend",
		Short: "Add, change, delete and list the backends of a service",
		Long: `A backend is a real server of one service, named by its own address (RIP). It has no port: direct routing leaves
packets as they are, so a real server listens on the service's port, at the VIP.

--service can be left out while there is only one service.`,
	}, backendAddCommand(env), backendSetCommand(env), backendDelCommand(env), backendListCommand(env))
}

func backendAddCommand(env *environment) *cobra.Command {
	columns := backendColumns{weight: 1}
	cmd := &cobra.Command{
		Use:   "add ADDRESS",
		Short: "Add a backend to a service",
		Long: `Add a backend to a service. New connections go to it at once.

Its MAC address and interface come from the kernel's neighbour table, or else from asking the segment. A backend that
does not answer, or is not on a directly connected network of an attached interface, is refused; --mac, --dev and
--vlan override.

A backend whose address is one of the director's own (the VIP, a loopback address, or any other) is the director
itself: its connections go to the host's own stack, which must have the VIP ("xdplb vip add").`,
		Example: `  xdplb backend add 192.168.60.8
  xdplb backend add 192.168.60.9 --service 172.10.0.9:80 --weight 3
  xdplb backend add 192.168.60.9 --upper 1000 --lower 800
  xdplb backend add 2001:db8::8 --service [2001:db8::64]:443
  xdplb backend add 192.168.60.7 --mac 02:00:00:00:00:07 --dev eth0 --vlan 60`,
	}
	hop := newHopFlags(env, cmd)
	return backendVerb(env, cmd, &columns, func(where target) error {
		state, attached, err := env.snapshot()
		if err != nil {
			return err
		}
		backend := lb.Backend{Addr: where.addr, Weight: columns.weight, Upper: columns.upper, Lower: columns.lower}
		add := func(state *lb.State) error {
			key, err := where.in(state)
			if err != nil {
				return err
			}
			return state.AddBackend(key, backend)
		}
		// Refuse what can be refused before the segment is asked, and that before the lock is taken.
		if err := add(&state); err != nil {
			return err
		}
		key, err := where.in(&state)
		if err != nil {
			return err
		}
		if backend.Hop, err = hop.find(env, key, where.addr, attached); err != nil {
			return err
		}
		return env.changeService(where.serviceChoice, add)
	})
}

func backendSetCommand(env *environment) *cobra.Command {
	columns := backendColumns{weight: 1}
	cmd := &cobra.Command{
		Use:   "set ADDRESS",
		Short: "Change a backend, or find its MAC address again",
		Long: `Change a backend. Its connections stay with it. With --weight 0 it gets no new ones (it is "quiesced"); --upper
limits how many it has.

Without flags, find its MAC address and interface again, as "add" does; if the MAC address was given by hand, --mac
auto does that.`,
		Example: `  xdplb backend set 192.168.60.9 --weight 0
  xdplb backend set 192.168.60.9 --upper 1000
  xdplb backend set 192.168.60.9`,
	}
	hop := newHopFlags(env, cmd)
	return backendVerb(env, cmd, &columns, func(where target) error {
		setHop := hop.given() || !columns.given(cmd.Flags())
		var found lb.NextHop
		if setHop {
			state, attached, err := env.snapshot()
			if err != nil {
				return err
			}
			backend, err := where.backend(&state)
			if err != nil {
				return err
			}
			if backend.Hop.Static && !hop.given() {
				return withHint(fmt.Errorf("backend %s was given its MAC address by hand", where.addr), "to find it on the segment: --mac auto")
			}
			key, err := where.in(&state)
			if err != nil {
				return err
			}
			if found, err = hop.find(env, key, where.addr, attached); err != nil {
				return err
			}
		}
		return env.changeService(where.serviceChoice, func(state *lb.State) error {
			key, err := where.in(state)
			if err != nil {
				return err
			}
			return state.SetBackend(key, where.addr, func(backend *lb.Backend) error {
				columns.set(cmd.Flags(), backend)
				if setHop {
					backend.Hop = found
				}
				return nil
			})
		})
	})
}

func backendDelCommand(env *environment) *cobra.Command {
	return backendVerb(env, &cobra.Command{
		Use:     "del ADDRESS",
		Aliases: []string{"delete"},
		Short:   "Delete a backend from a service",
		Long: `Delete a backend from a service. It gets nothing more, and its connections break. To let them end first, set its
weight to 0 and wait; or let the service keep them ("xdplb service set --on-removal keep"): they go on until they time
out, and a backend that is added again meanwhile gets them back.`,
		Example: `  xdplb backend del 192.168.60.9`,
	}, nil, func(where target) error {
		return env.changeService(where.serviceChoice, func(state *lb.State) error {
			key, err := where.in(state)
			if err != nil {
				return err
			}
			return state.DeleteBackend(key, where.addr)
		})
	})
}

// backendColumns are what flags say of a backend beside its next hop.
type backendColumns struct {
	weight, upper, lower uint32
}

func (c *backendColumns) register(flags *pflag.FlagSet) {
	parsedVar(flags, &c.weight, "weight", "N", strconv.FormatUint(uint64(c.weight), 10),
		"share of new connections, 0 to 2147483647; 0: none", lb.ParseWeight)
	parsedVar(flags, &c.upper, "upper", "N", "",
		"no new connections once it has `N`, active and inactive; 0: no limit", lb.ParseThreshold)
	parsedVar(flags, &c.lower, "lower", "N", "",
		"new ones again once it has fewer than `N`; 0: three quarters of --upper", lb.ParseThreshold)
}

func (c *backendColumns) given(flags *pflag.FlagSet) bool {
	return flags.Changed("weight") || flags.Changed("upper") || flags.Changed("lower")
}

// set changes what was given. Without a limit there is no lower threshold either.
func (c *backendColumns) set(flags *pflag.FlagSet, backend *lb.Backend) {
	if flags.Changed("weight") {
		backend.Weight = c.weight
	}
	if flags.Changed("upper") {
		backend.Upper = c.upper
		if c.upper == 0 {
			backend.Lower = 0
		}
	}
	if flags.Changed("lower") {
		backend.Lower = c.lower
	}
}

// backendVerb completes a command about the one backend that its argument and --service name; it has flags for the
// columns if they are not nil.
func backendVerb(env *environment, cmd *cobra.Command, columns *backendColumns, do func(target) error) *cobra.Command {
	service := newServiceFlags(env, cmd)
	if columns != nil {
		columns.register(cmd.Flags())
	}
	cmd.Args = takes("ADDRESS")
	cmd.ValidArgsFunction = env.completeLive(backendNames)
	cmd.RunE = env.action(func(args []string) error {
		where, err := parseTarget(args[0])
		if err != nil {
			return usage(err)
		}
		if where.serviceChoice, err = service.parse(); err != nil {
			return err
		}
		return do(where)
	})
	return cmd
}

// target names a backend on the command line: ADDRESS, or ADDRESS:PORT, and its service.
type target struct {
	addr netip.Addr
	port *uint16 // nil: not given
	serviceChoice
}

func parseTarget(word string) (target, error) {
	var t target
	if addrPort, err := netip.ParseAddrPort(word); err == nil {
		port := addrPort.Port()
		t.port, word = &port, addrPort.Addr().String()
	}
	var err error
	t.addr, err = lb.ParseBackendAddr(word)
	return t, err
}

// in finds the service of the backend, which must have the backend's port, if that was given.
func (t target) in(state *lb.State) (lb.ServiceKey, error) {
	service, err := t.serviceChoice.in(state)
	if err != nil {
		return lb.ServiceKey{}, err
	}
	if port := service.Addr.Port(); t.port != nil && *t.port != port {
		return lb.ServiceKey{}, withHint(
			fmt.Errorf("backend %s cannot have port %d: the service is %s, and direct routing does not translate ports", t.addr, *t.port, service.ServiceKey),
			fmt.Sprintf("let the real server listen on port %d, or add a service with port %d", port, *t.port))
	}
	return service.ServiceKey, nil
}

// backend finds the backend itself.
func (t target) backend(state *lb.State) (lb.Backend, error) {
	key, err := t.in(state)
	if err != nil {
		return lb.Backend{}, err
	}
	var found lb.Backend
	err = state.SetBackend(key, t.addr, func(backend *lb.Backend) error {
		found = *backend
		return nil
	})
	return found, err
}

func backendListCommand(env *environment) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List backends and where their packets are sent",
		Long: `List the backends of one service, or of all, and where their packets are sent. A MAC address "by hand" was given with
--mac; a backend whose MAC address is "unknown" gets no new connections; a "local" one is the director itself.`,
		Example: `  xdplb backend list
  xdplb backend list --service 172.10.0.9:80 --json`,
		Args: takes(),
	}
	service := newServiceFlags(env, cmd)
	jsonFlag(cmd, &asJSON)
	cmd.RunE = env.action(func([]string) error {
		choice, err := service.parse()
		if err != nil {
			return err
		}
		state, attached, err := env.snapshot()
		if err != nil {
			return err
		}
		if choice.named {
			only, err := choice.in(&state)
			if err != nil {
				return err
			}
			state.Services = []lb.Service{*only}
		}
		if asJSON {
			return env.json(backendViews(state, attached))
		}
		rows := [][]string{{"SERVICE", "BACKEND", "WEIGHT", "INTERFACE", "VLAN", "MAC", "FOUND"}}
		for _, view := range backendViews(state, attached) {
			rows = append(rows, view.row())
		}
		return env.table(rows)
	})
	return cmd
}
