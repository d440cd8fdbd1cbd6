// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

func statusCommand(env *environment) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show interfaces, program, memory and what became of the packets",
		Long: `Show the attached interfaces, the program, the pinned maps with their sizes and memory, and what became of the
packets: each one that arrives on an attached interface is counted under exactly one reason, which decides its
verdict.

A new connection can take one of a few places in the connection table. If all are taken, it evicts an expired
connection, or a half-open one, of which only a SYN was seen; else it spills to the second part of the table; and if
that has no place either, it evicts the live connection that has been idle for longest. While a service is flooded
with new connections, none is recorded before the client's second packet: they are balanced by a hash of addresses
and ports.`,
		Example: `  xdplb status
  xdplb status --json`,
		Args: takes(),
		RunE: env.action(func([]string) error {
			view, err := env.status()
			if err != nil {
				return err
			}
			if asJSON {
				return env.json(view)
			}
			return view.print(env)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// statusView is the status as --json prints it. Field names are part of the command line: they may be added to, not
// changed.
type statusView struct {
	PinDir        string          `json:"pin_dir"`
	Schema        uint32          `json:"schema"`
	Epoch         uint64          `json:"epoch"`
	Interfaces    []interfaceView `json:"interfaces"`
	Program       programView     `json:"program"`
	Services      int             `json:"services"`
	ServicesLimit uint32          `json:"services_limit"`
	Backends      int             `json:"backends"`
	BackendsLimit uint32          `json:"backends_limit"`
	Draining      int             `json:"draining_backends"` // removed ones that take room because of kept connections
	FlowsLimit    uint32          `json:"flows_limit"`
	MemoryBytes   uint64          `json:"memory_bytes"`
	Flows         flowsView       `json:"flows"`
	Maps          []mapView       `json:"maps"`
	Reasons       []reasonView    `json:"reasons"`
}

// flowsView is how full the flow table is, and how new flows found room in it.
type flowsView struct {
	Live      int           `json:"live"`
	Expired   int           `json:"expired"`
	Evictions evictionsView `json:"evictions"`
	FloodRate uint32        `json:"flood_rate"` // new connections in a tick (1.07 s) and service
	Floods    uint64        `json:"floods"`
	Flooded   []string      `json:"flooded"` // services that are in flood mode now
}

type evictionsView struct {
	Expired     uint64 `json:"expired"`
	Embryonic   uint64 `json:"embryonic"`
	Spilled     uint64 `json:"spilled"`
	Established uint64 `json:"established"`
	Template    uint64 `json:"template"` // persistence templates that were not kept
}

func newFlowsView(f datapath.FlowStatus) flowsView {
	view := flowsView{
		Live: f.Live, Expired: f.Expired, Evictions: evictionsView(f.Evictions),
		FloodRate: f.FloodRate, Floods: f.Floods, Flooded: []string{},
	}
	for _, service := range f.Flooded {
		view.Flooded = append(view.Flooded, service.String())
	}
	return view
}

type interfaceView struct {
	Name     string   `json:"name"` // "": it was deleted
	Ifindex  int      `json:"ifindex"`
	Mode     string   `json:"mode"`
	Why      string   `json:"why,omitempty"`
	Driver   string   `json:"driver"`
	MAC      string   `json:"mac"`
	MTU      int      `json:"mtu"`
	Warnings []string `json:"warnings,omitempty"`
}

type programView struct {
	Name     string    `json:"name"`
	ID       uint32    `json:"id"`
	Tag      string    `json:"tag"`
	LoadedAt time.Time `json:"loaded_at"`
	JITed    uint32    `json:"code_bytes"`
}

type mapView struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Used  uint32 `json:"used"`
	Max   uint32 `json:"limit"`
	Bytes uint64 `json:"memory_bytes"`
}

type reasonView struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Packets uint64 `json:"packets"`
	Meaning string `json:"meaning"`
}

// status collects everything under one lock.
func (env *environment) status() (view statusView, err error) {
	err = env.view(func(dp *datapath.Datapath) error {
		status, err := dp.Status()
		if err != nil {
			return err
		}
		state, err := dp.Snapshot()
		if err != nil {
			return err
		}
		attached, err := dp.Interfaces()
		if err != nil {
			return err
		}
		reasons, err := dp.Reasons()
		if err != nil {
			return err
		}
		view = newStatusView(env.pinDir, status, state, attached, reasons)
		return nil
	})
	return view, err
}

func newStatusView(pinDir string, status datapath.Status, state lb.State, attached interfaces, reasons []datapath.Reason) statusView {
	view := statusView{
		PinDir:        pinDir,
		Schema:        status.Schema,
		Epoch:         status.Epoch,
		Interfaces:    []interfaceView{},
		Program:       programView(status.Program),
		Services:      len(state.Services),
		ServicesLimit: status.Capacity.Services,
		BackendsLimit: status.Capacity.Backends,
		Draining:      status.Draining,
		FlowsLimit:    status.Capacity.Flows,
		MemoryBytes:   status.Memory,
		Flows:         newFlowsView(status.Flows),
	}
	for _, s := range state.Services {
		view.Backends += len(s.Backends)
	}
	for _, a := range attached {
		view.Interfaces = append(view.Interfaces, interfaceView{
			Name: a.Name, Ifindex: a.Ifindex, Mode: string(a.Mode), Why: a.Why, Driver: a.Driver,
			MAC: net.HardwareAddr(a.MAC[:]).String(), MTU: a.MTU, Warnings: a.Warnings,
		})
	}
	for _, m := range status.Maps {
		view.Maps = append(view.Maps, mapView(m))
	}
	for _, r := range reasons {
		view.Reasons = append(view.Reasons, reasonView{r.Name, r.Verdict, r.Packets, r.Meaning})
	}
	return view
}

