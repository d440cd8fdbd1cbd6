// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"xdplb/internal/lb"
)

// TestLargeChange applies 1,000 services of 100 backends each at once. The bound is many times what it takes on an idle
// machine: it is there for a wait per service, which would take 15 seconds.
func TestLargeChange(t *testing.T) {
	t.Parallel()
	attachment := director(t, Capacity{Flows: 1024, Services: 1000, Backends: 100_000})
	state := largeState(t, attachment.Ifindex)
	for _, wanted := range []lb.State{state, {}} {
		start := time.Now()
		mustChange(t, to(wanted))
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("a change to %d services took %s", len(wanted.Services), took)
		} else {
			t.Logf("a change to %d services took %s", len(wanted.Services), took)
		}
	}
	checkTidy(t)
}

// largeState has 1,000 services of 100 backends each.
func largeState(t testing.TB, ifindex int) lb.State {
	t.Helper()
	hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Ifindex: ifindex}
	services := make([]lb.Service, 1000)
	for i := range services {
		services[i] = lb.Service{
			ServiceKey: lb.ServiceKey{Addr: addrPort(address(false, 1, i), 80), Protocol: lb.TCP},
			Scheduler:  []lb.Scheduler{lb.RR, lb.WRR}[i%2],
		}
		for j := range 100 {
			b := lb.Backend{Addr: address(false, 2, j), Weight: uint32(1 + (i+j)%3), Hop: hop}
			services[i].Backends = append(services[i].Backends, b)
		}
	}
	state, err := lb.NewState(services)
	if err != nil {
		t.Fatal(err)
	}
	return state
}
