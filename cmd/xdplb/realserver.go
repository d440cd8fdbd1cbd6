// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"xdplb/internal/lb"
	"xdplb/internal/realserver"
)

func realserverCommand(env *environment) *cobra.Command {
	return noun(&cobra.Command{
		Use:   "realserver",
		Short: "Make this host a real server of VIPs",
		Long: `A real server holds the VIPs on its loopback interface, so that it accepts packets for them, and keeps silent about
them in ARP, so that packets from clients come to the director first. It answers clients through its own default
gateway.

These commands run on the real server. They need neither the director nor XDP.`,
	}, realserverSetupCommand(env), realserverCheckCommand(env), realserverTeardownCommand(env))
}

func realserverSetupCommand(env *environment) *cobra.Command {
	var gateways []string
	cmd := &cobra.Command{
		Use:   "setup VIP...",
		Short: "Hold VIPs, silently",
		Long: `Hold each VIP on lo as /32 (or /128), keep ARP silent about it, and set the default route, by which replies leave.
What was there before is recorded for "teardown". Doing it again changes nothing; VIPs of earlier calls stay.

--arp-mode sysctl sets arp_ignore=1 and arp_announce=2 on "all" and lo, --arp-mode filter leaves these alone and
filters ARP in an nftables table of its own. For IPv6, nothing needs to be silenced.`,
		Example: `  xdplb realserver setup 172.10.0.9 --gateway 192.168.60.1
  xdplb realserver setup 172.10.0.9 2001:db8::64 --arp-mode filter --persist`,
	}
	options := realserverVerb(env, cmd, "VIP...", func(o realserver.Options) (err error) {
		if o.Gateways, err = parseAll(gateways, parseGateway); err != nil {
			return usage(err)
		}
		if o.Executable, err = os.Executable(); err != nil {
			return fmt.Errorf("finding the path of xdplb: %w", err)
		}
		return realserver.Setup(o)
	})
	flags := cmd.Flags()
	flags.StringSliceVar(&gateways, "gateway", nil, "default `GATEWAY`; one of each IP version can be given")
	arpModeFlag(cmd, options)
	flags.BoolVar(&options.Persist, "persist", false, "do it again at each boot, by a systemd unit")
	return cmd
}

func realserverCheckCommand(env *environment) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [VIP...]",
		Short: "Say what is wrong with this real server",
		Long: `Say in words what is wrong with this host as a real server for the given VIPs, or for those that were set up, and
how to mend it. If all is well, nothing is printed and the exit status is 0; otherwise it is 1.`,
		Example: `  xdplb realserver check
  xdplb realserver check 172.10.0.9 --json`,
	}
	options := realserverVerb(env, cmd, "[VIP...]", func(o realserver.Options) error {
		problems, err := realserver.Check(o)
		if err != nil {
			return err
		}
		if err := env.problems(problems, asJSON); err != nil {
			return err
		}
		switch len(problems) {
		case 0:
			return nil
		case 1:
			return fmt.Errorf("1 problem")
		}
		return fmt.Errorf("%d problems", len(problems))
	})
	arpModeFlag(cmd, options)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// problems prints what is wrong, each with the command that mends it.
func (env *environment) problems(problems []realserver.Problem, asJSON bool) error {
	type view struct {
		Problem string `json:"problem"`
		Mend    string `json:"mend,omitempty"`
	}
	views := []view{}
	for _, p := range problems {
		views = append(views, view{p.Text, p.Hint})
	}
	if asJSON {
		return env.json(views)
	}
	for _, v := range views {
		fmt.Fprintln(env.stdout, v.Problem)
		if v.Mend != "" {
			fmt.Fprintf(env.stdout, "    %s\n", v.Mend)
		}
	}
	return nil
}

func realserverTeardownCommand(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "teardown [VIP...]",
		Short: "Put back what was there before setup",
		Long: `Let go of the given VIPs, or of all that were set up, and put back what was there before. Values that somebody else
has changed since then stay. Doing it again does nothing.`,
		Example: `  xdplb realserver teardown
  xdplb realserver teardown 172.10.0.9`,
	}
	realserverVerb(env, cmd, "[VIP...]", realserver.Teardown)
	return cmd
}

// realserverVerb completes a command about the VIPs that are its arguments. The returned options are what do gets; flags
// may be bound to them.
func realserverVerb(env *environment, cmd *cobra.Command, argument string, do func(realserver.Options) error) *realserver.Options {
	options := &realserver.Options{}
	cmd.Args = takes(argument)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = env.action(func(args []string) (err error) {
		if options.VIPs, err = parseAll(args, lb.ParseVIP); err != nil {
			return usage(err)
		}
		err = do(*options)
		if options.Dev != "" {
			err = noInterface(options.Dev, err)
		}
		return forbidden(err, "CAP_NET_ADMIN, CAP_DAC_OVERRIDE")
	})
	cmd.Flags().StringVar(&options.Dev, "dev", "", "`INTERFACE` to the cluster's segment (default: the one towards the gateway)")
	completeFlag(cmd, "dev", env.completeHostInterfaces())
	return options
}

func arpModeFlag(cmd *cobra.Command, options *realserver.Options) {
	parsedVar(cmd.Flags(), &options.ArpMode, "arp-mode", "MODE", "", "sysctl or filter (default sysctl)", realserver.ParseArpMode)
	completeFlag(cmd, "arp-mode", cobra.FixedCompletions([]string{"sysctl", "filter"}, cobra.ShellCompDirectiveNoFileComp))
}

// parseAll parses each word; it stops at the first that is wrong.
func parseAll[T any](words []string, parse func(string) (T, error)) ([]T, error) {
	var values []T
	for _, word := range words {
		value, err := parse(word)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}

func parseGateway(word string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(word)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("gateway %q is not an IP address", word)
	}
	return addr, nil
}
