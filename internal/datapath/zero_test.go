// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"xdplb/internal/lb"
)

// countBackends lets every backend count something of its own, and removes one of the first service, so that it has
// counts that are no backend's.
func countBackends(t testing.TB, state lb.State) (counted map[lb.ServiceKey]ServiceStats) {
	t.Helper()
	mustChange(t, to(lb.State{}))
	mustChange(t, to(state))
	d, live := openLive(t)
	scale := uint64(1)
	for _, s := range live.list {
		for _, b := range s.backends {
			d.count(t, b.id, scale)
			scale *= 3
		}
	}
	d.Close()
	first := state.Services[0]
	mustChange(t, func(s *lb.State) error { return s.DeleteBackend(first.ServiceKey, first.Backends[0].Addr) })
	return stats(t)
}

// zeroes says whether nothing was counted.
func zeroes(s ServiceStats) bool {
	for _, b := range s.Backends {
		if b.Counters != (Counters{}) {
			return false
		}
	}
	return s.Counters == Counters{}
}

var byAddr = cmpopts.EquateComparable(Counters{}, BackendStats{}, lb.ServiceKey{}.Addr.Addr())

func TestZero(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	state, _ := crashStates(t, attachment.Ifindex)
	counted := countBackends(t, state)
	key := state.Services[0].ServiceKey
	for k, s := range counted {
		if zeroes(s) {
			t.Fatalf("%s has counted nothing", k)
		}
	}

	if err := Zero(pinDir, key); err != nil {
		t.Fatal(err)
	}
	got := stats(t)
	for k, s := range got {
		if zero := zeroes(s); zero != (k == key) {
			t.Errorf("%s has counted %+v", k, s)
		}
	}
	delete(got, key)
	delete(counted, key)
	if diff := cmp.Diff(counted, got, byAddr); diff != "" {
		t.Errorf("other services (-want +got):\n%s", diff)
	}

	// A change of the service, and of others, leaves it so, and what it counts from now on adds up when a backend goes.
	mustChange(t, func(s *lb.State) error {
		return s.SetService(key, func(s *lb.Service) error { s.Scheduler = lb.WRR; return nil })
	})
	if s := stats(t)[key]; !zeroes(s) {
		t.Errorf("after a change, it has counted %+v", s)
	}
	d, live := openLive(t)
	b := live.services[key].backends[1]
	more := d.count(t, b.id, 1e6).minus(b.base)
	d.Close()
	mustChange(t, func(s *lb.State) error { return s.DeleteBackend(key, b.Addr) })
	if got := stats(t)[key].Counters; got != more {
		t.Errorf("after another %+v and a removal: %+v", more, got)
	}

	if err := Zero(pinDir); err != nil {
		t.Fatal(err)
	}
	for k, s := range stats(t) {
		if !zeroes(s) {
			t.Errorf("%s has counted %+v", k, s)
		}
	}
	if err := Zero(pinDir, lb.ServiceKey{}); !errors.Is(err, lb.ErrNotFound) {
		t.Errorf("zeroing what is not there: %v", err)
	}
	checkTidy(t)
}

func (c Counters) minus(base xdplbCounters) Counters {
	return Counters{c.Connections - base.Connections, c.Packets - base.Packets, c.Bytes - base.Bytes}
}

// TestZeroFails ends zeroing after every step: all services have what they had, or all nothing.
func TestZeroFails(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	state, _ := crashStates(t, attachment.Ifindex)
	failure := errors.New("injected")
	for n := 0; ; n++ {
		counted := countBackends(t, state)
		left := n
		err := zeroCounters(pinDir, options{LockTimeout, nil, func(step string) error {
			if left--; left < 0 {
				return fmt.Errorf("%s: %w", step, failure)
			}
			return nil
		}}, nil)
		check := func() {
			t.Helper()
			whole, got := 0, stats(t)
			for _, s := range got {
				if zeroes(s) {
					whole++
				}
			}
			if diff := cmp.Diff(counted, got, byAddr); diff != "" && whole != len(got) {
				t.Errorf("step %d, %v: %d of %d services are zeroed; (-before +got):\n%s", n, err, whole, len(got), diff)
			}
		}
		check()
		mustChange(t, func(*lb.State) error { return nil })
		check()
		checkTidy(t)
		if err == nil {
			break
		}
	}
}

// TestRemovalCountsOnce ends the removal of a backend after every step, twice: what it had counted is its service's,
// once, when a writer has cleaned up.
func TestRemovalCountsOnce(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	state, _ := crashStates(t, attachment.Ifindex)
	key := state.Services[0].ServiceKey
	failure := errors.New("injected")
	for n := 0; ; n++ {
		counted := countBackends(t, state)[key].Counters
		left := n
		fail := func(string) error {
			if left--; left < 0 {
				return failure
			}
			return nil
		}
		_, err := change(pinDir, options{LockTimeout, nil, fail}, func(s *lb.State) error {
			return s.DeleteBackend(key, state.Services[0].Backends[1].Addr)
		})
		for again := range n {
			left = again
			_, _ = change(pinDir, options{LockTimeout, nil, fail}, func(*lb.State) error { return failure })
		}
		mustChange(t, func(*lb.State) error { return nil })
		if got := stats(t)[key].Counters; got != counted {
			t.Errorf("step %d, %v: the service has %+v, want %+v", n, err, got, counted)
		}
		if err == nil {
			break
		}
	}
}

// TestRemovalCountsOnceHalfForgotten ends it in the middle of making the old side a copy of the live one.
func TestRemovalCountsOnceHalfForgotten(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	state, _ := crashStates(t, attachment.Ifindex)
	service := state.Services[0]
	counted := countBackends(t, state)[service.ServiceKey].Counters
	failure := errors.New("injected")
	_, err := change(pinDir, options{LockTimeout, nil, func(step string) error {
		if step == "closing the accounts of retired backends" {
			return failure
		}
		return nil
	}}, func(s *lb.State) error {
		one, other := service.Backends[1].Addr, service.Backends[2].Addr
		return errors.Join(s.DeleteBackend(service.ServiceKey, one), s.DeleteBackend(service.ServiceKey, other))
	})
	if !errors.Is(err, failure) {
		t.Fatal(err)
	}
	d, live := openLive(t)
	old, now := d.info.side(1-side(live.epoch)), d.info.side(side(live.epoch))
	for id := range old {
		if old[id] != now[id] {
			old[id] = now[id]
			break
		}
	}
	d.Close()
	mustChange(t, func(*lb.State) error { return nil })
	if got := stats(t)[service.ServiceKey].Counters; got != counted {
		t.Errorf("the service has %+v, want %+v", got, counted)
	}
}
