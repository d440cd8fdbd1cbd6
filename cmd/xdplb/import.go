// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"xdplb/internal/datapath"
	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

func importCommand(env *environment) *cobra.Command {
	return noun(&cobra.Command{
		Use:   "import",
		Short: "Take over from another load balancer",
		Long:  `Take over the services and the live connections of another load balancer.`,
	}, importIPVSCommand(env))
}

func importIPVSCommand(env *environment) *cobra.Command {
	var (
		sources importSources
		dryRun  bool
	)
	cmd := &cobra.Command{
		Use:   "ipvs [--rules FILE] [--connections FILE] [--dry-run]",
		Short: "Take over the services and the live connections of an LVS",
		Long: `Take over the services and the live connections of an LVS in direct-routing mode, by default of the one that runs on
this host. What is imported is added to what there is; a service that exists already becomes what LVS has.

Each line is printed with what becomes of it: taken, approximated (with the difference), left out (a connection that
is over, or whose service is not imported: nothing is lost) or refused. Connections and persistence templates that
are taken are only counted. If any line is refused, nothing is changed: take it out of the file, and LVS keeps that
service or connection as long as it runs.

Everything is applied at once. From then on, packets of an imported connection go to the same real server as before,
but past LVS, and new connections are xdplb's. Everything else goes on through LVS, such as a connection to an rr or
wrr service that LVS has opened meanwhile. To end the take-over, clear LVS: ipvsadm -C.

A running LVS does not show scheduler flags: if there are any, give --rules. Thresholds and timeouts are in neither: set
them again.`,
		Example: `  xdplb attach eth0
  xdplb import ipvs --dry-run
  xdplb import ipvs && ipvsadm -C

  ipvsadm -S -n | xdplb import ipvs --rules - --connections /proc/net/ip_vs_conn`,
		Args: takes(),
		RunE: env.action(func([]string) error { return env.importIPVS(sources, dryRun) }),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&sources.rules, "rules", "", "take services from a `FILE` as ipvsadm -S -n writes it; \"-\" is standard input")
	flags.StringVar(&sources.connections, "connections", "",
		"take connections from a `FILE` as ipvsadm -L -n -c prints it, or as /proc/net/ip_vs_conn is")
	flags.BoolVar(&dryRun, "dry-run", false, "print what would become of each line, and what would change; change nothing")
	return cmd
}

// importSources are the names of files, "" if not given. With neither it is the running LVS.
type importSources struct{ rules, connections string }

func (s importSources) live() bool { return s == importSources{} }

// The running LVS, as users know its files. They are opened in the thread's network namespace.
const (
	procRules       = "/proc/net/ip_vs"
	procConnections = "/proc/net/ip_vs_conn"
)

// openLVS opens a source: the file that was given, or the running LVS's.
func (env *environment) openLVS(given, proc string) (io.ReadCloser, string, error) {
	if given != "" && given != proc {
		return env.open(given)
	}
	file, err := os.Open(strings.Replace(proc, "/proc/net", "/proc/thread-self/net", 1))
	if errors.Is(err, fs.ErrNotExist) {
		err = withHint(fmt.Errorf("no LVS runs here: there is no %s", proc), "to import another host's, give --rules and --connections")
	}
	return file, proc, err
}

// importIPVS judges both sources before it changes anything.
func (env *environment) importIPVS(sources importSources, dryRun bool) error {
	current, attached, err := env.snapshot()
	if err != nil {
		return err
	}
	refused := 0
	var services lb.State // that are imported
	if sources.rules != "" || sources.live() {
		if services, refused, err = env.importRules(sources.rules); err != nil {
			return err
		}
	}
	keepHops(services, current, false)
	if err := env.findHops(services, attached); err != nil {
		return err
	}
	merged := current.Clone()
	if err := mergeServices(&merged, services); err != nil {
		return err
	}
	var found importedConnections
	if sources.connections != "" || sources.live() {
		// As late as can be: what LVS opens after this is not taken over.
		if found, err = env.importConnections(sources.connections, &merged); err != nil {
			return err
		}
		refused += found.refused
	}
	edit := func(state *lb.State) error { return mergeServices(state, services) }
	switch {
	case refused > 0 && !dryRun:
		return fmt.Errorf("nothing was changed; refused lines: %d", refused)
	case dryRun:
		return env.printPlan(edit, refused)
	}
	return env.takeOver(edit, found, sources.live())
}

