// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// tolerance is by how much of itself a figure may grow until it counts as worse, or the rounds of a case differ.
const tolerance = 0.02

// Names of the rows of which the ratios are made.
const (
	xdplbHit = "xdplb-rr-hit"
	xdplbNew = "xdplb-rr-new"
	lvsHit   = "lvs-rr-hit"
	lvsNew   = "lvs-rr-new"
)

// ours is how the names of the rows begin that may not grow.
const ours = "xdplb-"

// ICountReport is the result of [RunICount].
type ICountReport struct {
	Machine Machine     `json:"machine"`
	Packets int         `json:"packets"` // of a case in one round
	Rows    []ICountRow `json:"rows"`    // the first is XDP_DROP, the second the floor

	Established LVSRatio `json:"lvs_over_xdplb_established"`
	New         LVSRatio `json:"lvs_over_xdplb_new"`
}

// ICountRow is what was counted of one case.
type ICountRow struct {
	Name string `json:"name"`
	What string `json:"what"`
	// Instructions is per packet, on its whole way from the generator to where it is thrown away: the smallest round's.
	Instructions float64 `json:"instructions"`
	// Alone is without what the row of XDP_DROP takes.
	Alone  float64   `json:"alone"`
	Floors float64   `json:"floors"` // ratio to the floor's instructions
	Rounds []float64 `json:"rounds"`
}

// LVSRatio is LVS's instructions over xdplb's.
type LVSRatio struct {
	Whole float64 `json:"whole"` // of the whole way
	Alone float64 `json:"alone"` // of the rows' Alone
}

// newICountReport computes what follows from the rows' instructions.
func newICountReport(machine Machine, rows []ICountRow) ICountReport {
	report := ICountReport{Machine: machine, Packets: icountPackets, Rows: rows}
	drop, floor := rows[0].Instructions, rows[1].Instructions
	for i := range rows {
		rows[i].Alone = rows[i].Instructions - drop
		rows[i].Floors = rows[i].Instructions / floor
	}
	report.Established = report.ratio(lvsHit, xdplbHit)
	report.New = report.ratio(lvsNew, xdplbNew)
	return report
}

func (r ICountReport) ratio(over, under string) LVSRatio {
	a, b := r.row(over), r.row(under)
	return LVSRatio{Whole: a.Instructions / b.Instructions, Alone: a.Alone / b.Alone}
}

// row returns the row of that name, which is zero if there is none.
func (r ICountReport) row(name string) ICountRow {
	i := slices.IndexFunc(r.Rows, func(row ICountRow) bool { return row.Name == name })
	if i < 0 {
		return ICountRow{}
	}
	return r.Rows[i]
}

// Write prints the report as a table. It leaves out the comparison with another one, which [ICountExpected.Compare] makes.
func (r ICountReport) Write(w io.Writer) error {
	table := newTable("case", "instructions", "less drop", "x floor", "packet")
	table.alignRight(1, 2, 3)
	for _, row := range r.Rows {
		table.add(row.Name, number(row.Instructions), number(row.Alone), fmt.Sprintf("%.2f", row.Floors), row.What)
	}
	r.Machine.write(w)
	fmt.Fprintf(w, "%d rounds of %d packets of each case, none lost; smallest round\n\n", icountRounds, r.Packets)
	if err := table.write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, `
LVS over xdplb   established flow %.2f, new flow %.2f; less drop %.2f and %.2f

instructions     per packet on its whole way: generator, veth, what is measured, veth, thrown away
less drop        without the instructions of xdp-drop: what is measured, and the way on
x floor          instructions divided by the floor's
`, r.Established.Whole, r.New.Whole, r.Established.Alone, r.New.Alone)
	return err
}

// ICountExpected is what an earlier run counted, as it is kept beside the sources.
type ICountExpected struct {
	Kernel       string             `json:"kernel"`
	Instructions map[string]float64 `json:"instructions"` // by row
}

// Expected is what later runs are to be compared with.
func (r ICountReport) Expected() ICountExpected {
	expected := ICountExpected{Kernel: r.Machine.Kernel, Instructions: make(map[string]float64)}
	for _, row := range r.Rows {
		expected.Instructions[row.Name] = math.Round(10*row.Instructions) / 10
	}
	return expected
}

// ErrMoreInstructions means that a row of xdplb's takes more instructions than were expected.
var ErrMoreInstructions = errors.New("more instructions than expected")

// Compare prints by how much each row has changed, and returns [ErrMoreInstructions] if one of xdplb's has grown by more
// than 2 %. The other rows are the kernel's, the generator's, and the compiler's. A row that only one side has is an
// error too.
func (e ICountExpected) Compare(w io.Writer, r ICountReport) error {
	if e.Kernel != r.Machine.Kernel {
		fmt.Fprintf(w, "expected figures are of another kernel, %s\n", e.Kernel)
	}
	table := newTable("case", "expected", "counted", "change")
	table.alignRight(1, 2, 3)
	var grown, unknown []string
	missing := maps.Clone(e.Instructions)
	for _, row := range r.Rows {
		expected, ok := e.Instructions[row.Name]
		if !ok {
			unknown = append(unknown, row.Name)
			continue
		}
		delete(missing, row.Name)
		change := row.Instructions/expected - 1
		table.add(row.Name, number(expected), number(row.Instructions), fmt.Sprintf("%+.2f %%", 100*change))
		if change > tolerance && strings.HasPrefix(row.Name, ours) {
			grown = append(grown, row.Name)
		}
	}
	if err := table.write(w); err != nil {
		return err
	}
	unknown = append(unknown, slices.Sorted(maps.Keys(missing))...)
	if len(unknown) > 0 {
		return fmt.Errorf("not both counted and expected: %s", strings.Join(unknown, ", "))
	}
	if len(grown) > 0 {
		return fmt.Errorf("%w, by more than %g %%: %s", ErrMoreInstructions, 100*tolerance, strings.Join(grown, ", "))
	}
	return nil
}
