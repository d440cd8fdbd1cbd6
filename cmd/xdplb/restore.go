// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"xdplb/internal/datapath"
	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

func restoreCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "restore [FILE]",
		Short: "Replace the configuration by a saved one",
		Long: `Replace the whole configuration by one in the format of "ipvsadm -S -n", from a file or standard input:
services in direct-routing mode (-g), and timeouts, which are LVS's defaults if there is no --set. Anything else is
refused with its line number, before anything is changed.

Every packet meets the old configuration or the new one. Backends that stay keep their connections. A backend that
does not answer for its MAC address is warned about and gets no connections.`,
		Example: `  xdplb restore < /etc/xdplb.rules
  ssh old-director ipvsadm -S -n | xdplb restore`,
		Args: takes("[FILE]"),
		RunE: env.action(func(args []string) error {
			name := "-"
			if len(args) > 0 {
				name = args[0]
			}
			file, name, err := env.open(name)
			if err != nil {
				return err
			}
			defer file.Close()
			wanted, err := env.readRules(file)
			if err != nil {
				return withoutHint(fmt.Errorf("%s: %w", name, err)) // about the file, not about what there is
			}
			_, err = env.replace(wanted, false, datapath.Change)
			return err
		}),
	}
}

// readRules does saved commands to an empty state.
func (env *environment) readRules(file io.Reader) (state lb.State, err error) {
	rules, err := ipvsadm.ParseRules(file, "ipvsadm", env.resolver())
	if err != nil {
		return lb.State{}, err
	}
	warnings, err := rules.Edit(&state)
	for _, warning := range warnings {
		env.warn("%s", warning)
	}
	return state, err
}

// open opens a file that a command line names, and returns what to call it in errors; "-" is standard input.
func (env *environment) open(name string) (io.ReadCloser, string, error) {
	if name == "-" {
		return io.NopCloser(env.stdin), "standard input", nil
	}
	file, err := os.Open(name)
	return file, name, err
}
