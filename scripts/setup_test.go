// SPDX-License-Identifier: Apache-2.0

// Package scripts tests the scripts of this folder.
package scripts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/testenv"
)

// setUp runs the set-up script for the demo, not as root, on a machine that has the tools of a script, Go, and these
// commands, which do nothing.
func setUp(t *testing.T, commands ...string) (stdout, stderr string, status int) {
	t.Helper()
	path := t.TempDir()
	for _, tool := range []string{"bash", "cut", "dirname", "go", "sed", "sort"} {
		real, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, filepath.Join(path, tool)); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range append(commands, "id") {
		if err := os.WriteFile(filepath.Join(path, command), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var out, talk bytes.Buffer
	cmd := exec.Command("./setup", "demo")
	cmd.Env = append(os.Environ(), "PATH="+path)
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return out.String(), talk.String(), cmd.ProcessState.ExitCode()
}

// TestSetupElsewhere is on a system that is neither Debian nor Ubuntu: what is missing is named, each command with the
// package that brings it on Debian.
func TestSetupElsewhere(t *testing.T) {
	t.Parallel()
	_, stderr, status := setUp(t, "nginx", "ip", "ping")
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	want := "setup: this is neither Debian nor Ubuntu; install what is missing:"
	if status != 1 || lines[0] != want {
		t.Errorf("status %d, want 1; it said\n%s\nwant\n%s", status, stderr, want)
	}
	var named []string
	for _, line := range lines[1:] {
		if !strings.Contains(line, "ca-certificates") { // which are there or not
			named = append(named, line)
		}
	}
	if diff := cmp.Diff([]string{
		"setup:   curl (Debian's package curl)",
		"setup:   nsenter (Debian's package util-linux)",
	}, named); diff != "" {
		t.Errorf("what is named (-want +got):\n%s", diff)
	}
}

// TestSetupNothingMissing wants silence where all is there, whatever the system is.
func TestSetupNothingMissing(t *testing.T) {
	t.Parallel()
	testenv.Require(t, func() error {
		_, err := os.Stat("/etc/ssl/certs/ca-certificates.crt")
		return err
	})
	if stdout, stderr, status := setUp(t, "curl", "ip", "nginx", "nsenter", "ping"); status != 0 || stdout != "" || stderr != "" {
		t.Errorf("status %d, want 0; it said\n%s%s\nwant nothing", status, stdout, stderr)
	}
}

// TestSetupUnprivileged is on Debian without root: nothing is installed, and the command that would do it is named.
func TestSetupUnprivileged(t *testing.T) {
	t.Parallel()
	_, stderr, status := setUp(t, "nginx", "ip", "ping", "curl", "apt-get")
	if want := "or: apt-get install "; status != 1 || !strings.Contains(stderr, want) || !strings.Contains(stderr, "util-linux") {
		t.Errorf("status %d, want 1; it said\n%s\nwant in it %q and util-linux", status, stderr, want)
	}
}