// print is the text form.
func (v statusView) print(env *environment) error {
	sections := []struct {
		title string
		rows  [][]string
	}{
		{"Interfaces", v.interfaceRows()},
		{"Program", v.programRows()},
		{"Maps", v.mapRows()},
		{"Connections", v.flowRows()},
		{"Packets", v.reasonRows()},
	}
	for i, section := range sections {
		if i > 0 {
			fmt.Fprintln(env.stdout)
		}
		fmt.Fprintln(env.stdout, section.title)
		for j := range section.rows {
			section.rows[j][0] = "  " + section.rows[j][0]
		}
		if err := env.table(section.rows); err != nil {
			return err
		}
	}
	return nil
}

func (v statusView) interfaceRows() [][]string {
	var rows [][]string
	for _, i := range v.Interfaces {
		if i.Name == "" {
			rows = append(rows, []string{fmt.Sprintf("#%d", i.Ifindex), "was deleted"})
			continue
		}
		mode := i.Mode + " mode"
		if i.Why != "" {
			mode += " (" + i.Why + ")"
		}
		rows = append(rows, []string{i.Name, i.Driver, i.MAC, "MTU " + strconv.Itoa(i.MTU), mode})
		for _, warning := range i.Warnings {
			rows = append(rows, []string{"  warning: " + warning})
		}
	}
	if rows == nil {
		rows = [][]string{{"none: the configuration is kept, but nothing is balanced"}}
	}
	return rows
}

func (v statusView) programRows() [][]string {
	p := v.Program
	count := func(used int, limit uint32) string { return fmt.Sprintf("%d, room for %d", used, limit) }
	backends := count(v.Backends, v.BackendsLimit)
	if v.Draining > 0 {
		backends += fmt.Sprintf("; %d removed, whose connections are kept", v.Draining)
	}
	return [][]string{
		{"program", fmt.Sprintf("%s, id %d, tag %s, %s of machine code", p.Name, p.ID, p.Tag, size(uint64(p.JITed)))},
		{"loaded", p.LoadedAt.Format(time.DateTime)},
		{"pins", fmt.Sprintf("%s, schema %d, epoch %d", v.PinDir, v.Schema, v.Epoch)},
		{"services", count(v.Services, v.ServicesLimit)},
		{"backends", backends},
		{"memory", size(v.MemoryBytes)},
	}
}

func (v statusView) flowRows() [][]string {
	f, e := v.Flows, v.Flows.Evictions
	floods := fmt.Sprintf("%d so far, %d of them over; a flood is more than %d new connections to one service within %.2f s",
		f.Floods, f.Floods-uint64(len(f.Flooded)), f.FloodRate, datapath.Tick.Seconds())
	if len(f.Flooded) > 0 {
		floods += "; now: " + strings.Join(f.Flooded, ", ")
	}
	rows := [][]string{
		{"live", fmt.Sprintf("%d, room for %d", f.Live, v.FlowsLimit)},
		{"expired", fmt.Sprintf("%d, to be replaced by new ones", f.Expired)},
		{"evicted", fmt.Sprintf("%d live, %d half-open and %d expired so far, to make room for new ones", e.Established, e.Embryonic, e.Expired)},
		{"spilled", fmt.Sprintf("%d so far, to the second part of the table, because there was no room in the first", e.Spilled)},
		{"floods", floods},
	}
	if kept, fresh := v.mapOf("templates"), v.mapOf("new_templates"); kept.Used+fresh.Used > 0 || e.Template > 0 {
		rows = append(rows, []string{"templates", fmt.Sprintf(
			"%d, room for %d, and %d of clients that have sent one packet; %d so far found no room and may be forgotten early",
			kept.Used, kept.Max, fresh.Used, e.Template)})
	}
	return rows
}

// mapOf finds a map by its name.
func (v statusView) mapOf(name string) mapView {
	for _, m := range v.Maps {
		if m.Name == name {
			return m
		}
	}
	return mapView{}
}

func (v statusView) mapRows() [][]string {
	rows := [][]string{{"NAME", "TYPE", "USED", "LIMIT", "FILL", "MEMORY"}}
	for _, m := range v.Maps {
		fill := "-"
		if m.Max > 0 {
			fill = fmt.Sprintf("%.0f%%", 100*float64(m.Used)/float64(m.Max))
		}
		rows = append(rows, []string{m.Name, m.Type, fmt.Sprint(m.Used), fmt.Sprint(m.Max), fill, size(m.Bytes)})
	}
	return rows
}

func (v statusView) reasonRows() [][]string {
	rows := [][]string{{"PACKETS", "VERDICT", "REASON", "MEANING"}}
	for _, r := range v.Reasons {
		rows = append(rows, []string{fmt.Sprint(r.Packets), r.Verdict, r.Name, r.Meaning})
	}
	return rows
}

// size writes a number of bytes with a binary unit: "512 B", "88.0 MiB".
func size(bytes uint64) string {
	const units = "KMGTPE"
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
