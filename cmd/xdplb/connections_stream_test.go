// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"xdplb/internal/testenv"
)

// TestConnectionsStream lists a million connections: however it is done, the command's memory does not grow with their
// number. What it maps of the flow table is not its own.
func TestConnectionsStream(t *testing.T) {
	testenv.Namespace(t)
	const (
		connections = 1_000_000
		enough      = 32 << 20 // bytes; it needs about 8 MiB, and 500 to keep all connections
	)
	path := writeConnections(t, connections)
	for _, command := range []string{
		"ip link add eth0 type veth peer name far0",
		"xdplb attach eth0 --flows 2097152 --services 16 --backends 64",
		"xdplb service add 172.10.0.9:80",
		"xdplb backend add 192.168.60.8 --mac 02:00:00:00:00:08 --dev eth0",
		"xdplb import ipvs --connections " + path,
	} {
		words := strings.Fields(command)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	for command, lines := range map[string]int{
		"xdplb connections -n":                         2 + connections,
		"xdplb connections -n --client 10.0.0.0/16":    2 + 1<<16,
		"xdplb connections --json --state ESTABLISHED": 2 + 10*connections,
	} {
		got, written, memory := watchMemory(t, command)
		if got != lines {
			t.Errorf("%s: %d lines, want %d", command, got, lines)
		}
		if memory > enough {
			t.Errorf("%s: %d bytes of memory while %d were written", command, memory, written)
		}
	}
}

// writeConnections writes a file of connections for import.
func writeConnections(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "connections")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewWriter(file)
	for i := range n {
		fmt.Fprintf(lines, "TCP 14:57  ESTABLISHED 10.%d.%d.%d:4000 172.10.0.9:80 192.168.60.8:80\n", i>>16, i>>8&255, i&255)
	}
	if err := lines.Flush(); err != nil {
		t.Fatal(err)
	}
	return path
}

// watchMemory runs a command and reads its output bit by bit. It returns how many lines and bytes that is, and the
// most bytes of memory that the command had meanwhile.
func watchMemory(t *testing.T, command string) (lines, written, memory int) {
	t.Helper()
	words := strings.Fields(command)
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for buffer := make([]byte, 1<<20); ; {
		n, err := io.ReadFull(stdout, buffer)
		lines += bytes.Count(buffer[:n], []byte("\n"))
		written += n
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break // the process may be gone
		}
		if err != nil {
			t.Fatal(err)
		}
		memory = max(memory, anonymousMemory(t, cmd.Process.Pid))
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return lines, written, memory
}

// anonymousMemory is how much of a process's resident memory is its own, in bytes.
func anonymousMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(status), "\nRssAnon:")
	var kilobytes int
	if _, err := fmt.Sscan(rest, &kilobytes); !found || err != nil {
		t.Fatalf("process %d: %v in %q", pid, err, status)
	}
	return kilobytes << 10
}
