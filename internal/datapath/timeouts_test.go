// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"xdplb/internal/lb"
)

// setTimeouts is a change of nothing else.
func setTimeouts(t testing.TB, timeouts lb.Timeouts) {
	t.Helper()
	mustChange(t, func(s *lb.State) error {
		s.Timeouts = timeouts
		return nil
	})
}

// TestListingKnowsTheTimeouts puts a flow in each state, of an age on both sides of its timeout, and looks whether it is
// listed, how long it has left, and whether a sweep frees it.
func TestListingKnowsTheTimeouts(t *testing.T) {
	t.Parallel()
	d, _, live := withFlows(t)
	backend := live.list[0].backends[0]
	d.Close()
	for _, set := range someTimeouts() {
		setTimeouts(t, set)
		d, err := Open(pinDir)
		if err != nil {
			t.Fatal(err)
		}
		generation := d.backends.get(backend.id).Generation
		for _, c := range timeoutCases() {
			const margin = 2 // ticks
			timeout := uint32(c.left(set) >> tickShift)
			for age, want := range map[uint32]int{timeout - min(timeout, margin): 1, timeout + 1 + margin: 0} {
				d.putFlow(t, 3, 1, backend.id, generation, age, c.state)
				var left []time.Duration
				list, err := d.Connections()
				if err != nil {
					t.Fatal(err)
				}
				list.Walk(func(c Connection) bool { left = append(left, c.Left); return true })
				list.Close()
				freed, err := d.Sweep(t.Context())
				if err != nil || len(left) != want || freed != 1-want {
					t.Errorf("timeouts %s, state %d, idle for %d ticks: listed %d, freed %d, %v", set, c.state, age, len(left), freed, err)
				}
				if want == 1 && (left[0]-c.left(set)+time.Duration(age)*Tick).Abs() > margin*Tick {
					t.Errorf("timeouts %s, state %d, idle for %d ticks: %s are left of %s", set, c.state, age, left[0], c.left(set))
				}
			}
			d.putFlow(t, 3, 1, 0, 0, 0, 0)
		}
		d.Close()
	}
}

// TestTimeoutsStay: they are set for good, whoever is attached, and a change of one service does not touch them.
func TestTimeoutsStay(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	before, _ := crashStates(t, attachment.Ifindex)
	mustChange(t, to(before))
	want := lb.Timeouts{TCP: 2 * time.Hour, UDP: time.Second}
	setTimeouts(t, want)
	key := before.Services[0].ServiceKey
	if _, err := ChangeService(pinDir, key, func(s *lb.State) error { return s.DeleteService(key) }); err != nil {
		t.Fatal(err)
	}
	if err := Zero(pinDir); err != nil {
		t.Fatal(err)
	}
	addVeth(t, "eth1", "far1")
	if _, err := Attach(pinDir, "eth1", Auto, Capacity{}); err != nil {
		t.Fatal(err)
	}
	if got := snapshot(t).Timeouts; got != want {
		t.Errorf("timeouts %s, want %s", got, want)
	}
	checkTidy(t)
	if plan := mustChange(t, func(s *lb.State) error { s.Timeouts = want; return nil }); !plan.Empty() {
		t.Errorf("set again, the plan is %v", plan.Changes)
	}
}

// TestLongerTimeoutsSettleLater: a flow that is idle for no longer than the new timeout may have no entry.
func TestLongerTimeoutsSettleLater(t *testing.T) {
	t.Parallel()
	key, backends := hashedService(t, director(t, small).Ifindex)
	mustChange(t, func(s *lb.State) error { return s.AddBackend(key, backends[2]) })
	now, err := ticks()
	if err != nil {
		t.Fatal(err)
	}
	after := func(when string, seconds uint32) {
		t.Helper()
		want := uint32(time.Duration(seconds) * time.Second >> tickShift)
		if got := readHashed(t, key).service.Settles - now; got < want || got > want+60 {
			t.Errorf("%s: settles after %d ticks, want about %d", when, got, want)
		}
	}
	after("LVS's timeouts", 900)
	setTimeouts(t, lb.Timeouts{TCP: 2 * time.Hour})
	after("longer ones", 7200)
	setTimeouts(t, lb.Timeouts{})
	after("shorter ones", 7200)
	setTimeouts(t, lb.Timeouts{UDP: time.Hour})
	after("between", 7200)
	mustChange(t, func(s *lb.State) error { return s.DeleteBackend(key, backends[2].Addr) })
	pastSettling(t)
	settled := readHashed(t, key).service.Settles
	setTimeouts(t, lb.Timeouts{UDP: 2 * time.Hour})
	if got := readHashed(t, key).service.Settles; got != settled {
		t.Errorf("settles at %d, when it was over at %d", got, settled)
	}
}

// TestTakeOverWithTimeouts: connections that come with longer timeouts keep the time that they have left.
func TestTakeOverWithTimeouts(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	before, _ := crashStates(t, attachment.Ifindex)
	mustChange(t, to(before))
	service := before.Services[0]
	const left = 2 * time.Hour
	connection := Connection{
		Service: service.ServiceKey, Client: addrPort(address(false, 9, 1), 4000), VIPPort: 80,
		Backend: service.Backends[0].Addr, State: StateEstablished, Left: left,
	}
	edit := func(s *lb.State) error { s.Timeouts.TCP = 3 * time.Hour; return nil }
	if _, _, err := TakeOver(pinDir, edit, []Connection{connection}); err != nil {
		t.Fatal(err)
	}
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	list, err := d.Connections()
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	list.Walk(func(c Connection) bool {
		if (c.Left - left).Abs() > time.Minute {
			t.Errorf("%s are left, want %s", c.Left, left)
		}
		connection = Connection{}
		return true
	})
	if connection != (Connection{}) {
		t.Error("the connection is not there")
	}
}
