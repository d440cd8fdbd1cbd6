// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"xdplb/internal/lb"
)

func timeoutsCommand(env *environment) *cobra.Command {
	return noun(&cobra.Command{
		Use:   "timeouts",
		Short: "Change and list how long idle connections are remembered",
		Long: `A connection is forgotten when its client has sent nothing for some time. Three of these times can be set, for all
services together, as with "ipvsadm --set": that of established TCP connections, that of TCP connections which the
client has closed, and that of UDP. Those of the other states, and of SCTP, are LVS's.`,
	}, timeoutsSetCommand(env), timeoutsListCommand(env))
}

func timeoutsSetCommand(env *environment) *cobra.Command {
	var set lb.Timeouts
	cmd := &cobra.Command{
		Use:   "set [--tcp SECONDS] [--tcpfin SECONDS] [--udp SECONDS]",
		Short: "Change timeouts",
		Long: `Change timeouts, 1 to 2678400 seconds each; those that are not given stay as they are. The new ones hold for all
connections at once, also for those that are idle already.`,
		Example: `  xdplb timeouts set --tcp 7200
  xdplb timeouts set --tcp 900 --tcpfin 120 --udp 300`,
		Args: takes(),
		PreRunE: func(*cobra.Command, []string) error {
			if set == (lb.Timeouts{}) {
				return usagef("nothing to change: give --tcp, --tcpfin or --udp")
			}
			return nil
		},
		RunE: env.action(func([]string) error {
			return env.change(func(state *lb.State) error {
				state.Timeouts = state.Timeouts.With(set)
				return nil
			})
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	parsedVar(flags, &set.TCP, "tcp", "SECONDS", "", "of established TCP connections (900 unless set)", lb.ParseTimeout)
	parsedVar(flags, &set.TCPFin, "tcpfin", "SECONDS", "", "of TCP connections after the client's FIN (120 unless set)", lb.ParseTimeout)
	parsedVar(flags, &set.UDP, "udp", "SECONDS", "", "of UDP (300 unless set)", lb.ParseTimeout)
	return cmd
}

// timeoutsView is what --json prints, in seconds.
type timeoutsView struct {
	TCP    int `json:"tcp"`
	TCPFin int `json:"tcpfin"`
	UDP    int `json:"udp"`
}

func timeoutsListCommand(env *environment) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the timeouts, as ipvsadm -L --timeout does",
		Long:    `List the timeouts that can be set, in seconds, in the text of "ipvsadm -L --timeout".`,
		Example: `  xdplb timeouts list`,
		Args:    takes(),
		RunE: env.action(func([]string) error {
			state, _, err := env.snapshot()
			if err != nil {
				return err
			}
			if !asJSON {
				_, err = fmt.Fprintf(env.stdout, "Timeout (tcp tcpfin udp): %s\n", state.Timeouts)
				return err
			}
			t := state.Timeouts.OrDefault()
			return env.json(timeoutsView{int(t.TCP / time.Second), int(t.TCPFin / time.Second), int(t.UDP / time.Second)})
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
