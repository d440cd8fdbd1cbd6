// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"xdplb/internal/lb"
)

func flushCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "flush",
		Short: "Delete all services and their backends",
		Long: `Delete all services and their backends, in one step. Packets for them go to the director's own stack from then on. The
interfaces stay attached, and timeouts stay as they are.`,
		Example: `  xdplb flush`,
		Args:    takes(),
		RunE: env.action(func([]string) error {
			return env.change(func(state *lb.State) error {
				state.Services = nil
				return nil
			})
		}),
	}
}
