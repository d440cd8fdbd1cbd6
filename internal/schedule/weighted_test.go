// SPDX-License-Identifier: Apache-2.0

package schedule_test

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/schedule"
)

func TestRoundRobin(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		weights []uint32
		want    []int
	}{
		{nil, []int{}},
		{[]uint32{0, 0}, []int{}},
		{[]uint32{1, 1}, []int{0, 1}},
		{[]uint32{5, 0, 1, 9}, []int{0, 2, 3}},
	} {
		if diff := cmp.Diff(tt.want, schedule.RoundRobin(tt.weights)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.weights, diff)
		}
	}
}

// lvs schedules n connections as the kernel's wrr does: a position in the list and a threshold, step by step.
func lvs(weights []uint32, n int) []int {
	divisor, largest := 0, 0
	for _, w := range weights {
		a, b := divisor, int(w)
		for b != 0 {
			a, b = b, a%b
		}
		divisor, largest = a, max(largest, int(w))
	}
	var chosen []int
	position, threshold := -1, largest
	for len(chosen) < n {
		position++
		if position == len(weights) {
			position = 0
			threshold -= divisor
			if threshold <= 0 {
				threshold = largest
			}
		}
		if int(weights[position]) >= threshold {
			chosen = append(chosen, position)
		}
	}
	return chosen
}

func TestWeightedIsLVSsSequence(t *testing.T) {
	t.Parallel()
	cases := [][]uint32{{1}, {7}, {1, 1}, {1, 2}, {2, 1}, {4, 3, 2}, {0, 3, 0, 6}, {10, 10, 10}, {100, 200, 50}, {65535, 1},
		{2147483647, 2147483647}, {2147483646, 1073741823}}
	r := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		weights := make([]uint32, 1+r.IntN(20))
		for i := range weights {
			weights[i] = r.Uint32N(12) * 5
		}
		weights[0]++
		cases = append(cases, weights)
	}
	for _, weights := range cases {
		got, err := schedule.Weighted(weights)
		if err != nil {
			t.Fatal(err)
		}
		want := lvs(weights, len(got))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", weights, diff)
		}
		// A whole cycle: every backend has its reduced weight, no more and no less.
		total := uint64(0)
		for _, w := range weights {
			total += uint64(w)
		}
		for i, n := range counts(got, len(weights)) {
			if uint64(n)*total != uint64(weights[i])*uint64(len(got)) {
				t.Errorf("%v: backend %d has %d of %d slots", weights, i, n, len(got))
			}
		}
	}
}

func TestWeightedNoBackend(t *testing.T) {
	t.Parallel()
	for _, weights := range [][]uint32{nil, {0}, {0, 0}} {
		if got, err := schedule.Weighted(weights); err != nil || len(got) != 0 {
			t.Errorf("%v: got %v, %v, want an empty table", weights, got, err)
		}
	}
}

// Where the weights do not fit the table, each share is the exact one rounded down or up.
func TestWeightedBeyondTheTable(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(2, 2))
	cases := [][]uint32{
		{2147483647, 1}, {1, 2147483647}, {2147483647, 2147483646}, {1, 1, 1, 2147483647}, {65536, 1}, {1 << 20, 3, 0, 1 << 30},
	}
	for range 20 {
		weights := make([]uint32, 2+r.IntN(300))
		for i := range weights {
			weights[i] = r.Uint32N(1<<31) >> r.IntN(31)
		}
		weights[0], weights[1] = 1<<31-1, 1<<31-2
		cases = append(cases, weights)
	}
	ramp := make([]uint32, 2000)
	for i := range ramp {
		ramp[i] = uint32(i + 1)
	}
	for _, weights := range append(cases, ramp) {
		got, err := schedule.Weighted(weights)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != schedule.MaxSlots {
			t.Errorf("%d weights: %d slots", len(weights), len(got))
		}
		checkShares(t, got, weights)
	}
}

// checkShares wants each backend's slots to be less than one off its exact share.
func checkShares(t testing.TB, table []int, weights []uint32) {
	t.Helper()
	total := new(big.Int)
	for _, w := range weights {
		total.Add(total, big.NewInt(int64(w)))
	}
	for i, n := range counts(table, len(weights)) {
		off := new(big.Int).Mul(big.NewInt(int64(n)), total)
		off.Sub(off, new(big.Int).Mul(big.NewInt(int64(weights[i])), big.NewInt(int64(len(table)))))
		if off.CmpAbs(total) >= 0 {
			t.Errorf("backend %d of weight %d has %d of %d slots: a slot or more off", i, weights[i], n, len(table))
		}
	}
}

func TestWeightedRounding(t *testing.T) {
	t.Parallel()
	got, err := schedule.Weighted([]uint32{1 << 30, 1<<30 - 1, 1})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{32768, 32767, 1}, counts(got, 3)); diff != "" {
		t.Errorf("slots of each (-want +got):\n%s", diff)
	}
	got, err = schedule.Weighted([]uint32{100003, 100019, 100043})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{21841, 21845, 21850}, counts(got, 3)); diff != "" {
		t.Errorf("by the largest remainder (-want +got):\n%s", diff)
	}
}

