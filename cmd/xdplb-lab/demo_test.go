// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"xdplb/internal/testenv"
)

// requireDemo skips the test on a machine that cannot run the demo.
func requireDemo(t *testing.T) {
	t.Helper()
	needs := []testenv.Need{testenv.Root}
	for _, name := range []string{"nginx", "curl", "ping", "ip", "go"} {
		needs = append(needs, testenv.Command(name))
	}
	testenv.Require(t, needs...)
}

// TestDemo runs the demo with xdplb as it is, and then with ones that have a fault: the demo must see each.
func TestDemo(t *testing.T) {
	t.Parallel()
	requireDemo(t)
	whole := filepath.Join(t.TempDir(), "xdplb")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", whole, "xdplb/cmd/xdplb")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build xdplb: %v\n%s", err, out)
	}
	for _, test := range []struct {
		name  string
		fault string // shell commands before `"$xdplb" "$@"`
		want  string // what the demo says; "": that all is right
	}{
		{"right", ``, ""},
		{"attach fails", `[ "$1" != attach ] || exit 1`, `"xdplb attach eth0" on director`},
		{"generic", `[ "$1" != attach ] || set -- "$@" --mode generic`, `want native`},
		{"listing", `[ "$1" != list ] || exec "$xdplb" list -n --stats`, `the listing is not as expected`},
		{"no turns", `case "$*" in *rr) set -- service add 172.10.0.9:80 --scheduler sh; esac
			if [ "$1" = list ]; then "$xdplb" "$@" | sed 's/ sh$/ rr/'; exit; fi`, `no strict alternation`},
		{"loud real servers", `case "$2" in
			setup) "$xdplb" "$@" && echo 0 | tee /proc/sys/net/ipv4/conf/all/arp_ignore /proc/sys/net/ipv4/conf/all/arp_announce \
				/proc/sys/net/ipv4/conf/lo/arp_announce; exit;;
			check) exit 0; esac`, `no strict alternation`},
		// The listing that has seen connections is the last command before the router looks around.
		{"real1 turns loud", `if [ "$1" = list ] && "$xdplb" list -n | grep -q ' 3  '; then
			nsenter --net=/run/netns/xdplb-real1 sh -c 'echo 0 | tee /proc/sys/net/ipv4/conf/*/arp_announce >/dev/null'; fi`,
			`the router knows 172.10.0.9 at 02:00:c0:a8:3c:08`},
		{"no quiescing", `[ "$2" != set ] || exit 0`, `new requests do not all go to real2`},
		{"no removal", `[ "$2" != del ] || exit 0`, `the listing does not show 192.168.60.9 alone`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			faulty := filepath.Join(t.TempDir(), "xdplb")
			script := fmt.Sprintf("#!/bin/sh\nxdplb=%s\n%s\nexec \"$xdplb\" \"$@\"\n", whole, test.fault)
			if err := os.WriteFile(faulty, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			status, stdout, stderr := command("demo", "--xdplb", faulty)
			if test.want == "" {
				if status != exitDone || !strings.Contains(stdout, "all of it was right") || stderr != "" {
					t.Errorf("status %d\n%s%s", status, stdout, stderr)
				}
			} else if status != exitFailed || !strings.Contains(stderr, test.want) || strings.Contains(stdout, "all of it") {
				t.Errorf("status %d, want %d and %q\n%s%s", status, exitFailed, test.want, stdout, stderr)
			}
			if strings.Contains(stdout, "\x1b") {
				t.Error("colours, but no terminal")
			}
		})
	}
}

// TestDemoInterrupted wants a demo that is stopped half-way to fail, and to leave neither processes nor files.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	requireDemo(t)
	programs := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", programs, "xdplb/cmd/xdplb", "xdplb/cmd/xdplb-lab")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build xdplb and xdplb-lab: %v\n%s", err, out)
	}
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		group  bool // as a terminal does, to all that the demo has started too
		at     string
	}{
		{"SIGINT from a terminal", syscall.SIGINT, true, "The client asks six times"},
		{"SIGINT", syscall.SIGINT, false, "The real servers: hold the VIP"},
		{"SIGTERM", syscall.SIGTERM, false, "Quiesce real1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			files := t.TempDir()
			demo := exec.CommandContext(t.Context(), filepath.Join(programs, "xdplb-lab"), "demo")
			demo.Env = append(os.Environ(), "TMPDIR="+files)
			demo.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			var stderr bytes.Buffer
			demo.Stderr = &stderr
			stdout, err := demo.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := demo.Start(); err != nil {
				t.Fatal(err)
			}
			var said strings.Builder
			var started []process
			for lines := bufio.NewScanner(stdout); lines.Scan(); {
				fmt.Fprintln(&said, lines.Text())
				if started != nil || !strings.Contains(lines.Text(), test.at) {
					continue
				}
				started = descendants(t, demo.Process.Pid)
				target := demo.Process.Pid
				if test.group {
					target = -target
				}
				if err := syscall.Kill(target, test.signal); err != nil {
					t.Fatal(err)
				}
			}
			err = demo.Wait()
			if status := demo.ProcessState.ExitCode(); status != exitFailed {
				t.Errorf("%v, want exit status %d", err, exitFailed)
			}
			if !strings.Contains(stderr.String(), "interrupted") || !strings.Contains(said.String(), "Taking everything down") ||
				strings.Contains(said.String(), "all of it was right") {
				t.Errorf("said\n%s%s", said.String(), stderr.String())
			}
			if !slices.ContainsFunc(started, func(p process) bool { return p.name == "nginx" }) {
				t.Errorf("no nginx among the demo's processes %v", started)
			}
			for _, p := range started {
				p.wantEnded(t)
			}
			if left, err := os.ReadDir(files); err != nil || len(left) > 0 {
				t.Errorf("files left: %v %v", left, err)
			}
		})
	}
}

// process is one that the demo started, held by a file descriptor, which no later process with its number can take.
type process struct {
	name string
	fd   int
}

// wantEnded fails the test if the process still runs after a second.
func (p process) wantEnded(t *testing.T) {
	t.Helper()
	poll := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	for end := time.Now().Add(time.Second); ; {
		n, err := unix.Poll(poll, int(max(0, time.Until(end).Milliseconds())))
		if err == unix.EINTR {
			continue
		}
		if n != 1 || err != nil {
			t.Errorf("a process %s is left (%v)", p.name, err)
		}
		return
	}
}

// descendants returns the processes below one; those that end meanwhile are left out.
func descendants(t *testing.T, parent int) []process {
	t.Helper()
	var found []process
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for _, word := range strings.Fields(string(children)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			fd, err := unix.PidfdOpen(child, 0)
			if err != nil {
				continue
			}
			t.Cleanup(func() { unix.Close(fd) })
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child))
			found = append(found, process{strings.TrimSpace(string(name)), fd})
			found = append(found, descendants(t, child)...)
		}
	}
	return found
}

// TestInterruptOfACommand: a command that the terminal's signal ends before the demo hears of it was interrupted too.
func TestInterruptOfACommand(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		signal syscall.Signal
		want   bool
	}{{syscall.SIGINT, true}, {syscall.SIGKILL, false}} {
		cmd := exec.CommandContext(t.Context(), "sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(test.signal); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); isInterrupt(fmt.Errorf("a step: %w", err)) != test.want {
			t.Errorf("%v: is it an interrupt: want %v", err, test.want)
		}
	}
}
