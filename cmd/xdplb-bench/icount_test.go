// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xdplb/internal/bench"
)

func TestICountWrongUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"icount fast":                "unexpected word",
		"icount --json":              "need --report",
		"icount --expected e":        "need --report",
		"icount --report r --update": "--update needs --expected",
	} {
		var stdout, stderr bytes.Buffer
		if status := run(strings.Fields(args), &stdout, &stderr); status != exitUsage {
			t.Errorf("%s: exit status %d, want %d", args, status, exitUsage)
		}
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: stderr %q, want %q in it", args, &stderr, want)
		}
	}
}

// TestICountGate: figures that were stored pass, and fail once xdplb takes more.
func TestICountGate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	report, expected := filepath.Join(dir, "report"), filepath.Join(dir, "expected")
	store := func(instructions float64) {
		text, err := json.Marshal(bench.ICountReport{Rows: []bench.ICountRow{{Name: "xdplb-rr-hit", Instructions: instructions}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(report, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		instructions float64
		flags        string
		want         int
	}{
		{1000, "", exitFailed}, // nothing is stored yet
		{1000, "--update", exitDone},
		{1010, "", exitDone},
		{1030, "--json", exitFailed},
		{1030, "--update", exitDone},
		{1030, "", exitDone},
	} {
		store(step.instructions)
		args := append([]string{"icount", "--report", report, "--expected", expected}, strings.Fields(step.flags)...)
		var stdout, stderr bytes.Buffer
		if status := run(args, &stdout, &stderr); status != step.want {
			t.Errorf("%g %s: exit status %d, want %d: %s", step.instructions, step.flags, status, step.want, &stderr)
		}
	}
}
