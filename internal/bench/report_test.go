// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

var testMachine = Machine{
	Kernel: "6.1.0 x86_64", CPU: "Example", CPUs: 2,
	Mitigations: map[string]string{"spectre_v2": "Mitigation: Retpolines", "mds": "Vulnerable"},
}

// testSamples are three rounds, of which the second ran on a machine twice as slow.
func testSamples() []Samples {
	driver := new(ebpf.Variable)
	return []Samples{
		{Case: &Case{Name: "empty", What: "nothing", Want: Drop}, Packets: 100, Gross: []float64{20, 40, 22}},
		{Case: &Case{Name: "floor", What: "least", Want: TX}, Packets: 100, Gross: []float64{30, 60, 30}},
		{Case: &Case{Name: "driver", What: "alone", Want: TX, Driver: driver}, Packets: 100, Gross: []float64{25, 50, 27}},
		{Case: &Case{Name: "hit", What: "a flow", Want: TX, Driver: driver}, Packets: 10, Gross: []float64{65, 130, 95}},
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	report := NewReport(testMachine, Plan{Rounds: 3, Batch: 12 * time.Millisecond}, testSamples())
	want := Row{
		Name: "hit", What: "a flow", Verdict: "TX", Packets: 30,
		Estimate: Spread{Min: 60, Median: 90}, // 60, 120, 90
		Net:      68,                          // 40, 80, 68
		Floors:   2,                           // 2, 2, 3
		Gross:    []float64{65, 130, 95},
	}
	if diff := cmp.Diff(want, report.Rows[3]); diff != "" {
		t.Errorf("row of the case (-want +got):\n%s", diff)
	}
	if floor := report.Rows[1]; floor.Floors != 1 || floor.Net != 10 {
		t.Errorf("the floor is %v floors and %v ns net, want 1 and 10", floor.Floors, floor.Net)
	}
	if driver := report.Rows[2]; driver.Net != 0 {
		t.Errorf("the driver alone is %v ns net, want 0", driver.Net)
	}
}

func TestReportTable(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	if err := NewReport(testMachine, Plan{Rounds: 3, Batch: 12 * time.Millisecond}, testSamples()).Write(&text); err != nil {
		t.Fatal(err)
	}
	want := `kernel 6.1.0 x86_64, 2 CPUs Example
  mds: Vulnerable
  spectre_v2: Mitigation: Retpolines
3 rounds, 12 ms per case and round, in random order; all 930 packets met their verdict

case    verdict  ns min  ns median   net  x floor  packet
empty   DROP       20.0       22.0   0.0     0.67  nothing
floor   TX         30.0       30.0  10.0     1.00  least
driver  TX         20.0       22.0   0.0     0.67  alone
hit     TX         60.0       90.0  68.0     2.00  a flow

`
	got, _, _ := strings.Cut(text.String(), "ns       per packet")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestReportJSON(t *testing.T) {
	t.Parallel()
	report := NewReport(testMachine, Plan{Rounds: 3, Batch: 12 * time.Millisecond}, testSamples())
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(report, back); diff != "" {
		t.Errorf("through JSON (-want +got):\n%s", diff)
	}
	var fields struct {
		Rows []map[string]any `json:"rows"`
	}
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"name": "hit", "what": "a flow", "verdict": "TX", "packets": 30.,
		"ns": map[string]any{"min": 60., "median": 90.}, "net_ns": 68., "floors": 2.,
		"gross_ns": []any{65., 130., 95.},
	}
	if diff := cmp.Diff(want, fields.Rows[3]); diff != "" {
		t.Errorf("JSON of a row (-want +got):\n%s", diff)
	}
}

func TestLiveReport(t *testing.T) {
	t.Parallel()
	plan := Plan{Rounds: 2, Batch: 100 * time.Millisecond}
	report := newLiveReport(testMachine, plan, []Samples{
		{Case: &Case{Name: "floor", What: "least"}, Packets: 50, Gross: []float64{200, 300}},
		{Case: &Case{Name: "hit", What: "a flow"}, Packets: 40, Gross: []float64{400, 400}},
	})
	want := LiveRow{
		Name: "hit", What: "a flow", Frames: 80, Nanoseconds: Spread{Min: 400, Median: 400}, Mpps: 2.5, Share: 0.625,
		Gross: []float64{400, 400},
	}
	if diff := cmp.Diff(want, report.Rows[1]); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
	var text strings.Builder
	if err := report.Write(&text); err != nil {
		t.Fatal(err)
	}
	if line := "hit     400.0      400.0  2.50            0.62  a flow\n"; !strings.Contains(text.String(), line) {
		t.Errorf("no line %q in the table:\n%s", line, &text)
	}
}
