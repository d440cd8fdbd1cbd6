// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is the result of [Measure].
type Report struct {
	Machine Machine `json:"machine"`
	Rounds  int     `json:"rounds"`
	BatchMS float64 `json:"batch_ms"` // of one case in one round
	Rows    []Row   `json:"rows"`
}

// Row is what was measured of one case. All times are ns per packet.
type Row struct {
	Name    string `json:"name"`
	What    string `json:"what"`
	Verdict string `json:"verdict"`
	Packets int    `json:"packets"` // measured, each of which met the verdict
	// Estimate is the case without its driver, but with what BPF_PROG_TEST_RUN costs: comparable with the floor's.
	Estimate Spread `json:"ns"`
	// Net is the program alone: without that cost too.
	Net float64 `json:"net_ns"`
	// Floors is the median, over the rounds, of the estimate's ratio to the floor's of the same round.
	Floors float64 `json:"floors"`
	// Gross is as measured, of each round.
	Gross []float64 `json:"gross_ns"`
}

// NewReport computes the rows. The first three samples are those of the [Baselines], in their order.
func NewReport(machine Machine, plan Plan, samples []Samples) Report {
	report := Report{
		Machine: machine, Rounds: plan.Rounds,
		BatchMS: float64(plan.Batch) / float64(time.Millisecond),
	}
	empty, floor, driver := samples[0].Gross, samples[1].Gross, samples[2].Gross
	for _, s := range samples {
		around := empty
		if s.Case.Driver != nil {
			around = driver
		}
		report.Rows = append(report.Rows, newRow(s, empty, floor, around))
	}
	return report
}

// newRow computes one row; around is the cost of what is around the case's program: its driver and the system call, or
// only that.
func newRow(s Samples, empty, floor, around []float64) Row {
	net := combine(s.Gross, around, func(gross, around float64) float64 { return gross - around })
	estimate := combine(net, empty, func(net, empty float64) float64 { return net + empty })
	floors := combine(estimate, floor, func(estimate, floor float64) float64 { return estimate / floor })
	return Row{
		Name: s.Case.Name, What: s.Case.What, Verdict: s.Case.Want.String(),
		Packets: s.Packets * len(s.Gross),
		Estimate: Spread{
			// of each alone: the quietest round of one case is seldom that of the other
			Min:    quantile(s.Gross, 0) - quantile(around, 0) + quantile(empty, 0),
			Median: quantile(estimate, 0.5),
		},
		Net: quantile(net, 0.5), Floors: quantile(floors, 0.5), Gross: s.Gross,
	}
}

// Write prints the report as a table.
func (r Report) Write(w io.Writer) error {
	table := newTable("case", "verdict", "ns min", "ns median", "net", "x floor", "packet")
	table.alignRight(2, 3, 4, 5)
	var packets int
	for _, row := range r.Rows {
		packets += row.Packets
		table.add(row.Name, row.Verdict, number(row.Estimate.Min), number(row.Estimate.Median), number(row.Net),
			fmt.Sprintf("%.2f", row.Floors), row.What)
	}
	r.Machine.write(w)
	fmt.Fprintf(w, "%d rounds, %g ms per case and round, in random order; all %d packets met their verdict\n\n",
		r.Rounds, r.BatchMS, packets)
	if err := table.write(w); err != nil {
		return err
	}
	_, err := fmt.Fprint(w, `
ns       per packet in BPF_PROG_TEST_RUN, whose own cost (row "empty") is in it; the driver's (row "driver") is subtracted
net      median without that cost
x floor  median over the rounds of ns divided by the floor's ns of the same round: only this is comparable between runs
`)
	return err
}

func number(ns float64) string {
	return fmt.Sprintf("%.1f", ns)
}

func (m Machine) write(w io.Writer) {
	fmt.Fprintf(w, "kernel %s, %d CPUs %s\n", m.Kernel, m.CPUs, m.CPU)
	for _, name := range slices.Sorted(maps.Keys(m.Mitigations)) {
		fmt.Fprintf(w, "  %s: %s\n", name, m.Mitigations[name])
	}
}

// table aligns columns, two spaces apart.
type table struct {
	right map[int]bool
	rows  [][]string
}

func newTable(head ...string) *table {
	return &table{right: make(map[int]bool), rows: [][]string{head}}
}

func (t *table) alignRight(columns ...int) {
	for _, column := range columns {
		t.right[column] = true
	}
}

func (t *table) add(cells ...string) {
	t.rows = append(t.rows, cells)
}

func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			if t.right[i] {
				fmt.Fprintf(&line, "%*s  ", widths[i], cell)
			} else {
				fmt.Fprintf(&line, "%-*s  ", widths[i], cell)
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}
