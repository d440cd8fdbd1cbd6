// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

func detachCommand(env *environment) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "detach INTERFACE | --all",
		Short: "Take the XDP program off an interface",
		Long: `Take the XDP program off an interface: its packets go to the director's own stack again. The configuration stays,
also when it was the last interface.

With --all, take it off all interfaces and remove the pinned maps, and with them services, backends, connections and
counters.`,
		Example: `  xdplb detach eth0
  xdplb save > /etc/xdplb.rules && xdplb detach --all`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return takes()(cmd, args)
			}
			return takes("INTERFACE")(cmd, args)
		},
		ValidArgsFunction: env.completeLive(func(_ lb.State, attached interfaces) []string { return attached.names() }),
		RunE: env.action(func(args []string) error {
			if all {
				return nothingToDetach(datapath.DetachAll(env.pinDir))
			}
			return nothingToDetach(noInterface(args[0], datapath.Detach(env.pinDir, args[0])))
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "detach all interfaces and remove the pinned maps")
	return cmd
}

// nothingToDetach keeps the hint to attach first from who wants to detach; nil and other errors stay as they are.
func nothingToDetach(err error) error {
	if errors.Is(err, datapath.ErrNotAttached) {
		return withoutHint(err)
	}
	return err
}
