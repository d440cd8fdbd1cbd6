// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"xdplb/internal/lab"
	"xdplb/internal/testenv"
)

// actVariable makes this test binary do something else than test: a number lets it raise a cluster and be killed at that step,
// "down" lets it take one down.
const actVariable = "XDPLB_LAB_TEST_ACT"

func TestMain(m *testing.M) {
	act := os.Getenv(actVariable)
	switch act {
	case "":
		os.Exit(m.Run())
	case "down":
		if err := lab.Down(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	default:
		dieAt(act)
	}
}

// dieAt raises a cluster and kills its own process when so many steps have been reported.
func dieAt(word string) {
	last, err := strconv.Atoi(word)
	if err != nil {
		panic(err)
	}
	step := 0
	_, err = lab.Up(context.Background(), crashOptions, func(string) {
		if step++; step == last {
			if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
				panic(err)
			}
		}
	})
	if err != nil {
		panic(err)
	}
}

var crashOptions = lab.Options{Backends: 1, Directors: 2, IPv6: true, WebServers: true}

// act runs this test binary with the variable set.
func act(t *testing.T, word string) *exec.Cmd {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), own)
	cmd.Env = append(os.Environ(), actVariable+"="+word)
	return cmd
}

// leftovers lists what there is in the test's private /run, on the mount table, and of other processes in its mount namespace.
func leftovers(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/run/*", "/run/netns/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	mounts, err := os.ReadFile("/proc/thread-self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if target := strings.Fields(line)[1]; strings.HasPrefix(target, "/run/") {
			found = append(found, "mount "+target)
		}
	}
	return append(found, companions(t)...)
}

// companions lists the processes in the test's mount namespace.
func companions(t *testing.T) []string {
	t.Helper()
	own, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob("/proc/[0-9]*/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range paths {
		pid := strings.Split(path, "/")[2]
		if ns, err := os.Readlink(path); err == nil && ns == own && pid != strconv.Itoa(os.Getpid()) {
			name, _ := os.ReadFile("/proc/" + pid + "/comm") // it may have ended
			found = append(found, "process "+strings.TrimSpace(string(name)))
		}
	}
	return found
}

// TestDownAfterCrash kills Up at every step, and wants Down to remove every trace each time.
func TestDownAfterCrash(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Command("nginx"))
	testenv.Namespace(t)
	before := leftovers(t)
	for step := 1; ; step++ {
		err := act(t, strconv.Itoa(step)).Run()
		if err == nil {
			if step < 20 {
				t.Errorf("raising the cluster took %d steps, want at least 20", step)
			}
			break
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
			t.Fatalf("step %d: %v, want it killed", step, err)
		}
		if _, err := lab.Open(); !errors.Is(err, lab.ErrInterrupted) {
			t.Errorf("step %d: Open after the crash: %v, want %v", step, err, lab.ErrInterrupted)
		}
		if _, err := lab.Up(t.Context(), crashOptions, nil); !errors.Is(err, lab.ErrInterrupted) {
			t.Errorf("step %d: Up after the crash: %v, want %v", step, err, lab.ErrInterrupted)
		}
		if err := lab.Down(); err != nil {
			t.Fatalf("step %d: Down after the crash: %v", step, err)
		}
		if diff := cmp.Diff(before, leftovers(t)); diff != "" {
			t.Fatalf("step %d: left after Down (-before +after):\n%s", step, diff)
		}
	}
	// The last one came to its end and outlives the process that raised it.
	l, err := lab.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if runs, err := l.Host("real1").WebServerRuns(); err != nil || !runs {
		t.Errorf("web server of real1 runs: %v (%v), want true", runs, err)
	}
	var up *lab.UpError
	if _, err := lab.Up(t.Context(), crashOptions, nil); !errors.As(err, &up) || up.Options.Directors != 2 {
		t.Errorf("second Up: %v, want an UpError with the options of the first", err)
	}
	if err := lab.Down(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, leftovers(t)); diff != "" {
		t.Errorf("left after Down (-before +after):\n%s", diff)
	}
	if err := lab.Down(); !errors.Is(err, lab.ErrDown) {
		t.Errorf("second Down: %v, want %v", err, lab.ErrDown)
	}
}

// TestUpCancelled ends Up's context at a step, and wants nothing to stay.
func TestUpCancelled(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	before := leftovers(t)
	ctx, cancel := context.WithCancel(t.Context())
	steps := 0
	_, err := lab.Up(ctx, lab.Options{}, func(string) {
		if steps++; steps == 8 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Up: %v, want %v", err, context.Canceled)
	}
	if diff := cmp.Diff(before, leftovers(t)); diff != "" {
		t.Errorf("left after Up (-before +after):\n%s", diff)
	}
}

// TestForeignNamespace wants Up to refuse a name that it would have to take, and to leave it alone.
func TestForeignNamespace(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	foreign := "/run/netns/" + lab.Namespace("real2")
	if err := os.WriteFile(foreign, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	before := leftovers(t)
	var refused *lab.ForeignNamespaceError
	if _, err := lab.Up(t.Context(), lab.Options{}, nil); !errors.As(err, &refused) || refused.Name != "xdplb-real2" {
		t.Errorf("Up: %v, want it to refuse xdplb-real2", err)
	}
	if diff := cmp.Diff(before, leftovers(t)); diff != "" {
		t.Errorf("left after Up (-before +after):\n%s", diff)
	}
}

// TestDownFromInside wants a process on a host not to saw off its own branch, and other processes there to be ended.
func TestDownFromInside(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	l, err := lab.Up(t.Context(), lab.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	own := act(t, "down")
	inside := l.Host("client").Command(t.Context(), own.Path)
	inside.Env = own.Env
	out, err := inside.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "runs on the cluster's host client") {
		t.Errorf("Down from inside: %v: %s", err, out)
	}
	// A process that does not heed SIGTERM.
	stubborn := l.Host("real1").Command(requestContext(t), "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done")
	ready, err := stubborn.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stubborn.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := lab.Down(); err != nil {
		t.Fatal(err)
	}
	if err := stubborn.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process on real1 ended with %v, want it killed", err)
	}
}

// TestLock wants a second Up or Down to be told that one is at work.
func TestLock(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	l, err := lab.Up(t.Context(), lab.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir, err := os.Open("/run/xdplb-lab")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	var busy *lab.BusyError
	if err := lab.Down(); !errors.As(err, &busy) {
		t.Errorf("Down under the lock: %v, want a BusyError", err)
	}
	if _, err := lab.Up(t.Context(), lab.Options{}, nil); !errors.As(err, &busy) {
		t.Errorf("Up under the lock: %v, want a BusyError", err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	if err := lab.Down(); err != nil {
		t.Error(err)
	}
}
