// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"

	"xdplb/internal/datapath"
	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

// ipvsadm's exit statuses for what is wrong beside the words: see ipvsadm.Failure.
const (
	exitNoKernel = 2   // "Can't initialize ipvs"
	exitRefused  = 255 // the kernel refuses
)

// personality finds the tool of LVS's whose name xdplb was called by, through a link. It returns nil if there is none.
func personality(program string) func(env *environment, words []string) error {
	switch filepath.Base(program) {
	case "ipvsadm":
		return (*environment).ipvsadm
	case "ipvsadm-save":
		return (*environment).ipvsadmSave
	case "ipvsadm-restore":
		return (*environment).ipvsadmRestore
	}
	return nil
}

// runAsLVS runs one of LVS's tools. Its messages begin with no name, since theirs do not.
func (env *environment) runAsLVS(tool func(*environment, []string) error, words []string) int {
	err := env.stdout.Check(tool(env, words))
	if err == nil {
		return exitDone
	}
	var failure *ipvsadm.Failure
	if errors.As(err, &failure) {
		fmt.Fprintln(env.stderr, failure.Text)
		var line *ipvsadm.LineError
		if errors.As(err, &line) {
			fmt.Fprintf(env.stderr, "nothing was changed: line %d is wrong: %s\n", line.Line, line.Text)
		}
		return failure.Status
	}
	status := exitRefused
	if noKernel(err) {
		status = exitNoKernel
		fmt.Fprint(env.stderr, "Can't initialize ipvs: ")
	}
	fmt.Fprintln(env.stderr, err)
	if text := hint(err); text != "" {
		fmt.Fprintf(env.stderr, "hint: %s\n", text)
	}
	return status
}

// noKernel says whether it is as if the kernel had no IPVS, or did not let one near it.
func noKernel(err error) bool {
	return errors.Is(err, datapath.ErrNotAttached) || errors.Is(err, fs.ErrPermission) ||
		errors.As(err, new(*datapath.CapabilityError)) || errors.As(err, new(*datapath.FilesystemError)) ||
		errors.As(err, new(*datapath.SchemaError))
}

// ipvsadm does a command line of ipvsadm's; the first word is the program's name.
func (env *environment) ipvsadm(words []string) error {
	command, err := ipvsadm.ParseCommand(words, env.resolver())
	if err != nil {
		return err
	}
	switch command.Verb {
	case ipvsadm.VerbHelp:
		_, err = fmt.Fprint(env.stdout, ipvsadm.Usage(words[0]))
	case ipvsadm.VerbVersion:
		_, err = fmt.Fprint(env.stdout, ipvsadm.VersionLine)
	case ipvsadm.VerbRestore:
		err = env.restoreRules(words[0], false)
	case ipvsadm.VerbList, ipvsadm.VerbSave:
		err = env.printAsLVS(command)
	default:
		err = env.editAsLVS(command.Edit, command.Zeroed)
	}
	return err
}

// ipvsadmSave is the script ipvsadm-save: "-n" is its only option, and other words count for nothing.
func (env *environment) ipvsadmSave(words []string) error {
	command := []string{"ipvsadm", "-S"}
	for _, word := range words[1:] {
		switch {
		case word == "-n":
			command = []string{"ipvsadm", "-S", "-n"}
		case strings.HasPrefix(word, "-"):
			return &ipvsadm.Failure{Status: exitFailed, Text: filepath.Base(words[0]) +
				": Script to save the IPVS table to stdout.\n" +
				"   With the -n option, prints out the table in numeric format."}
		}
	}
	return env.ipvsadm(command)
}

// ipvsadmRestore is the script ipvsadm-restore, which first clears the table. Here both are one change.
func (env *environment) ipvsadmRestore([]string) error {
	return env.restoreRules("ipvsadm", true)
}

// restoreRules does the commands on standard input, all or none.
func (env *environment) restoreRules(program string, clear bool) error {
	rules, err := ipvsadm.ParseRules(env.stdin, program, env.resolver())
	if err != nil {
		return err
	}
	return env.editAsLVS(func(state *lb.State) ([]string, error) {
		if clear {
			state.Services = nil
		}
		return rules.Edit(state)
	}, rules.Zeroed)
}

