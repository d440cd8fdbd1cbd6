// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"xdplb/internal/config"
	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

func applyCommand(env *environment) *cobra.Command {
	var (
		name   string
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "apply -f FILE [--dry-run]",
		Short: "Make the configuration what a YAML file says",
		Long: `Make the whole configuration what a YAML file says; what is not in the file is deleted. Every packet meets the old
configuration or the new one. Backends that stay keep their connections. A backend that does not answer for its MAC
address is warned about and gets no connections.

With --dry-run, print what would change ("+" added, "~" changed, "-" deleted), and change nothing.

The file:
  timeouts:                            # seconds until an idle connection is forgotten; these are the defaults
    tcp: 900                           # established
    tcpfin: 120                        # after the client's FIN
    udp: 300
  services:
    - address: 172.10.0.9:80           # an IPv6 address needs quotes: "[2001:db8::64]:80"
      protocol: tcp                    # tcp, udp or sctp; default tcp
      scheduler: rr                    # as in "service add"; default wlc
      persistent: 360                  # seconds; default 0, not persistent
      netmask: 24                      # or 255.255.255.0; default the whole address
      expire-quiescent: true           # default false
      sched-flags: sh-port             # as in "service add"; default none
      one-packet: false                # true for udp, each packet by itself; default false
      on-removal: keep                 # of a backend; default reschedule
      backends:
        - address: 192.168.60.8
          weight: 1                    # 0 to 2147483647; default 1
          upper: 1000                  # limit of connections; default 0: none
          lower: 800                   # the limit ends below it; default 0: three quarters of upper
          mac: 02:00:00:00:00:08       # default: found on the segment
          dev: eth0                    # default: the attached interface on its network
          vlan: 100                    # only with mac; default: frames keep their tags`,
		Example: `  xdplb apply -f cluster.yaml --dry-run
  generate-cluster | xdplb apply -f -`,
		Args: takes(),
		RunE: env.action(func([]string) error {
			wanted, err := env.readYAML(name)
			if err != nil {
				return err
			}
			if !dryRun {
				_, err := env.replace(wanted, true, datapath.Change)
				return err
			}
			plan, err := env.replace(wanted, true, datapath.DryRun)
			if err != nil {
				return err
			}
			for _, change := range plan.Changes {
				fmt.Fprintln(env.stdout, change)
			}
			return nil
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVarP(&name, "file", "f", "", "`FILE` to read; \"-\" is standard input")
	flags.BoolVar(&dryRun, "dry-run", false, "print what would change, and change nothing")
	requireFlag(cmd, "file")
	return cmd
}

// readYAML reads a configuration file. A next hop with an interface and no MAC address is to be found there.
func (env *environment) readYAML(name string) (lb.State, error) {
	reader, name, err := env.open(name)
	if err != nil {
		return lb.State{}, err
	}
	defer reader.Close()
	file, err := config.Read(name, reader)
	if err != nil {
		return lb.State{}, withoutHint(err) // about the file, not about what there is
	}
	_, attached, err := env.snapshot()
	if err != nil {
		return lb.State{}, err
	}
	return file.State(func(b config.Backend) (lb.NextHop, error) {
		byHand := b.MAC != [6]byte{}
		if !byHand && b.Dev == "" {
			return lb.NextHop{}, nil
		}
		ifindex, err := attached.index(b.Dev)
		return lb.NextHop{MAC: b.MAC, Ifindex: ifindex, VLAN: b.VLAN, Static: byHand}, err
	})
}
