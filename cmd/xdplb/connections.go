// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"xdplb/internal/datapath"
	"xdplb/internal/ipvsadm"
)

func connectionsCommand(env *environment) *cobra.Command {
	var (
		numeric, count, sweep, asJSON bool
		filter                        *connectionFilter
	)
	cmd := &cobra.Command{
		Use:   "connections",
		Short: "List the live connections, as ipvsadm -L -c does",
		Long: `List the live connections as "ipvsadm -L -c" does, in no particular order. Without -n, services and backends are
shown by name; clients never are. "expire" says after how many minutes and seconds a connection will be forgotten if
its client sends nothing.

States are what the client's packets show, since replies do not pass the director. TCP: SYN_RECV, ESTABLISHED,
FIN_WAIT (the client has closed its half), TIME_WAIT (right behind its SYN), CLOSE (it has reset the connection).
SCTP: INIT1, INIT, C-ECHOED, ESTABLISHED, S-RECEIVED (the client shuts down), CLOSED, and NONE (one packet of an
association that was not known). And UDP. NONE with port 0 is a persistence template: it says to which backend the
next connections of a client go.

Where several filters are given, a connection must match all of them. With --json, the output is one array, written
as it is read, so that even millions of connections need little memory.

With --sweep, nothing is listed, but the entries of connections that have expired or whose backend was deleted are
freed, and so are deleted backends whose connections were kept and are over. New connections take such entries as they
need them, so this is not urgent. It also lets mh services go back to placing packets by the lookup table alone, once
the longest timeout (fifteen minutes unless set) has passed since their backends changed.`,
		Example: `  xdplb connections -n
  xdplb connections --count
  xdplb connections -n --backend 192.168.60.8 --state ESTABLISHED
  xdplb connections --client 203.0.113.0/24 --json | jq length
  xdplb connections --sweep`,
		Args: takes(),
		RunE: env.action(func([]string) error {
			switch {
			case sweep:
				return env.sweep()
			case count:
				return env.countConnections(filter)
			case asJSON:
				return env.connectionsJSON(filter)
			}
			return env.listConnections(numeric, false, filter)
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVarP(&numeric, "numeric", "n", false, "print addresses and ports as numbers")
	filter = newConnectionFilter(cmd)
	flags.BoolVar(&count, "count", false, "print only how many there are")
	flags.BoolVar(&sweep, "sweep", false, "free the entries of connections that have expired")
	jsonFlag(cmd, &asJSON)
	exclusive(cmd, "count", "sweep", "json")
	for _, name := range []string{"client", "service", "backend", "state"} {
		exclusive(cmd, "sweep", name)
	}
	return cmd
}

// sweep needs the shared lock only: what it writes, packets and other sweeps may write at the same time. Where removed
// backends have kept connections, a change follows for those that have none any more.
func (env *environment) sweep() error {
	err := env.view(func(dp *datapath.Datapath) error {
		_, err := dp.Sweep(env.ctx)
		return err
	})
	if err != nil {
		return err
	}
	return datapath.Reap(env.pinDir)
}

// connections calls visit for every live connection that is wanted until it says false, or a signal comes. The lock is not held
// meanwhile: stdout may be a pager.
func (env *environment) connections(filter *connectionFilter, visit func(datapath.Connection) bool) error {
	var list *datapath.ConnectionList
	err := env.view(func(dp *datapath.Datapath) (err error) {
		list, err = dp.Connections()
		return err
	})
	if err != nil {
		return err
	}
	defer list.Close()
	err = list.Walk(func(c datapath.Connection) bool {
		return env.ctx.Err() == nil && (!filter.wants(&c) || visit(c))
	})
	return errors.Join(err, env.ctx.Err())
}

func (env *environment) countConnections(filter *connectionFilter) error {
	count := 0
	err := env.connections(filter, func(datapath.Connection) bool {
		count++
		return true
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.stdout, count)
	return err
}

// listConnections prints them as ipvsadm does. Names are looked up first.
func (env *environment) listConnections(numeric, peColumns bool, filter *connectionFilter) error {
	listing := ipvsadm.ConnectionListing{PEColumns: peColumns}
	if !numeric {
		state, _, err := env.snapshot()
		if err != nil {
			return err
		}
		names := env.lookUpNames(state)
		listing.Host, listing.Port = names.host, names.port
	}
	listing.Walk = func(visit func(ipvsadm.Connection) bool) error {
		return env.connections(filter, func(c datapath.Connection) bool { return visit(connectionRow(c)) })
	}
	return ipvsadm.ListConnections(env.stdout, listing)
}

func connectionRow(c datapath.Connection) ipvsadm.Connection {
	return ipvsadm.Connection{
		Protocol: c.Service.Protocol,
		Left:     c.Left,
		State:    string(c.State),
		Client:   c.Client,
		VIP:      netip.AddrPortFrom(c.Service.Addr.Addr(), c.VIPPort),
		Backend:  netip.AddrPortFrom(c.Backend, c.VIPPort), // direct routing leaves the port as it is
	}
}

// connectionView is a connection as --json prints it.
type connectionView struct {
	Protocol   string     `json:"protocol"`
	State      string     `json:"state"`
	Expires    int        `json:"expires_seconds"`
	Client     netip.Addr `json:"client"`
	ClientPort uint16     `json:"client_port"`
	Address    netip.Addr `json:"address"` // the service's
	Port       uint16     `json:"port"`
	Backend    netip.Addr `json:"backend"`
}

func (env *environment) connectionsJSON(filter *connectionFilter) error {
	array := env.jsonArray()
	var failed error
	err := env.connections(filter, func(c datapath.Connection) bool {
		failed = array.add(newConnectionView(c))
		return failed == nil
	})
	if err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	return array.end()
}

func newConnectionView(c datapath.Connection) connectionView {
	return connectionView{
		Protocol:   c.Service.Protocol.String(),
		State:      string(c.State),
		Expires:    int(c.Left / time.Second),
		Client:     c.Client.Addr(),
		ClientPort: c.Client.Port(),
		Address:    c.Service.Addr.Addr(),
		Port:       c.VIPPort,
		Backend:    c.Backend,
	}
}
