// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"xdplb/internal/testenv"
)

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args, want string
	}{
		{"fast", `unexpected word "fast"`},
		{"--rounds many", "--rounds \"many\": must be an integer"},
		{"--rounds 0", "--rounds 0: want at least 1"},
		{"--batch 1us", "--batch 1µs: want at least 1ms"},
		{"--flows 0", "--flows 0: want 1 to"},
		{"--cpu 100000", "--cpu 100000: want 0 to"},
		{"--only (", "--only: error parsing regexp"},
		{"--live --grow", "--live and --grow: want one of them"},
		{"--grow --only tcp", "--only: --grow measures no cases"},
		{"--grow --services 0", "--services 0: want 1 to 10000"},
		{"--grow --backends 1", "--backends 1: want 2 to 10000"},
		{"--grow --backends 10001", "--backends 10001: want 2 to 10000"},
		{"--grow --repeats 0", "--repeats 0: want at least 1"},
		{"--wrong", "unknown flag: --wrong"},
	} {
		t.Run(test.args, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			if status := run(strings.Fields(test.args), &stdout, &stderr); status != exitUsage {
				t.Errorf("exit status %d, want %d", status, exitUsage)
			}
			if !strings.Contains(stderr.String(), test.want) {
				t.Errorf("stderr %q, want %q in it", &stderr, test.want)
			}
			if stdout.Len() > 0 {
				t.Errorf("stdout %q, want nothing", &stdout)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	if status := run([]string{"--help"}, &stdout, &stderr); status != exitDone {
		t.Errorf("exit status %d, want %d", status, exitDone)
	}
	if !strings.HasPrefix(stdout.String(), "Usage: xdplb-bench") {
		t.Errorf("stdout %q, want the usage", &stdout)
	}
}

func TestFullDevice(t *testing.T) {
	t.Parallel()
	full := testenv.Full(t)
	for _, args := range [][]string{{"--help"}, {"icount", "--help"}} {
		var stderr bytes.Buffer
		status := run(args, full, &stderr)
		if want := "xdplb-bench: writing to standard output: no space left on device\n"; status != exitFailed || stderr.String() != want {
			t.Errorf("%v: exit status %d, %q, want %d, %q", args, status, &stderr, exitFailed, want)
		}
	}
}
