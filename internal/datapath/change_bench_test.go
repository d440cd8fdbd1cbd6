// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"
	"testing"
	"time"

	"xdplb/internal/lb"
)

// BenchmarkWeight changes one weight among 1,000 services of 100 backends. "seen-ms" is the median time until packets see
// it, "op" the time until the change has cleaned up.
func BenchmarkWeight(b *testing.B) {
	attachment := director(b, Capacity{Flows: 1024, Services: 1000, Backends: 100_000})
	state := largeState(b, attachment.Ifindex)
	mustChange(b, to(state))
	key, addr := state.Services[500].ServiceKey, state.Services[500].Backends[50].Addr
	var seen []time.Duration
	for b.Loop() {
		start := time.Now()
		after := func(step string) error {
			if step == "publishing" {
				seen = append(seen, time.Since(start))
			}
			return nil
		}
		_, err := change(pinDir, options{LockTimeout, &key, after}, func(state *lb.State) error {
			return state.SetBackend(key, addr, func(backend *lb.Backend) error {
				backend.Weight = uint32(len(seen) % 2)
				return nil
			})
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(seen)
	b.ReportMetric(float64(seen[len(seen)/2].Microseconds())/1000, "seen-ms")
}
