// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
	"xdplb/internal/testenv"
)

// TestRunGrow is the whole measurement, small, and the files that it ends in.
func TestRunGrow(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	var progress strings.Builder
	report, err := RunGrow(GrowPlan{
		Plan: Plan{Rounds: 1, Batch: time.Millisecond}, Flows: 16, Services: 1, Backends: 3, Repeats: 1, Room: 1 << 16,
		Progress: &progress,
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, curve := range report.Curves {
		for _, line := range curve.Lines {
			var xs []float64
			for _, p := range line.Points {
				xs = append(xs, p.X)
				if p.Nanoseconds == nil && p.Y <= 0 && line.Name != "list --json" {
					t.Errorf("%s, %s: impossible point %+v", curve.Name, line.Name, p)
				}
			}
			if diff := cmp.Diff(wantedXs(curve.Name), xs); diff != "" {
				t.Errorf("%s, %s: xs (-want +got):\n%s", curve.Name, line.Name, diff)
			}
		}
		got = append(got, curve.Name+".svg")
	}
	for _, row := range report.Control {
		if row.Attach <= 0 || row.Apply <= 0 || row.Seen <= 0 || row.Changed <= 0 || row.Memory == 0 {
			t.Errorf("impossible row %+v", row)
		}
	}
	if !strings.Contains(progress.String(), "done after") {
		t.Errorf("progress %q does not end", &progress)
	}

	dir := filepath.Join(t.TempDir(), "grow")
	if err := report.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(got, "grow.txt", "grow.json", "grow.csv") {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("no file %s: %v", name, err)
		}
	}
}

func wantedXs(curve string) []float64 {
	return map[string][]float64{
		"flows": {1, 4, 16}, "services": {1}, "backends": {2, 3}, "control": {1}, "memory-services": {1},
		"memory-flows": {16},
	}[curve]
}

// newSpreadDirector makes a director with three services on the ports 1 to 3, and keeps its program attached.
func newSpreadDirector(t *testing.T) *Director {
	t.Helper()
	testenv.Namespace(t)
	capacity := datapath.Capacity{Flows: testFlows, Services: 3, Backends: 6}
	d, err := newDirector(PinDir, testFlows, capacity, func(up uplink) []lb.Service {
		var services []lb.Service
		for port := range 3 {
			services = append(services, lb.Service{
				ServiceKey: growService(lb.RR, 1+port), Scheduler: lb.RR, Backends: up.backends(firstBackend, 2),
			})
		}
		return services
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	idle, err := KeepAttached(d.Programs()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := idle.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// TestSpread sees that flows reach all services alike, each flow always the same one, and that a stray flow is noticed.
func TestSpread(t *testing.T) {
	t.Parallel()
	d := newSpreadDirector(t)
	key, tuple := growService(lb.RR, 1), spreadOver(tuple4.of(clients4, 1<<8), 3)
	hit := d.growHit(key, tuple)
	fresh := &series{name: "new"}
	tuple = tuple.fresh()
	tuple.Base += clientsPerPoint
	fresh.add(3, d.newCase("", "", TX, d.tcp4(key, 0, tcpSYN), tuple))
	// If a flow's packets were spread too, some would be of no flow, and pass to the stack.
	if _, err := Measure([]*Case{hit, fresh.cases[0]}, testPlan); err != nil {
		t.Fatal(err)
	}
	if err := d.verifySum([]*series{fresh}); err != nil {
		t.Fatal(err)
	}
	view, err := datapath.Open(d.pinDir)
	if err != nil {
		t.Fatal(err)
	}
	counted, err := view.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if err := view.Close(); err != nil {
		t.Fatal(err)
	}
	mean := (1<<8 + float64(fresh.cases[0].sequence)) / 3
	for port := range 3 {
		if n := float64(counted[growService(lb.RR, 1+port)].Connections); n < 0.95*mean || n > 1.05*mean {
			t.Errorf("%v connections of service %d, want about %v", n, port, mean)
		}
	}

	stray := d.newCase("stray", "", TX, d.tcp4(key, 0, tcpSYN), tuple4.of(clientsOther, 0).fresh())
	if _, err := stray.run(1); err != nil {
		t.Fatal(err)
	}
	if err := d.verifySum([]*series{fresh}); err == nil {
		t.Error("no error though one connection more was counted than was opened")
	}
}

// TestObserve sees that the observer tells a change from none.
func TestObserve(t *testing.T) {
	t.Parallel()
	d := newSpreadDirector(t)
	key := growService(lb.RR, 1)
	if _, err := d.observe(key, TX); err == nil {
		t.Error("no error though packets have met the verdict all the time")
	}
	if err := d.quiesce(key); err != nil {
		t.Fatal(err)
	}
	waiting := d.newCase("waiting", "", TX, d.tcp4(key, 0, tcpSYN), tuple4.of(clientsOther, 0).fresh())
	if _, err := waiting.until(time.Now().Add(time.Millisecond)); err == nil {
		t.Error("no error though no packet ever met the verdict")
	}
	for _, weight := range []uint32{1, 0, 1} {
		seen, changed, err := d.changeWeight(key, weight)
		if err != nil {
			t.Fatal(err)
		}
		// A grace period lies between the publication and the end of the change.
		if seen <= 0 || changed <= 0 {
			t.Errorf("weight %d: seen after %s, done after %s", weight, seen, changed)
		}
	}
}

// TestServicesPort holds the place of the port against the frame.
func TestServicesPort(t *testing.T) {
	t.Parallel()
	frame := ethernet([6]byte{}, 0, etherTypeIP4, datagram4{
		from: netip.MustParseAddr("10.0.0.1"), to: vip4, protocol: protocolTCP,
	}.build(segment(1024, 0x1234, tcpSYN)))
	at := spreadOver(tuple4, 1).Service
	if frame[at] != 0x12 || frame[at+1] != 0x34 {
		t.Errorf("no destination port at byte %d of % x", at, frame)
	}
}

func TestGrowReport(t *testing.T) {
	t.Parallel()
	report := GrowReport{
		Machine: testMachine, Rounds: 9, BatchMS: 12, Repeats: 3, Room: 1 << 20,
		Curves: []Curve{{
			Name: "test", Title: "Packets, as x grows", X: "x", Y: "x floor",
			Lines: []Line{
				{Name: "hit", Points: []Point{{1, 2.5, &Spread{60, 70}}, {10, 3.25, &Spread{80, 90.4}}}},
				{Name: "memory", Points: []Point{{10, 7, nil}}},
			},
		}},
		Control: []ControlRow{{
			Services: 10, Backends: 100, Scheduler: "mh", Attach: 1, Apply: 22.25, Seen: 3, Changed: 4, List: 5, Memory: 3 << 19,
		}},
	}
	var text, table strings.Builder
	if err := report.Write(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\nPackets, as x grows (x floor)\n x           hit  memory\n 1  2.50 (70 ns)\n10  3.25 (90 ns)     7.0\n",
		"services  backends each  scheduler  attach  apply  seen  done  list  memory MiB\n" +
			"      10            100  mh            1.0   22.2   3.0   4.0   5.0         1.5\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no lines\n%s\nin\n%s", want, &text)
		}
	}
	if err := report.WriteCSV(&table); err != nil {
		t.Fatal(err)
	}
	want := `curve,line,x,y,x_is,y_is,ns_min,ns_median
test,hit,1,2.500,x,x floor,60.0,70.0
test,hit,10,3.250,x,x floor,80.0,90.4
test,memory,10,7.000,x,x floor,,
`
	if diff := cmp.Diff(want, table.String()); diff != "" {
		t.Errorf("CSV (-want +got):\n%s", diff)
	}
}
