// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"xdplb/internal/datapath"
)

// maxServices is more than any machine has memory for.
const maxServices = 1 << 30

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

A service that gets more new TCP connections than the flood rate goes into flood mode for some seconds: its SYNs are
placed by a hash and not recorded, so that they cannot fill the table. A connection is recorded once its client
answers.

Attach each interface that receives packets for a VIP, and each that leads to backends. To change the mode of one,
detach it first.`,
		Example: `  xdplb attach eth0
  xdplb attach eth0 --mode native          # fail rather than be slow
  xdplb attach eth0 --flows 4194304        # room for 4 million connections`,
		Args:              takes("INTERFACE"),
		ValidArgsFunction: env.completeHostInterfaces(),
		RunE: env.action(func(args []string) error {
			got, err := datapath.Attach(env.pinDir, args[0], mode, capacity)
			if err != nil {
				err = noInterface(args[0], err)
				if errors.Is(err, datapath.ErrAttached) {
					return withHint(err, "detach it first: xdplb detach "+args[0])
				}
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
	size := func(to *uint32, name string, most, standard uint32, what string) {
		help := fmt.Sprintf("room for `N` %s (default %d at the first attach)", what, standard)
		parsedVar(flags, to, name, "N", "", help, func(word string) (uint32, error) { return parseSize(word, most) })
	}
	size(&capacity.Flows, "flows", datapath.MaxFlows, datapath.DefaultCapacity.Flows, "connections")
	size(&capacity.Services, "services", maxServices, datapath.DefaultCapacity.Services, "services")
	size(&capacity.Backends, "backends", datapath.MaxBackends, datapath.DefaultCapacity.Backends, "backends of all services")
	parsedVar(flags, &capacity.FloodRate, "flood-rate", "N", "",
		fmt.Sprintf("flood mode above `N` new connections of a service in %.2f s (default a sixteenth of --flows)", datapath.Tick.Seconds()),
		func(word string) (uint32, error) { return parseSize(word, datapath.MaxFlows) })
	completeFlag(cmd, "mode", cobra.FixedCompletions([]string{"auto", "native", "generic"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// parseSize reads how much room is asked for. 0 is none: a flag that is not given asks for what is there.
func parseSize(word string, most uint32) (uint32, error) {
	size, err := strconv.ParseUint(word, 10, 32)
	if err != nil || size < 1 || size > uint64(most) {
		return 0, fmt.Errorf("want 1 to %d", most)
	}
	return uint32(size), nil
}
