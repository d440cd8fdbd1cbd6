// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args, want string
	}{
		{"fast", `unexpected word "fast"`},
		{"--rounds 0", "--rounds 0: want at least 1"},
		{"--batch 1us", "--batch 1µs: want at least 1ms"},
		{"--flows 0", "--flows 0: want 1 to"},
		{"--cpu 100000", "--cpu 100000: want 0 to"},
		{"--only (", "--only: error parsing regexp"},
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
