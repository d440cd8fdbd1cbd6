// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// GrowReport is the result of [RunGrow].
type GrowReport struct {
	Machine Machine      `json:"machine"`
	Rounds  int          `json:"rounds"`
	BatchMS float64      `json:"batch_ms"` // of one case in one round
	Repeats int          `json:"repeats"`  // of the control operations
	Room    uint32       `json:"room"`     // for flows, where it is not flows that grow
	Curves  []Curve      `json:"curves"`
	Control []ControlRow `json:"control"`
}

// Write prints the report as tables.
func (r GrowReport) Write(w io.Writer) error {
	r.Machine.write(w)
	fmt.Fprintf(w, "%d rounds, %g ms per point and round, in random order; control operations: medians of %d runs\n",
		r.Rounds, r.BatchMS, r.Repeats)
	for _, curve := range r.Curves {
		fmt.Fprintf(w, "\n%s (%s)\n", curve.Title, curve.Y)
		if err := curve.write(w); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, "\nControl operations (ms) and kernel memory")
	if err := r.writeControl(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, `
x floor  median over the rounds of a packet's ns divided by the floor's ns of the same round, as in "make bench"
services %d flows are spread over them evenly, so that no more services than that see packets of established flows
attach   the first attachment, with room for %d flows and this many services and backends
apply    the whole configuration, from nothing, in one change
seen     one backend's weight, from the beginning of the change until packets are scheduled by it: another thread opens
         one flow after the other, of a service whose other backends have the weight 0
done     the same, until the change has cleaned up
list     the command "xdplb list --json", whole; 0.0: there was no command
memory   of all maps and the program, as the kernel says, with the same room
`, growFlows, r.Room)
	return err
}

// write prints the curve with a row for each x.
func (c Curve) write(w io.Writer) error {
	head := []string{c.X}
	var xs []float64
	rows := make(map[float64][]string)
	for i, line := range c.Lines {
		head = append(head, line.Name)
		for _, p := range line.Points {
			if rows[p.X] == nil {
				xs, rows[p.X] = append(xs, p.X), make([]string, len(c.Lines))
			}
			rows[p.X][i] = p.cell()
		}
	}
	table := newTable(head...)
	for i := range head {
		table.alignRight(i)
	}
	for _, x := range xs {
		table.add(append([]string{strconv.FormatFloat(x, 'f', -1, 64)}, rows[x]...)...)
	}
	return table.write(w)
}

func (p Point) cell() string {
	if p.Nanoseconds != nil {
		return fmt.Sprintf("%.2f (%.0f ns)", p.Y, p.Nanoseconds.Median)
	}
	return number(p.Y)
}

func (r GrowReport) writeControl(w io.Writer) error {
	table := newTable("services", "backends each", "scheduler", "attach", "apply", "seen", "done", "list", "memory MiB")
	table.alignRight(0, 1, 3, 4, 5, 6, 7, 8)
	for _, row := range r.Control {
		table.add(strconv.Itoa(row.Services), strconv.Itoa(row.Backends), row.Scheduler, number(row.Attach),
			number(row.Apply), number(row.Seen), number(row.Changed), number(row.List), number(float64(row.Memory)/mebibyte))
	}
	return table.write(w)
}

// WriteCSV writes every point of every curve as one record.
func (r GrowReport) WriteCSV(w io.Writer) error {
	records := csv.NewWriter(w)
	if err := records.Write([]string{"curve", "line", "x", "y", "x_is", "y_is", "ns_min", "ns_median"}); err != nil {
		return err
	}
	plain := func(value float64) string { return strconv.FormatFloat(value, 'f', -1, 64) }
	for _, curve := range r.Curves {
		for _, line := range curve.Lines {
			for _, p := range line.Points {
				record := []string{curve.Name, line.Name, plain(p.X), fmt.Sprintf("%.3f", p.Y), curve.X, curve.Y, "", ""}
				if p.Nanoseconds != nil {
					record[6], record[7] = number(p.Nanoseconds.Min), number(p.Nanoseconds.Median)
				}
				if err := records.Write(record); err != nil {
					return err
				}
			}
		}
	}
	records.Flush()
	return records.Error()
}

// WriteFiles writes grow.txt, grow.json, grow.csv and one SVG for each curve into a directory, which it makes.
func (r GrowReport) WriteFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]func(io.Writer) error{
		"grow.txt": r.Write,
		"grow.csv": r.WriteCSV,
		"grow.json": func(w io.Writer) error {
			encoder := json.NewEncoder(w)
			encoder.SetIndent("", "  ")
			return encoder.Encode(r)
		},
	}
	machine := fmt.Sprintf("kernel %s, %d CPUs %s", r.Machine.Kernel, r.Machine.CPUs, r.Machine.CPU)
	runs := fmt.Sprintf("packets: medians of %d rounds, control: of %d runs", r.Rounds, r.Repeats)
	for _, curve := range r.Curves {
		files[curve.Name+".svg"] = func(w io.Writer) error { return curve.WriteSVG(w, machine, runs) }
	}
	for name, write := range files {
		if err := writeFile(filepath.Join(dir, name), write); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, write func(io.Writer) error) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if closed := file.Close(); err == nil {
			err = closed
		}
	}()
	if err := write(file); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
