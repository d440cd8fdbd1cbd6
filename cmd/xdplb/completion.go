// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"slices"

	"github.com/spf13/cobra"

	"xdplb/internal/lb"
)

// completeLive completes one argument, or a flag, with what pick finds in the live state. It is silent about errors: a
// shell that waits for a completion has no place for them.
func (env *environment) completeLive(pick func(lb.State, interfaces) []string) cobra.CompletionFunc {
	return env.complete(func() []string {
		state, attached, err := env.snapshot()
		if err != nil {
			return nil
		}
		return pick(state, attached)
	})
}

// completeHostInterfaces completes one argument with the interfaces of the host, or of the network namespace.
func (env *environment) completeHostInterfaces() cobra.CompletionFunc {
	return env.complete(func() []string {
		var names []string
		list, err := net.Interfaces()
		if err != nil {
			return nil
		}
		for _, i := range list {
			if i.Flags&net.FlagLoopback == 0 {
				names = append(names, i.Name)
			}
		}
		return names
	})
}

func (env *environment) complete(list func() []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if env.netns != "" && enterNamespace(env.netns) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return list(), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag gives a flag its completion.
func completeFlag(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	// A flag's completion does not depend on the arguments before it.
	ignoreArgs := func(cmd *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return complete(cmd, nil, word)
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, ignoreArgs); err != nil {
		panic(err) // there is no such flag: a mistake in this program
	}
}

// serviceNames lists the services as the command line names them.
func serviceNames(state lb.State, _ interfaces) []string {
	var names []string
	for _, service := range state.Services {
		if name := service.Addr.String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// backendNames lists the addresses of all backends, each once.
func backendNames(state lb.State, _ interfaces) []string {
	var names []string
	for _, service := range state.Services {
		for _, backend := range service.Backends {
			names = append(names, backend.Addr.String())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
