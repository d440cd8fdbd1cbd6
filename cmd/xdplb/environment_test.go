// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A terminal hears of what takes longer than two seconds; a file does not, and neither of what was quicker.
func TestSlowTellsTerminals(t *testing.T) {
	t.Parallel()
	keyboard, screen := terminal(t)
	env := &environment{stderr: screen}
	env.slow("being quick")()
	done := env.slow("waiting for the test")
	defer done()
	text := make([]byte, 100)
	if err := keyboard.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := keyboard.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(bytes.TrimSpace(text[:n])), "xdplb: still waiting for the test ..."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	silent := (&environment{stderr: file}).slow("writing to a file")
	time.Sleep(2100 * time.Millisecond)
	silent()
	if info, err := file.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("a file got %d bytes (%v), want none", info.Size(), err)
	}
}

// terminal opens a pseudo-terminal.
func terminal(t testing.TB) (keyboard, screen *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	keyboard = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { keyboard.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	return keyboard, screen
}