func TestWeightedOrderBeyondTheTable(t *testing.T) {
	t.Parallel()
	got, err := schedule.Weighted([]uint32{1 << 30, 1<<30 - 1, 1})
	if err != nil {
		t.Fatal(err)
	}
	// The order is still wrr's: the largest first, the smallest in the last round.
	if diff := cmp.Diff([]int{0, 0, 1, 0, 1}, got[:5]); diff != "" {
		t.Errorf("start (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int{0, 1, 0, 1, 2}, got[len(got)-5:]); diff != "" {
		t.Errorf("end (-want +got):\n%s", diff)
	}
}

func TestManyBackends(t *testing.T) {
	t.Parallel()
	weights := make([]uint32, schedule.MaxSlots)
	for i := range weights {
		weights[i] = 3
	}
	for name, build := range builders {
		if got, err := build(weights); err != nil || slices.Contains(counts(got, len(weights)), 0) {
			t.Errorf("%s: %d backends: error %v, or one has no slot", name, len(weights), err)
		}
		if got, err := build(append(slices.Clip(weights), 0)); err != nil || len(got) < len(weights) {
			t.Errorf("%s: a quiesced backend counts: %d slots, %v", name, len(got), err)
		}
		const want = "65537 backends with a weight above 0: at most 65536 fit a lookup table"
		if _, err := build(append(slices.Clip(weights), 1)); err == nil || err.Error() != want {
			t.Errorf("%s: got error %v, want %q", name, err, want)
		}
	}
}

// builders are the functions that can fail, in one form.
var builders = map[string]func([]uint32) ([]int, error){
	"Weighted":   schedule.Weighted,
	"SourceHash": schedule.SourceHash,
	"Maglev": func(weights []uint32) ([]int, error) {
		return schedule.Maglev(addrs(len(weights)), weights, schedule.MaglevSlots(len(weights)))
	},
}

func TestSourceHash(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		weights []uint32
		slots   int
	}{
		{"none", nil, 0},
		{"quiesced", []uint32{0, 0}, 0},
		{"one", []uint32{9}, 256},
		{"two", []uint32{1, 1}, 256},
		{"common divisor", []uint32{300, 600}, 256},
		{"nine", slices.Repeat([]uint32{1}, 9), 512},
		{"hundred", slices.Repeat([]uint32{7}, 100), 4096},
		{"uneven", []uint32{1000, 1}, 32768},
		{"huge", []uint32{2147483647, 1}, 65536},
		{"many", slices.Repeat([]uint32{1}, 40000), 65536},
	} {
		got, err := schedule.SourceHash(tt.weights)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != tt.slots {
			t.Errorf("%s: %d slots, want %d", tt.name, len(got), tt.slots)
		}
		if tt.slots > 0 {
			checkShares(t, got, tt.weights)
		}
	}
	// LVS's table of two backends: in turn.
	got, err := schedule.SourceHash([]uint32{1, 1})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Repeat([]int{0, 1}, 128), got); diff != "" {
		t.Errorf("two backends (-want +got):\n%s", diff)
	}
}

// TestSourceHashOfQuiesced: clients of a quiesced backend are spread over the others, whose own do not move; not at all if
// all weights were equal.
func TestSourceHashOfQuiesced(t *testing.T) {
	t.Parallel()
	for _, weights := range [][]uint32{{1, 1, 1}, {100, 0, 100, 100, 0}, {6, 0, 2}, {0, 0, 7}, {5, 5, 0, 5, 5}} {
		got, err := schedule.SourceHash(weights)
		if err != nil {
			t.Fatal(err)
		}
		unit := uint32(0)
		for _, w := range weights {
			if w > 0 && (unit == 0 || w < unit) {
				unit = w // of these weights, the divisor of all
			}
		}
		before := slices.Clone(weights)
		for i, w := range weights {
			before[i] = max(w, unit)
		}
		plan, err := schedule.SourceHash(before)
		if err != nil {
			t.Fatal(err)
		}
		takers := make(map[int]bool)
		for slot, owner := range plan {
			switch to := got[slot]; {
			case weights[owner] > 0 && to != owner:
				t.Fatalf("%v: slot %d of backend %d goes to %d", weights, slot, owner, to)
			case weights[to] == 0:
				t.Fatalf("%v: slot %d goes to backend %d, which takes no flows", weights, slot, to)
			case weights[owner] == 0:
				takers[to] = true
			}
		}
		if able := len(schedule.RoundRobin(weights)); able < len(weights) && len(takers) != able {
			t.Errorf("%v: clients of quiesced backends go to %d others, want all %d", weights, len(takers), able)
		}
	}
}

func counts(table []int, backends int) []int {
	n := make([]int, backends)
	for _, i := range table {
		n[i]++
	}
	return n
}

func BenchmarkWeighted(b *testing.B) {
	ramp := make([]uint32, 65536)
	for i := range ramp {
		ramp[i] = uint32(i+1) * 32003
	}
	for name, weights := range map[string][]uint32{"65536 equal": slices.Repeat([]uint32{1}, 65536), "65536 different": ramp} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := schedule.Weighted(weights); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMaglev(b *testing.B) {
	for _, n := range []int{2, 100, 1000, 65536} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			weights, list := slices.Repeat([]uint32{1}, n), addrs(n)
			for b.Loop() {
				if _, err := schedule.Maglev(list, weights, schedule.MaglevSlots(len(list))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("100 weighted", func(b *testing.B) {
		weights, list := make([]uint32, 100), addrs(100)
		for i := range weights {
			weights[i] = uint32(i + 1)
		}
		for b.Loop() {
			if _, err := schedule.Maglev(list, weights, schedule.MaglevSlots(len(list))); err != nil {
				b.Fatal(err)
			}
		}
	})
}
