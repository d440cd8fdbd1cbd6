// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"xdplb/internal/lb"
)

func serviceCommand(env *environment) *cobra.Command {
	return noun(&cobra.Command{
		Use:   "service",
		Short: "Add, change, delete and list virtual services",
		Long: `A virtual service is what clients connect to: a VIP, a port and a protocol. Every command names it by ADDRESS:PORT
(an IPv6 address in brackets) and --protocol. Packets to a service are sent to its backends; packets to any other
address or port go to the director's own stack as if xdplb were not there.`,
	}, serviceAddCommand(env), serviceSetCommand(env), serviceDelCommand(env), serviceListCommand(env))
}

const schedulersHelp = `Schedulers:
  rr     round robin: each backend in turn, whatever the weights (but never one with weight 0)
  wrr    round robin in proportion to the weights
  lc     the backend with the fewest connections (an active one counts as much as 256 inactive ones)
  wlc    the same in proportion to the weights
  sed    the shortest expected delay: the fewest active connections and one in proportion to the weights
  nq     never queue: a backend without active connections, or else as sed
  fo     failover: the backend with the greatest weight
  ovf    overflow: the greatest weight of those that have no more active connections than their weight
  twos   the less loaded of two that are drawn in proportion to the weights
  sh     by a hash of the client's address: a client stays with its backend
  mh     by a Maglev hash of the client's address, without the port: like sh, but few clients move when backends change
  dh     by a hash of the VIP: one backend for all clients
  lblc   one backend for all clients, until it is overloaded and another is not
  lblcr  the same with a set of backends, which grows then and shrinks once a day`

func serviceAddCommand(env *environment) *cobra.Command {
	scheduler := lb.DefaultScheduler
	var (
		ports       portsFlag
		persistence persistenceFlags
		options     optionFlags
	)
	cmd := serviceVerb(env, &cobra.Command{
		Use:   "add ADDRESS:PORT",
		Short: "Add a service without backends",
		Long: `Add a service without backends. Port 0 means every port of the address that no other service of the protocol has;
only a persistent service can have it.

` + portsHelp + "\n\n" + persistenceHelp + "\n\n" + schedulersHelp + "\n\n" + optionsHelp,
		Example: `  xdplb service add 172.10.0.9:80
  xdplb service add 172.10.0.9:53 --protocol udp --scheduler wrr
  xdplb service add 172.10.0.9:0 --persistent=600 --netmask 24
  xdplb service add [2001:db8::64]:443 --scheduler mh
  xdplb service add 172.10.0.9 --port 8000-8099,443`,
	}, &scheduler, func(state *lb.State, key lb.ServiceKey) error {
		service := lb.Service{ServiceKey: key, Scheduler: scheduler}
		ports.edit(&service)
		if err := errors.Join(persistence.edit(&service), options.edit(&service, scheduler)); err != nil {
			return err
		}
		return state.AddService(service)
	})
	ports.add(cmd)
	persistence.add(cmd)
	options.add(cmd)
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return run(cmd, []string{ports.complete(args[0])}) }
	return cmd
}

func serviceSetCommand(env *environment) *cobra.Command {
	scheduler := lb.DefaultScheduler
	var (
		ports       portsFlag
		persistence persistenceFlags
		options     optionFlags
		cmd         *cobra.Command
	)
	cmd = serviceVerb(env, &cobra.Command{
		Use:   "set ADDRESS:PORT [--scheduler NAME] [--port PORTS] [--persistent=SECONDS] ...",
		Short: "Change a service's scheduler, ports, persistence or options",
		Long: `Change a service's scheduler, ports, persistence or options. What is not given stays as it is, but a scheduler's
flags go when another scheduler comes. Existing connections stay with their backends, unless their port is taken
away.

` + portsHelp + "\n\n" + persistenceHelp + "\n\n" + schedulersHelp + "\n\n" + optionsHelp,
		Example: `  xdplb service set 172.10.0.9:80 --scheduler wrr
  xdplb service set 172.10.0.9:80 --scheduler sh --sched-flags sh-port,sh-fallback
  xdplb service set 172.10.0.9:80 --port 80,8080-8089
  xdplb service set 172.10.0.9:80 --port 80
  xdplb service set 172.10.0.9:80 --persistent=600 --expire-quiescent
  xdplb service set 172.10.0.9:80 --persistent=0
  xdplb service set 172.10.0.9:80 --on-removal keep`,
	}, &scheduler, func(state *lb.State, key lb.ServiceKey) error {
		return state.SetService(key, func(service *lb.Service) error {
			before := service.Scheduler
			if cmd.Flags().Changed("scheduler") {
				service.Scheduler = scheduler
			}
			ports.edit(service)
			return errors.Join(persistence.edit(service), options.edit(service, before))
		})
	})
	cmd.Flags().Lookup("scheduler").DefValue = ""
	ports.add(cmd)
	persistence.add(cmd)
	options.add(cmd)
	requireAnyFlag(cmd, "scheduler", "port", "persistent", "netmask", "expire-quiescent", "sched-flags", "one-packet", "on-removal")
	return cmd
}

