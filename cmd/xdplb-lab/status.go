// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"xdplb/internal/lab"
)

func statusCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the cluster as it is now",
		Long: `Show the hosts with the addresses that they have now, which web servers run, and which XDP program the
directors carry. Exit status 1 if the cluster is not up.`,
		Args: noArguments,
		RunE: env.action(func([]string) error {
			l, err := lab.Open()
			if err != nil {
				return err
			}
			defer l.Close()
			return printTopology(env.stdout, l)
		}),
	}
}

// printTopology draws the cluster from the client down to the real servers, each host with what the kernel knows of it.
func printTopology(w io.Writer, l *lab.Lab) error {
	var drawing strings.Builder
	table := tabwriter.NewWriter(&drawing, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "HOST\tADDRESSES\tSTATE\n")
	for _, h := range l.Hosts() {
		addresses, err := hostAddresses(h)
		if err != nil {
			return err
		}
		state, err := hostState(h)
		if err != nil {
			return err
		}
		name := branch(h)
		for _, line := range addresses {
			fmt.Fprintf(table, "%s\t%s\t%s\n", name, line, state)
			name, state = "", ""
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(drawing.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
	return nil
}

// branch is a host's name in the drawing: hosts that share a switch hang from it.
func branch(h *lab.Host) string {
	switch h.Role {
	case lab.RoleDirector, lab.RoleReal:
		return "  +- " + h.Name
	case lab.RoleSwitch:
		if h.Name != "switch" {
			return "(" + h.Name + ")"
		}
	}
	return h.Name
}

// hostAddresses lists the addresses that count (not 127.0.0.1 and ::1), in a line for each interface and IP version, and
// in one at least.
func hostAddresses(h *lab.Host) ([]string, error) {
	names := []string{"lo"}
	for _, i := range h.Interfaces {
		names = append(names, i.Name)
	}
	var lines []string
	for _, name := range names {
		addresses, err := h.Addresses(name)
		if err != nil {
			return nil, err
		}
		start := name
		for _, ipv4 := range []bool{true, false} {
			line := start
			for _, address := range addresses {
				if address.Addr().Is4() == ipv4 && !address.Addr().IsLoopback() {
					line += " " + shortPrefix(address)
				}
			}
			if line != start {
				lines = append(lines, line)
				start = strings.Repeat(" ", len(name))
			}
		}
	}
	if lines == nil {
		lines = []string{""}
	}
	return lines, nil
}

// shortPrefix leaves out the length of a host's own prefix.
func shortPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// hostState says whether a real server serves, and what XDP program a director has.
func hostState(h *lab.Host) (string, error) {
	switch h.Role {
	case lab.RoleReal:
		runs, err := h.WebServerRuns()
		if err != nil {
			return "", err
		}
		if runs {
			return "nginx runs", nil
		}
		return "no web server", nil
	case lab.RoleDirector:
		return directorState(h)
	}
	return "", nil
}

func directorState(h *lab.Host) (string, error) {
	var attached []string
	for _, i := range h.Interfaces {
		x, err := h.XDP(i.Name)
		if err != nil {
			return "", err
		}
		if x.Program != "" {
			attached = append(attached, fmt.Sprintf("%s carries %s (XDP, %s)", i.Name, x.Program, x.Mode))
		}
	}
	if attached == nil {
		return "xdplb is not attached", nil
	}
	return strings.Join(attached, ", "), nil
}
