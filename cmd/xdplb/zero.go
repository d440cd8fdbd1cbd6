// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

func zeroCommand(env *environment) *cobra.Command {
	var protocol string
	cmd := &cobra.Command{
		Use:   "zero [ADDRESS:PORT]",
		Short: "Zero the counters of a service, or of all",
		Long: `Zero the counters of a service and its backends, or of all services, as "ipvsadm -Z" does: connections, packets and
bytes. All of them begin anew at one moment, and no packet goes uncounted. The numbers of active and inactive
connections stay.`,
		Example: `  xdplb zero
  xdplb zero 172.10.0.9:53 --protocol udp`,
		Args:              takes("[ADDRESS:PORT]"),
		ValidArgsFunction: env.completeLive(serviceNames),
		PreRunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && cmd.Flags().Changed("protocol") {
				return usagef("--protocol names a service together with ADDRESS:PORT, which is missing")
			}
			return nil
		},
		RunE: env.action(func(args []string) error {
			if len(args) == 0 {
				return datapath.Zero(env.pinDir)
			}
			key, err := lb.ParseServiceKey(args[0], protocol)
			if err != nil {
				return usage(err)
			}
			return datapath.Zero(env.pinDir, key)
		}),
	}
	protocolFlag(cmd, &protocol)
	return cmd
}
