// SPDX-License-Identifier: Apache-2.0

// Package testenv gives tests the real kernel without letting them touch the machine: it says what a test needs, and
// puts the test into network and mount namespaces of its own.
package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// RequireAll is the environment variable that, when set, turns every skip for a missing need into a failure. CI sets
// it, so that a test cannot fall silent.
const RequireAll = "XDPLB_REQUIRE_ALL"

// A Need is something that a test cannot run without. It returns what is missing, or nil.
type Need func() error

// Root is the need for user id 0 (namespaces, XDP, netlink writes).
func Root() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("needs root: run it with sudo")
	}
	return nil
}

// Command is the need for an executable in PATH.
func Command(name string) Need {
	return func() error {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("needs the command %s: run scripts/setup", name)
		}
		return nil
	}
}

// Require skips the test when a need is not met, or fails it when RequireAll is set.
func Require(tb testing.TB, needs ...Need) {
	tb.Helper()
	for _, need := range needs {
		if err := need(); err != nil {
			if os.Getenv(RequireAll) != "" {
				tb.Fatalf("%v (%s is set)", err, RequireAll)
			}
			tb.Skip(err)
		}
	}
}

// RequireLVS skips the test where the kernel has no LVS, with RequireAll too: the guests of scripts/kernels have it, and CI
// runs such tests there.
func RequireLVS(tb testing.TB) {
	tb.Helper()
	if _, err := os.Stat("/proc/net/ip_vs"); err != nil {
		tb.Skip("needs a kernel with LVS: modprobe ip_vs")
	}
}

// RequireSCTP skips the test where the kernel has no SCTP, as RequireLVS does.
func RequireSCTP(tb testing.TB) {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		tb.Skipf("needs a kernel with SCTP: modprobe sctp: %v", err)
	}
	unix.Close(fd)
}

// Full is a file to which nothing can be written, as to one on a full device. It is closed at the test's end.
func Full(tb testing.TB) *os.File {
	tb.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { full.Close() })
	return full
}

// Namespace moves the calling goroutine, for the rest of its life, into namespaces of its own, as [Isolate] does. The
// thread is never given back to the runtime: it ends with the test, and the namespaces with it.
func Namespace(tb testing.TB) {
	tb.Helper()
	Require(tb, Root)
	runtime.LockOSThread()
	if err := Isolate(); err != nil {
		tb.Fatal(err)
	}
}
