// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
	"xdplb/internal/testenv"
)

// testFlows is the most flows of a case in a test.
const testFlows = 1 << 12

// testPlan measures as little as shows that it works.
var testPlan = Plan{Rounds: 2, Batch: time.Millisecond}

// newTestDirector makes a director in a namespace of the test's own, with its program kept attached.
func newTestDirector(t *testing.T) *Director {
	t.Helper()
	testenv.Namespace(t)
	director, err := NewDirector(PinDir, testFlows)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := director.Close(); err != nil {
			t.Error(err)
		}
	})
	idle, err := KeepAttached(director.Programs()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := idle.Close(); err != nil {
			t.Error(err)
		}
	})
	return director
}

// TestCases runs some packets of every case: all verdicts, and the connections counted, are as the case says.
func TestCases(t *testing.T) {
	t.Parallel()
	director := newTestDirector(t)
	if err := director.Fill(); err != nil {
		t.Fatal(err)
	}
	for _, c := range director.Cases() {
		if c.Prepare != nil {
			if err := c.Prepare(); err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
		}
		if err := c.before(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if _, err := c.run(100); err != nil {
				t.Error(err)
			}
		}
	}
	if err := director.Verify(); err != nil {
		t.Error(err)
	}
}

// TestCaseNames holds the cases that "make bench" promises, with as many flows as it has.
func TestCaseNames(t *testing.T) {
	t.Parallel()
	var got []string
	for _, c := range (&Director{flows: 1 << 20, opened: make(map[lb.ServiceKey]func() uint64), uplink: loopback(t)}).Cases() {
		got = append(got, c.Name)
	}
	want := []string{
		"tcp-v4-hit", "tcp-v4-hit-4k", "tcp-v4-hit-131k", "tcp-v4-hit-1m",
		"tcp-v4-mh-hit", "tcp-v4-mh-hit-4k", "tcp-v4-mh-hit-131k", "tcp-v4-mh-hit-1m",
		"tcp-v4-syn", "tcp-v4-mh-syn", "tcp-v4-lc-256-syn", "tcp-v4-twos-syn", "tcp-v4-flood", "tcp-v4-mh-flood",
		"tcp-v4-miss", "tcp-v6-hit", "udp-v4-hit", "tcp-v4-vlan-hit", "tcp-v4-quiesced", "icmp-v4-too-big", "udp-v4-frag",
		"pass-no-vip", "pass-non-ip",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// loopback stands for an uplink in cases that send nothing.
func loopback(t *testing.T) uplink {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return uplink{lo, lo}
}

// TestNewFlowsFindTheSameTable: however many flows a case opens, each batch finds the entries of none of them.
func TestNewFlowsFindTheSameTable(t *testing.T) {
	t.Parallel()
	director := newTestDirector(t)
	if err := director.Fill(); err != nil {
		t.Fatal(err)
	}
	live := func() int {
		t.Helper()
		view, err := datapath.Open(PinDir)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		status, err := view.Status()
		if err != nil {
			t.Fatal(err)
		}
		return status.Flows.Live
	}
	filled := live()
	if filled < testFlows {
		t.Fatalf("%d flows were established, the table has %d", testFlows, filled)
	}
	syn := director.syn("", serviceRRNew)
	for range 2 {
		if err := syn.before(); err != nil {
			t.Fatal(err)
		}
		if now := live(); now != filled {
			t.Errorf("a batch begins with %d flows, want %d", now, filled)
		}
		if _, err := syn.run(100); err != nil {
			t.Fatal(err)
		}
		if now := live(); now != filled+100 {
			t.Errorf("a batch of 100 ends with %d flows, want %d", now, filled+100)
		}
	}
}

// TestWrongVerdict sees each kind of case fail when its packets meet another verdict than it says.
func TestWrongVerdict(t *testing.T) {
	t.Parallel()
	director := newTestDirector(t)
	base, err := LoadBaselines()
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	bare, driven := base.Floor, director.noVIP()
	bare.Want, driven.Want = Drop, TX
	unknown := director.hits("tcp-v4", serviceRR)[0] // no flow is established: its packets pass to the stack
	for _, c := range []*Case{bare, driven, unknown} {
		if _, err := Measure([]*Case{c}, testPlan); !errors.Is(err, errVerdict) {
			t.Errorf("%s: error %v, want %v", c.Name, err, errVerdict)
		}
	}
}

// TestQuiesced sees that the case of a quiesced backend has one: new flows are not taken.
func TestQuiesced(t *testing.T) {
	t.Parallel()
	director := newTestDirector(t)
	if _, err := Measure([]*Case{director.quiesced()}, testPlan); err != nil {
		t.Fatal(err)
	}
	fresh := director.syn("new flow", serviceQuiesce)
	fresh.Want = Pass
	if _, err := fresh.run(1); err != nil {
		t.Error(err)
	}
}

// TestVerify sees that flows which were scheduled without the case knowing it are found out, though all are forwarded.
func TestVerify(t *testing.T) {
	t.Parallel()
	director := newTestDirector(t)
	if err := director.Fill(); err != nil {
		t.Fatal(err)
	}
	if _, err := Measure(director.hits("tcp-v4", serviceRR), testPlan); err != nil {
		t.Fatal(err)
	}
	if err := director.Verify(); err != nil {
		t.Fatal(err)
	}
	stray := director.newCase("stray", "", TX, director.tcp4(serviceRR, 0, tcpSYN), tuple4.of(clientsOther, 0).fresh())
	if _, err := stray.run(3); err != nil {
		t.Fatal(err)
	}
	want := "TCP 198.51.100.1:80 counted 4099 connections, of 4096 that were opened"
	if err := director.Verify(); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// TestCrowded sees a wrong verdict excused only where established flows have given way to others.
func TestCrowded(t *testing.T) {
	t.Parallel()
	director := newTestDirector(t)
	if err := director.Fill(); err != nil {
		t.Fatal(err)
	}
	if err := director.explain(errVerdict); errors.Is(err, errCrowded) || !errors.Is(err, errVerdict) {
		t.Errorf("half full: error %v, want %v", err, errVerdict)
	}
	director.flows *= 8
	for range 100 { // SYNs crowd each other out too
		if err := director.Fill(); err == nil {
			break
		} else if !errors.Is(err, errVerdict) {
			t.Fatal(err)
		}
	}
	if err := director.explain(errVerdict); !errors.Is(err, errCrowded) || !errors.Is(err, errVerdict) {
		t.Errorf("overfull: error %v, want %v", err, errCrowded)
	}
}

// TestRun is the whole measurement, short.
func TestRun(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	report, err := Run(testPlan, 1, regexp.MustCompile("^(tcp-v4-hit|tcp-v4-syn|pass-no-vip)$"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, row := range report.Rows {
		names = append(names, row.Name)
		// other figures are differences of these, and mean nothing after so short a time
		if len(row.Gross) != testPlan.Rounds || slices.Min(row.Gross) <= 0 || row.Packets == 0 {
			t.Errorf("row %s has impossible figures: %+v", row.Name, row)
		}
	}
	if got, want := strings.Join(names, " "), "empty floor driver tcp-v4-hit tcp-v4-syn pass-no-vip"; got != want {
		t.Errorf("rows %s, want %s", got, want)
	}
}

// TestRunLive is the same with live frames, which are not lost because their generator stays on one CPU.
func TestRunLive(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	report, err := RunLive(testPlan, testFlows, regexp.MustCompile("^tcp-v4-hit"))
	if err != nil {
		t.Fatal(err)
	}
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil || cpus.Count() != 1 {
		t.Errorf("the generator may run on %d CPUs, error %v", cpus.Count(), err)
	}
	if len(report.Rows) != 3 {
		t.Errorf("%d rows, want the floor, 1 flow and %d flows", len(report.Rows), testFlows)
	}
	for _, row := range report.Rows {
		if row.Frames == 0 || row.Share <= 0 {
			t.Errorf("row %s has impossible figures: %+v", row.Name, row)
		}
	}
}

// TestLost sends live frames to a program that drops them.
func TestLost(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	base, err := LoadBaselines()
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	up, err := addUplink("dropper", "network")
	if err != nil {
		t.Fatal(err)
	}
	held, err := attachNative(base.Empty.Program, up.link)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	chain, err := newChain(up)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := chain.close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := chain.generator(base.Driver, up).run(64); !errors.Is(err, errLost) {
		t.Errorf("error %v, want %v", err, errLost)
	}
}

func TestSelectedNone(t *testing.T) {
	t.Parallel()
	if _, err := selected([]*Case{{Name: "tcp-v4-hit"}}, regexp.MustCompile("sctp")); err == nil {
		t.Error("no error where no case matches")
	}
}
