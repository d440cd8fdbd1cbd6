// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"xdplb/internal/datapath"
)

// GrowPlan says how far [RunGrow] goes, and how much it measures on the way.
type GrowPlan struct {
	Plan            // of the packets
	Flows    uint32 // the most flows
	Services int    // the most services
	Backends int    // the most backends of one service
	Repeats  int    // how often each control operation is timed
	Room     uint32 // for flows, where it is not flows that grow; 0: as much as xdplb has by default
	Xdplb    string // path of the command line, whose listing is timed; "": it is not
	Progress io.Writer
}

func (p GrowPlan) say(format string, args ...any) {
	fmt.Fprintf(p.Progress, format+"\n", args...)
}

// upTo returns the steps that are not above a limit, and the limit itself.
func upTo(limit int, steps ...int) []int {
	var result []int
	for _, step := range steps {
		if step < limit {
			result = append(result, step)
		}
	}
	return append(result, limit)
}

// RunGrow measures how xdplb's costs grow: packets over flows, services and backends; the times of control operations
// and the kernel's memory over services and flows.
func RunGrow(plan GrowPlan) (GrowReport, error) {
	start := time.Now()
	plan.Room = cmp.Or(plan.Room, datapath.DefaultCapacity.Flows)
	base, err := LoadBaselines()
	if err != nil {
		return GrowReport{}, err
	}
	defer base.Close()
	report := GrowReport{
		Machine: ThisMachine(), Rounds: plan.Rounds, BatchMS: milliseconds(plan.Batch), Repeats: plan.Repeats, Room: plan.Room,
	}
	for _, measure := range []func(GrowPlan, *Baselines) (Curve, error){overFlows, overServices, overBackends} {
		curve, err := measure(plan, base)
		if err != nil {
			return GrowReport{}, err
		}
		report.Curves = append(report.Curves, curve)
	}
	if report.Control, err = controlRows(plan); err != nil {
		return GrowReport{}, err
	}
	report.Curves = append(report.Curves, controlCurve(report.Control), memoryCurve(report.Control, plan.Room))
	capacity, err := capacityCurve(plan)
	if err != nil {
		return GrowReport{}, err
	}
	report.Curves = append(report.Curves, capacity)
	plan.say("done after %.0f s", time.Since(start).Seconds())
	return report, nil
}

func milliseconds(d time.Duration) float64 {
	return float64(d) / float64(time.Millisecond)
}