// editAsLVS changes the live state by a function that may be called several times, and then zeroes the counters of the
// services that zeroed picks of the result. New backends are asked for on the segment before, without the lock.
func (env *environment) editAsLVS(edit func(*lb.State) ([]string, error), zeroed func(lb.State) []lb.ServiceKey) error {
	current, attached, err := env.snapshot()
	if err != nil {
		return err
	}
	found := current.Clone()
	warnings, err := edit(&found)
	if err != nil {
		return err
	}
	found = newBackends(found, current)
	if err := env.findHops(found, attached); err != nil {
		return err
	}
	var zero []lb.ServiceKey
	err = env.change(func(state *lb.State) error {
		before := state.Clone()
		if warnings, err = edit(state); err != nil {
			return err
		}
		keepHops(*state, before, false)
		keepHops(*state, found, false)
		zero = zeroed(*state)
		return nil
	})
	if err == nil && len(zero) > 0 {
		err = datapath.Zero(env.pinDir, zero...)
	}
	if err != nil {
		return err
	}
	for _, warning := range warnings {
		env.warn("%s", warning)
	}
	return nil
}

// newBackends is a state without the backends that are in another.
func newBackends(state, other lb.State) lb.State {
	added := lb.State{}
	for _, service := range state.Services {
		before, ok := other.Service(service.ServiceKey)
		backends := service.Backends
		service.Backends = nil
		for _, b := range backends {
			if ok {
				if _, was := before.Backend(b.Addr); was {
					continue
				}
			}
			service.Backends = append(service.Backends, b)
		}
		added.Services = append(added.Services, service)
	}
	return added
}

// printAsLVS prints what a List or Save command asks for.
func (env *environment) printAsLVS(command ipvsadm.Command) error {
	if command.Verb == ipvsadm.VerbList && command.Listing.Subject == ipvsadm.TableOfConns {
		return env.listConnections(command.Listing.Numeric, command.Listing.PEColumns, &connectionFilter{})
	}
	now, err := env.readAsLVS(command)
	if err != nil {
		return err
	}
	env.warnOfExtensions(command, now.state)
	view := now.lvsView()
	if !command.Listing.Numeric && command.Listing.Subject == ipvsadm.Table { // which is a Save's too
		names := env.lookUpNames(now.state)
		view.Host, view.Port = names.host, names.port
	}
	return command.Print(env.stdout, view)
}

// warnOfExtensions tells of services that have what LVS has no words for.
func (env *environment) warnOfExtensions(command ipvsadm.Command, state lb.State) {
	for i := range state.Services {
		service := &state.Services[i]
		if command.Named && command.Service.ServiceKey != service.ServiceKey {
			continue
		}
		saves := command.Verb == ipvsadm.VerbSave
		switch {
		case service.Ports == "":
		case saves:
			env.warn("%s has the ports %s: only xdplb's restore understands its option --port", service.ServiceKey, service.Ports)
		default:
			env.warn("%s has the ports %s, which ipvsadm has no words for", service.ServiceKey, service.Ports)
		}
		if saves && service.OnRemoval != lb.Reschedule {
			env.warn("%s keeps the connections of removed backends: only xdplb's restore understands its option --on-removal", service.ServiceKey)
		}
	}
}

// readAsLVS reads as much as the command prints.
func (env *environment) readAsLVS(command ipvsadm.Command) (reading, error) {
	switch {
	case command.Verb == ipvsadm.VerbSave || command.Listing.Subject != ipvsadm.Table:
		state, _, err := env.snapshot()
		return reading{state: state}, err
	case command.Listing.Columns == ipvsadm.Stats:
		return env.read((*datapath.Datapath).Counters)
	case command.Listing.Columns == ipvsadm.Rate:
		return env.readRates()
	}
	return env.read((*datapath.Datapath).Stats)
}

// lvsView is a reading as the ipvsadm package prints it.
func (r reading) lvsView() ipvsadm.View {
	return ipvsadm.View{
		State: r.state,
		Size:  connectionTableSize,
		Service: func(key lb.ServiceKey) ipvsadm.Numbers {
			return numbers(datapath.BackendStats{Counters: r.traffic[key].Counters})
		},
		Backend: func(key lb.ServiceKey, addr netip.Addr) ipvsadm.Numbers {
			return numbers(r.traffic[key].Backends[addr])
		},
	}
}