func serviceDelCommand(env *environment) *cobra.Command {
	return serviceVerb(env, &cobra.Command{
		Use:     "del ADDRESS:PORT",
		Aliases: []string{"delete"},
		Short:   "Delete a service and its backends",
		Long: `Delete a service and its backends. Packets for it, also those of existing connections, go to the director's own stack
from then on.`,
		Example: `  xdplb service del 172.10.0.9:80`,
	}, nil, (*lb.State).DeleteService)
}

// serviceVerb completes a command that edits the one service that its argument names; it has the flag --scheduler if
// scheduler is not nil.
func serviceVerb(env *environment, cmd *cobra.Command, scheduler *lb.Scheduler, edit func(*lb.State, lb.ServiceKey) error) *cobra.Command {
	var protocol string
	cmd.Args = takes("ADDRESS:PORT")
	cmd.ValidArgsFunction = env.completeLive(serviceNames)
	cmd.RunE = env.action(func(args []string) error {
		key, err := lb.ParseServiceKey(args[0], protocol)
		if err != nil {
			return usage(err)
		}
		return env.changeService(serviceChoice{key, true}, func(state *lb.State) error { return edit(state, key) })
	})
	protocolFlag(cmd, &protocol)
	if scheduler != nil {
		parsedVar(cmd.Flags(), scheduler, "scheduler", "NAME", scheduler.String(), "how backends are chosen, see above", lb.ParseScheduler)
		var names []string
		for _, s := range lb.Schedulers() {
			names = append(names, s.String())
		}
		completeFlag(cmd, "scheduler", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

func protocolFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "protocol", "tcp", "the service's `PROTOCOL`, tcp, udp or sctp")
	completeFlag(cmd, "protocol", cobra.FixedCompletions([]string{"tcp", "udp", "sctp"}, cobra.ShellCompDirectiveNoFileComp))
}

func serviceListCommand(env *environment) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the services",
		Long:    `List the services. "xdplb list" lists them with their backends and connections.`,
		Example: `  xdplb service list --json`,
		Args:    takes(),
		RunE: env.action(func([]string) error {
			state, attached, err := env.snapshot()
			if err != nil {
				return err
			}
			if asJSON {
				return env.json(serviceViews(state, attached))
			}
			rows := [][]string{{"PROTOCOL", "SERVICE", "PORTS", "SCHEDULER", "PERSISTENT", "BACKENDS"}}
			for _, s := range state.Services {
				rows = append(rows, []string{
					s.Protocol.String(), s.Addr.String(), portsText(s), s.Scheduler.String(), persistenceText(s),
					strconv.Itoa(len(s.Backends)),
				})
			}
			return env.table(rows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func jsonFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "print JSON")
}

// serviceFlags are --service and --protocol, with which a command about backends names their service.
type serviceFlags struct {
	cmd               *cobra.Command
	service, protocol string
}

func newServiceFlags(env *environment, cmd *cobra.Command) *serviceFlags {
	f := &serviceFlags{cmd: cmd}
	cmd.Flags().StringVar(&f.service, "service", "", "the service, `ADDRESS:PORT`; not needed while there is only one")
	completeFlag(cmd, "service", env.completeLive(serviceNames))
	protocolFlag(cmd, &f.protocol)
	return f
}

// parse reads the flags, without looking at the machine.
func (f *serviceFlags) parse() (serviceChoice, error) {
	if f.service == "" {
		if f.cmd.Flags().Changed("protocol") {
			return serviceChoice{}, usagef("--protocol names a service together with --service, which is missing")
		}
		return serviceChoice{}, nil
	}
	key, err := lb.ParseServiceKey(f.service, f.protocol)
	return serviceChoice{key, true}, usage(err)
}

// serviceChoice is the service that was named, or the only one there is.
type serviceChoice struct {
	key   lb.ServiceKey
	named bool
}

// in finds the service in a state.
func (c serviceChoice) in(state *lb.State) (*lb.Service, error) {
	switch {
	case c.named:
		service, ok := state.Service(c.key)
		if !ok {
			return nil, withHint(fmt.Errorf("service %s %w", c.key, lb.ErrNotFound), "xdplb service add "+words(c.key))
		}
		return service, nil
	case len(state.Services) == 0:
		return nil, withHint(errors.New("there is no service yet"), "add one first: xdplb service add ADDRESS:PORT")
	case len(state.Services) > 1:
		return nil, withHint(fmt.Errorf("there are %d services: %s", len(state.Services), enumerate(state.Services)), "say which one: --service ADDRESS:PORT [--protocol udp]")
	}
	return &state.Services[0], nil
}

// enumerate names the first services of a list, all if they are few.
func enumerate(services []lb.Service) string {
	const most = 10
	var names []string
	for _, s := range services[:min(most, len(services))] {
		names = append(names, s.ServiceKey.String())
	}
	if len(services) > most {
		names = append(names, "...")
	}
	return strings.Join(names, ", ")
}

// words names a service as it is typed.
func words(key lb.ServiceKey) string {
	if key.Protocol == lb.TCP {
		return key.Addr.String()
	}
	return key.Addr.String() + " --protocol " + key.Protocol.String()
}
