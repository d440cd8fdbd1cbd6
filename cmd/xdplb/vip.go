// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"

	"github.com/spf13/cobra"

	"xdplb/internal/vip"
)

func vipCommand(env *environment) *cobra.Command {
	return noun(&cobra.Command{
		Use:   "vip",
		Short: "Put virtual addresses on the director's interface",
		Long: `A VIP is an address that clients connect to. The director holds it on the interface towards the router, so that it,
and nobody else, answers ARP or neighbour discovery for it. Real servers hold it silently: see "xdplb realserver".

They are ordinary addresses of the interface ("ip address" shows them), and do not survive a reboot.`,
	}, vipAddCommand(env), vipDelCommand(env), vipListCommand(env))
}

func vipAddCommand(env *environment) *cobra.Command {
	return vipVerb(env, &cobra.Command{
		Use:   "add ADDRESS[/PREFIX] --dev INTERFACE",
		Short: "Add a VIP to an interface and announce it",
		Long: `Add a VIP to an interface, and announce it on the segment three times within two seconds (by gratuitous ARP, or
neighbour advertisements), so that routers which knew another MAC address for it learn this one. Without PREFIX it
is a /32, or /128.`,
		Example: `  xdplb vip add 172.10.0.9 --dev eth0
  xdplb vip add 172.10.0.9/16 --dev eth0
  xdplb vip add 2001:db8::64 --dev eth0`,
	}, func(prefix netip.Prefix, dev string) error { return vip.Add(env.ctx, prefix, dev) })
}

func vipDelCommand(env *environment) *cobra.Command {
	return vipVerb(env, &cobra.Command{
		Use:     "del ADDRESS[/PREFIX] --dev INTERFACE",
		Aliases: []string{"delete"},
		Short:   "Delete a VIP from an interface",
		Long:    `Delete a VIP from an interface. PREFIX must be the one that it has there.`,
		Example: `  xdplb vip del 172.10.0.9 --dev eth0`,
	}, vip.Delete)
}

// vipVerb completes a command about one address of one interface.
func vipVerb(env *environment, cmd *cobra.Command, do func(prefix netip.Prefix, dev string) error) *cobra.Command {
	var dev string
	cmd.Args = takes("ADDRESS")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = env.action(func(args []string) error {
		prefix, err := vip.Parse(args[0])
		if err != nil {
			return usage(err)
		}
		return forbidden(noInterface(dev, do(prefix, dev)), "CAP_NET_ADMIN, CAP_NET_RAW")
	})
	cmd.Flags().StringVar(&dev, "dev", "", "the `INTERFACE` that has the address, or will have it")
	requireFlag(cmd, "dev")
	completeFlag(cmd, "dev", env.completeHostInterfaces())
	return cmd
}

func vipListCommand(env *environment) *cobra.Command {
	var (
		dev    string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the addresses that can be VIPs",
		Long: `List the addresses of the host's interfaces, or of one, without those of lo and link-local ones. Any of them is a VIP
as soon as a service has it.`,
		Example: `  xdplb vip list --dev eth0`,
		Args:    takes(),
		RunE: env.action(func([]string) error {
			addresses, err := vip.List(dev)
			if err != nil {
				return noInterface(dev, err)
			}
			type view struct {
				Address   netip.Prefix `json:"address"`
				Interface string       `json:"interface"`
			}
			views, rows := []view{}, [][]string{{"ADDRESS", "INTERFACE"}}
			for _, a := range addresses {
				views = append(views, view{a.Prefix, a.Interface})
				rows = append(rows, []string{a.Prefix.String(), a.Interface})
			}
			if asJSON {
				return env.json(views)
			}
			return env.table(rows)
		}),
	}
	cmd.Flags().StringVar(&dev, "dev", "", "only those of this `INTERFACE`")
	completeFlag(cmd, "dev", env.completeHostInterfaces())
	jsonFlag(cmd, &asJSON)
	return cmd
}
