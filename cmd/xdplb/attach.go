// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"xdplb/internal/datapath"
)

func attachCommand(env *environment) *cobra.Command {
	mode := datapath.Auto
	var capacity datapath.Capacity
	cmd := &cobra.Command{
		Use:   "attach INTERFACE",
		Short: "Attach the XDP program to an interface",
		Long: `Attach the XDP program to an interface. The first attach loads the program and creates the pinned maps, whose
sizes are fixed from then on until "xdplb detach --all".

Native mode runs in the network driver. Where the driver cannot, "auto" falls back to generic mode, which is slower,
and says why. An interface that carries somebody else's XDP program is refused. What breaks direct routing on the
interface (LRO, an MTU that the driver cannot serve, ...) is warned about.

Attach each interface that receives packets for a VIP and each that leads to backends. To attach one again in another
mode, detach it first.`,
		Example: `  xdplb attach eth0
  xdplb attach eth0 --mode native          # rather fail than be slow
  xdplb attach eth0 --flows 4194304        # room for 4 million connections`,
		Args:              takes("INTERFACE"),
		ValidArgsFunction: env.completeHostInterfaces(),
		RunE: env.action(func(args []string) error {
			got, err := datapath.Attach(env.pinDir, args[0], mode, capacity)
			if err != nil {
				return err
			}
			why := ""
			if got.Why != "" {
				why = ": " + got.Why
			}
			fmt.Fprintf(env.stderr, "%s: driver %s, %s mode%s\n", got.Name, got.Driver, got.Mode, why)
			for _, warning := range got.Warnings {
				env.warn("%s: %s", got.Name, warning)
			}
			return nil
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	parsedVar(flags, &mode, "mode", "MODE", "auto", "auto, native or generic", datapath.ParseMode)
	size := func(to *uint32, name string, standard uint32, what string) {
		flags.Uint32Var(to, name, 0, fmt.Sprintf("room for `N` %s (default %d at the first attach)", what, standard))
	}
	size(&capacity.Flows, "flows", datapath.DefaultCapacity.Flows, "connections")
	size(&capacity.Services, "services", datapath.DefaultCapacity.Services, "services")
	size(&capacity.Backends, "backends", datapath.DefaultCapacity.Backends, "backends of all services")
	completeFlag(cmd, "mode", cobra.FixedCompletions([]string{"auto", "native", "generic"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
