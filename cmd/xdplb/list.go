// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/spf13/cobra"

	"xdplb/internal/datapath"
	"xdplb/internal/ipvsadm"
)

// connectionTableSize stands in the listing's first line. LVS prints the number of buckets of its connection table
// there, 4096 unless the module was loaded with another conn_tab_bits. xdplb has no such table, and scripts that read
// the line know that number; the room for connections is in "xdplb status".
const connectionTableSize = 4096

// ratePeriod is the time between the two readings of --rate. LVS's kernel keeps a moving estimate of each counter;
// the XDP program only counts, so that a rate is measured when somebody asks.
const ratePeriod = time.Second

func listCommand(env *environment) *cobra.Command {
	var numeric, stats, rate, thresholds, persistentConn, asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List services, backends and their connections, as ipvsadm -L does",
		Long: `List services, backends and their connections as "ipvsadm -L" does. ActiveConn are established connections,
InActConn all others that are still remembered. Replies are not counted: they do not pass the director.

With --rate, the counters are read twice, one second apart. With --persistent-conn, PersistConn is how many clients
of a persistent service stay with a backend (its persistence templates).`,
		Example: `  xdplb list -n
  xdplb list -n --stats
  xdplb list --json`,
		Args: takes(),
		RunE: env.action(func([]string) error {
			if rate {
				now, err := env.readRates()
				if err != nil {
					return err
				}
				if asJSON {
					return env.listJSON(now.views((*serviceView).setRates))
				}
				return env.listing(now, ipvsadm.Rate, numeric)
			}
			// Connections are counted by a walk through all of them, which --stats does not need.
			counters := (*datapath.Datapath).Stats
			if stats && !asJSON {
				counters = (*datapath.Datapath).Counters
			}
			now, err := env.read(counters)
			switch {
			case err != nil:
				return err
			case asJSON:
				return env.listJSON(now.views((*serviceView).setTotals))
			case stats:
				return env.listing(now, ipvsadm.Stats, numeric)
			case thresholds:
				return env.listing(now, ipvsadm.Thresholds, numeric)
			case persistentConn:
				return env.listing(now, ipvsadm.PersistentConns, numeric)
			}
			return env.listing(now, ipvsadm.Connections, numeric)
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVarP(&numeric, "numeric", "n", false, "print addresses and ports as numbers")
	flags.BoolVar(&stats, "stats", false, "print connections, packets and bytes since the beginning")
	flags.BoolVar(&rate, "rate", false, "print connections, packets and bytes per second")
	flags.BoolVar(&thresholds, "thresholds", false, "print the limits of connections")
	flags.BoolVar(&persistentConn, "persistent-conn", false, "print how many clients stay with each backend")
	jsonFlag(cmd, &asJSON)
	exclusive(cmd, "stats", "rate", "thresholds", "persistent-conn")
	return cmd
}

// listing prints a reading as ipvsadm does.
func (env *environment) listing(r reading, columns ipvsadm.Columns, numeric bool) error {
	view := r.lvsView()
	view.Extended = true
	if !numeric {
		names := env.lookUpNames(r.state)
		view.Host, view.Port = names.host, names.port
	}
	command := ipvsadm.Command{Verb: ipvsadm.VerbList, Listing: ipvsadm.ListOptions{Columns: columns, Numeric: numeric}}
	return command.Print(env.stdout, view)
}

// listJSON prints services one after the other, which takes a third less time of many than printing them at once.
func (env *environment) listJSON(services []serviceView) error {
	array := env.jsonArray()
	for i := range services {
		if err := array.add(&services[i]); err != nil {
			return err
		}
	}
	return array.end()
}

func numbers(s datapath.BackendStats) ipvsadm.Numbers {
	return ipvsadm.Numbers{
		Active: s.Active, Inactive: s.Inactive, Persistent: s.Persistent,
		Connections: s.Connections, Packets: s.Packets, Bytes: s.Bytes,
	}
}
