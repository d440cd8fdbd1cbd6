// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

func saveCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "save",
		Short: "Print the configuration in the format of ipvsadm -S -n",
		Long: `Print the services and backends in the format of "ipvsadm -S -n", which "xdplb restore" reads, and ipvsadm too.
A service of several ports has the option --port, which only "xdplb restore" understands. Timeouts other than LVS's
defaults are written in a first line, which ipvsadm reads, though it does not write one.

The format has no place for MAC addresses given by hand, nor for --expire-quiescent; the YAML of "xdplb apply" has.`,
		Example: `  xdplb save > /etc/xdplb.rules`,
		Args:    takes(),
		RunE: env.action(func([]string) error {
			state, _, err := env.snapshot()
			if err != nil {
				return err
			}
			var byHand, expiring []string
			for _, service := range state.Services {
				if service.Persistence.ExpireQuiescent {
					expiring = append(expiring, service.ServiceKey.String())
				}
				for _, backend := range service.Backends {
					if backend.Hop.Static {
						byHand = append(byHand, backend.Addr.String())
					}
				}
			}
			if byHand != nil {
				env.warn("MAC addresses given by hand are not saved: those of %s", strings.Join(byHand, ", "))
			}
			if expiring != nil {
				env.warn("--expire-quiescent is not saved: that of %s", strings.Join(expiring, ", "))
			}
			if state.Timeouts != (lb.Timeouts{}) {
				if _, err := fmt.Fprintf(env.stdout, "--set %s\n", state.Timeouts); err != nil {
					return err
				}
			}
			return ipvsadm.Save(env.stdout, ipvsadm.Saving{State: state})
		}),
	}
}
