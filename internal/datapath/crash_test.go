// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
	"xdplb/internal/testenv"
)

// Environment of the child process that TestKilledWriter starts: this very test binary.
const (
	childState = "XDPLB_TEST_CHILD_STATE" // lb.State as JSON
	childStep  = "XDPLB_TEST_CHILD_STEP"  // after which step it kills itself
	childHold  = "XDPLB_TEST_CHILD_HOLD"  // "shared" or "exclusive": holds the lock until stdin ends
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(childState) != "":
		os.Exit(childChange())
	case os.Getenv(childHold) != "":
		os.Exit(childLock())
	}
	os.Exit(m.Run())
}

// crashStates are two states whose difference needs every step: services and backends come, go and change; next hops
// are found, lost and moved, and limits change.
func crashStates(t testing.TB, ifindex int) (before, after lb.State) {
	t.Helper()
	hop := func(last byte) lb.NextHop { return lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 0, last}, Ifindex: ifindex} }
	backend := func(is6 bool, n int, weight uint32, hop lb.NextHop) lb.Backend {
		return lb.Backend{Addr: address(is6, 2, n), Weight: weight, Hop: hop}
	}
	key := func(is6 bool, n int) lb.ServiceKey {
		return lb.ServiceKey{Addr: addrPort(address(is6, 1, n), 80), Protocol: lb.TCP}
	}
	state := func(services ...lb.Service) lb.State {
		s, err := lb.NewState(services)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	vlan := hop(9)
	vlan.VLAN = 7
	limited := func(b lb.Backend, upper, lower uint32) lb.Backend {
		b.Upper, b.Lower = upper, lower
		return b
	}
	before = state(
		lb.Service{ServiceKey: key(false, 0), Scheduler: lb.RR, Backends: []lb.Backend{
			backend(false, 0, 1, hop(1)), backend(false, 1, 1, lb.NextHop{}), backend(false, 2, 1, hop(3)),
			backend(false, 3, 1, hop(4)), limited(backend(false, 4, 1, vlan), 7, 3),
		}},
		lb.Service{ServiceKey: key(false, 1), Ports: "80,443,8000-8099", Scheduler: lb.WRR,
			Backends: []lb.Backend{backend(false, 0, 3, hop(1))}},
		lb.Service{ServiceKey: key(true, 0), Scheduler: lb.MH, Backends: []lb.Backend{backend(true, 0, 1, hop(1))}},
	)
	after = state(
		lb.Service{ServiceKey: key(false, 0), Scheduler: lb.RR, Backends: []lb.Backend{
			backend(false, 0, 1, hop(11)), backend(false, 1, 1, hop(2)), backend(false, 2, 1, lb.NextHop{}),
			limited(backend(false, 4, 0, hop(5)), 9, 0), limited(backend(false, 5, 1, hop(6)), 5, 0),
		}},
		lb.Service{ServiceKey: key(false, 2), Ports: "80-81", Scheduler: lb.SH, Backends: []lb.Backend{backend(false, 0, 3, hop(1))}},
		lb.Service{ServiceKey: key(true, 0), Scheduler: lb.WRR, Backends: []lb.Backend{backend(true, 0, 1, hop(1)), backend(true, 1, 1, hop(2))}},
	)
	after.Timeouts = lb.Timeouts{TCP: time.Hour, UDP: time.Minute}
	return before, after
}

// countSteps does a change and counts its steps.
func countSteps(t testing.TB, state lb.State) int {
	t.Helper()
	steps := 0
	if _, err := change(pinDir, options{LockTimeout, nil, func(string) error { steps++; return nil }}, to(state)); err != nil {
		t.Fatal(err)
	}
	return steps
}

// withoutHops leaves out what is no configuration but live words: addresses on the wire.
func withoutHops(state lb.State) lb.State {
	state = state.Clone()
	for i := range state.Services {
		for j := range state.Services[i].Backends {
			b := &state.Services[i].Backends[j]
			b.Hop = lb.NextHop{Static: b.Hop.Static}
		}
	}
	return state
}

// checkWhole fails when the live configuration is neither before nor after, or when its tables are not sound.
func checkWhole(t testing.TB, before, after lb.State) {
	t.Helper()
	got := withoutHops(snapshot(t))
	toBefore, toAfter := compareStates(withoutHops(before), got), compareStates(withoutHops(after), got)
	if toBefore != "" && toAfter != "" {
		t.Errorf("neither the state before (-before +got):\n%s\nnor the one after (-after +got):\n%s", toBefore, toAfter)
	}
	checkTables(t)
}

// checkRepair lets the next writers come, after a crash: one that changes nothing, and one that does it again.
func checkRepair(t testing.TB, before, after lb.State) {
	t.Helper()
	checkWhole(t, before, after)
	mustChange(t, func(*lb.State) error { return nil })
	checkWhole(t, before, after)
	checkTidy(t)
	checkEligible(t)
	mustChange(t, to(after))
	if diff := compareStates(after, snapshot(t)); diff != "" {
		t.Errorf("after the second try (-want +got):\n%s", diff)
	}
	checkTidy(t)
	checkTables(t)
	checkEligible(t)
}

// checkEligible fails when a backend that could take new flows is not listed in a table.
func checkEligible(t testing.TB) {
	t.Helper()
	d, live := openLive(t)
	defer d.Close()
	for key, s := range live.services {
		for _, b := range s.backends {
			if want := b.Weight > 0 && b.Hop.Known(); b.listed != want {
				t.Errorf("backend %s of %s: in the lookup table: %v, want %v", b.Addr, key, b.listed, want)
			}
		}
	}
}

