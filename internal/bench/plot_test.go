// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testCurve has a name that must be escaped, a point for each kind of tick, and some that have no place on the axes.
func testCurve() Curve {
	return Curve{
		Name: "test", Title: "Cost <&> size", X: "size", Y: "cost",
		Lines: []Line{
			{Name: "one", Points: []Point{{X: 1, Y: 3}, {X: 10, Y: 4}, {X: 100, Y: 30}}},
			{Name: "two", Points: []Point{{X: 1, Y: 2.5}, {X: 10, Y: math.NaN()}, {X: 100, Y: 0}, {X: 400, Y: 7}}},
		},
	}
}

func TestPlot(t *testing.T) {
	t.Parallel()
	var svg strings.Builder
	if err := testCurve().WriteSVG(&svg, "a machine", "some runs"); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/plot.svg"
	if *update {
		if err := os.WriteFile(golden, []byte(svg.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), svg.String()); diff != "" {
		t.Errorf("SVG (-want +got):\n%s", diff)
	}
}

// TestPlotDegenerate sees that curves of one point, or none, are still pictures without a NaN.
func TestPlotDegenerate(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string][]Line{
		"no line":   nil,
		"no point":  {{Name: "empty"}},
		"one point": {{Name: "alone", Points: []Point{{X: 1 << 20, Y: 0.004}}}},
	} {
		var svg strings.Builder
		if err := (Curve{Title: name, Lines: lines}).WriteSVG(&svg); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(svg.String(), "NaN") || strings.Contains(svg.String(), "Inf") {
			t.Errorf("%s: a coordinate is no number:\n%s", name, &svg)
		}
		decoder := xml.NewDecoder(strings.NewReader(svg.String()))
		for {
			_, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

func TestAxis(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		values   []float64
		from, to float64
		labels   string
	}{
		{[]float64{1, 4 << 20}, 1, 5e6, "1 10 100 1k 10k 100k 1M 5M"},
		{[]float64{2, 10_000}, 2, 10_000, "2 10 100 1k 10k"},
		{[]float64{3.5, 39}, 2, 50, "2 5 10 20 50"},
		{[]float64{245, 350}, 100, 1000, "100 200 500 1k"},
		{[]float64{1000}, 500, 2000, "500 1k 2k"},
		{nil, 0.5, 2, "0.5 1 2"},
	} {
		a := newAxis(test.values, 0, 100)
		var labels []string
		for _, tick := range a.ticks {
			if tick.labelled {
				labels = append(labels, tickLabel(tick.value))
			}
		}
		if got := strings.Join(labels, " "); got != test.labels {
			t.Errorf("%v: labels %s, want %s", test.values, got, test.labels)
		}
		near := func(a, b float64) bool { return math.Abs(a-b) < 1e-6 }
		if !near(a.from, test.from) || !near(a.to, test.to) || !near(a.place(a.from), 0) || !near(a.place(a.to), 100) {
			t.Errorf("%v: axis from %v to %v, want %v to %v", test.values, a.from, a.to, test.from, test.to)
		}
	}
}