// printPlan prints what an import would change.
func (env *environment) printPlan(edit func(*lb.State) error, refused int) error {
	if refused > 0 {
		return fmt.Errorf("nothing would be changed; refused lines: %d", refused)
	}
	plan, err := datapath.DryRun(env.pinDir, edit)
	if err != nil {
		return err
	}
	for _, change := range plan.Changes {
		fmt.Fprintln(env.stdout, change)
	}
	return nil
}

// takeOver does the import. What a running LVS has opened since its connections were read is taken over behind it: LVS
// opens no more of them then.
func (env *environment) takeOver(edit func(*lb.State) error, found importedConnections, again bool) error {
	defer env.slow("changing the tables; another xdplb may be at it")()
	_, done, err := datapath.TakeOver(env.pinDir, edit, found.connections)
	if err != nil {
		return err
	}
	env.warnNoRoom(done)
	if !again {
		return nil
	}
	state, _, err := env.snapshot()
	if err != nil {
		return err
	}
	late, err := env.readConnections("", &state, func(ipvsadm.Judgement) {})
	if err != nil {
		return err
	}
	_, done, err = datapath.TakeOver(env.pinDir, func(*lb.State) error { return nil }, late.connections)
	if err == nil {
		env.warnNoRoom(done)
	}
	return err
}

func (env *environment) warnNoRoom(done datapath.Adoption) {
	if done.NoRoom > 0 {
		env.warn("%d connections found no room: attach with more --flows to take them all over", done.NoRoom)
	}
}

// importRules reads the services, and prints what becomes of each line.
func (env *environment) importRules(given string) (state lb.State, refused int, err error) {
	file, name, err := env.openLVS(given, procRules)
	if err != nil {
		return lb.State{}, 0, err
	}
	defer file.Close()
	var rules io.Reader = file
	if name == procRules {
		text, err := ipvsadm.SaveProc(file, kernelTick())
		if err != nil {
			return lb.State{}, 0, fmt.Errorf("reading %s: %w", name, err)
		}
		rules = strings.NewReader(text)
	}
	err = ipvsadm.JudgeRules(rules, env.resolver(), &state, func(j ipvsadm.Judgement) {
		fmt.Fprintf(env.stdout, "%s:%s\n", name, j)
		if j.Verdict == ipvsadm.Refused {
			refused++
		}
	})
	if err != nil {
		return lb.State{}, 0, fmt.Errorf("reading %s: %w", name, err)
	}
	return state, refused, nil
}

// kernelTick is the length of the kernel's ticks (1 s / CONFIG_HZ), which is how far its coarse clocks advance at once.
func kernelTick() time.Duration {
	var resolution unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &resolution); err != nil {
		return 0 // no kernel that has IPVS
	}
	return time.Duration(resolution.Nano())
}

// mergeServices makes services what they are in another state, and adds those that are not there.
func mergeServices(state *lb.State, from lb.State) error {
	if from.Timeouts != (lb.Timeouts{}) {
		state.Timeouts = from.Timeouts
	}
	all := make([]lb.Service, 0, len(state.Services)+len(from.Services))
	for _, s := range state.Services {
		if _, replaced := from.Service(s.ServiceKey); !replaced {
			all = append(all, s)
		}
	}
	merged, err := lb.NewState(append(all, from.Clone().Services...))
	if err != nil {
		return err
	}
	state.Services = merged.Services
	return nil
}