func TestFailureAfterEveryStep(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	before, after := crashStates(t, attachment.Ifindex)
	failAfterEveryStep(t, before, after, nil, to(after))
}

// TestFailureOfOneService is the same for a change that looks at one service only.
func TestFailureOfOneService(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	before, all := crashStates(t, attachment.Ifindex)
	after := before.Clone()
	after.Services[0] = all.Services[0]
	failAfterEveryStep(t, before, after, &after.Services[0].ServiceKey, to(lb.State{Services: after.Services[:1]}))
}

func failAfterEveryStep(t *testing.T, before, after lb.State, only *lb.ServiceKey, edit func(*lb.State) error) {
	mustChange(t, to(before))
	steps := countSteps(t, after)
	if steps < 9 {
		t.Fatalf("the change takes %d steps: it should need all", steps)
	}
	failure := errors.New("injected")
	for n := range steps {
		mustChange(t, to(before))
		left := n
		_, err := change(pinDir, options{LockTimeout, only, func(step string) error {
			if left--; left < 0 {
				return fmt.Errorf("%s: %w", step, failure)
			}
			return nil
		}}, edit)
		if !errors.Is(err, failure) {
			t.Fatalf("step %d: error %v, want the injected one", n, err)
		}
		t.Logf("step %d: %v", n, err)
		checkRepair(t, before, after)
	}
}

// TestKilledWriter kills a real process with SIGKILL after every step, and at moments in between.
func TestKilledWriter(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	before, after := crashStates(t, attachment.Ifindex)
	mustChange(t, to(before))
	steps := countSteps(t, after)
	for n := range steps {
		mustChange(t, to(before))
		state := startChild(t, after, n).waitKilled(t)
		t.Logf("step %d: %s", n, state)
		checkRepair(t, before, after)
	}
	for n := range 12 {
		mustChange(t, to(before))
		child := startChild(t, after, steps)
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		if err := child.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.cmd.Wait() // killed, or done before
		t.Logf("random moment %d", n)
		checkRepair(t, before, after)
	}
}

// child is a process of this test binary in the test's namespaces.
type child struct {
	cmd *exec.Cmd
}

func startChild(t testing.TB, state lb.State, step int) child {
	t.Helper()
	text, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childState+"="+string(text), childStep+"="+strconv.Itoa(step))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return child{cmd}
}

func (c child) waitKilled(t testing.TB) string {
	t.Helper()
	_ = c.cmd.Wait()
	status := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with %s, want SIGKILL", c.cmd.ProcessState)
	}
	return c.cmd.ProcessState.String()
}

// childChange is the child: it does a change and kills itself after a step.
func childChange() int {
	var state lb.State
	if err := json.Unmarshal([]byte(os.Getenv(childState)), &state); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	left, err := strconv.Atoi(os.Getenv(childStep))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, err = change(pinDir, options{LockTimeout, nil, func(string) error {
		if left--; left < 0 {
			return unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		return nil
	}}, to(state))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// childLock holds the lock, says so, and gives it back when its standard input ends.
func childLock() int {
	how := map[string]int{"shared": shared, "exclusive": exclusive}[os.Getenv(childHold)]
	lock, err := lockDir(pinDir, how, time.Second)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("locked")
	bufio.NewReader(os.Stdin).ReadByte()
	lock.release()
	return 0
}

func holdLock(t testing.TB, how string) (pid int, release func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childHold+"="+how)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	release = func() {
		stdin.Close()
		_ = cmd.Wait()
	}
	t.Cleanup(release)
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("the child that holds the lock says %q: %v", line, err)
	}
	return cmd.Process.Pid, release
}

func TestLockTimeoutNamesTheHolder(t *testing.T) {
	t.Parallel()
	director(t, small)
	pid, release := holdLock(t, "exclusive")
	short := options{timeout: 50 * time.Millisecond}
	_, err := change(pinDir, short, func(*lb.State) error { return nil })
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != pid || locked.Dir != pinDir {
		t.Errorf("error %v, want a LockedError of %s and process %d", err, pinDir, pid)
	}
	if _, err := open(pinDir, shared, short.timeout); !errors.As(err, &locked) {
		t.Errorf("a reader beside a writer: error %v, want a LockedError", err)
	}
	release()
	mustChange(t, func(*lb.State) error { return nil })

	_, release = holdLock(t, "shared")
	snapshot(t) // readers do not disturb each other
	if _, err := change(pinDir, short, func(*lb.State) error { return nil }); !errors.As(err, &locked) {
		t.Errorf("a writer beside a reader: error %v, want a LockedError", err)
	}
	release()
}

// TestWritersAreSerialised adds backends from several processes' worth of locks at once: none may get lost.
func TestWritersAreSerialised(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Root)
	attachment := director(t, small)
	before, _ := crashStates(t, attachment.Ifindex)
	mustChange(t, to(before))
	key := before.Services[0].ServiceKey
	const writers = 4
	errs := make(chan error, writers)
	for n := range writers {
		// Each in a thread of the test's namespaces: a goroutine elsewhere would not see its BPF filesystem.
		onThisNamespace(t, func() {
			_, err := Change(pinDir, func(s *lb.State) error {
				return s.AddBackend(key, lb.Backend{Addr: address(false, 3, n), Weight: 1})
			})
			errs <- err
		})
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	state := snapshot(t)
	service, _ := state.Service(key)
	if want := len(before.Services[0].Backends) + writers; len(service.Backends) != want {
		t.Errorf("%d backends, want %d", len(service.Backends), want)
	}
}
