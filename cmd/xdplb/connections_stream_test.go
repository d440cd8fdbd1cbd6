// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"xdplb/internal/testenv"
)

// heapWatch is an output that looks, now and then, how much memory its writer holds.
type heapWatch struct {
	before, most uint64 // bytes
	writes       int
	written      int
}

func (w *heapWatch) Write(text []byte) (int, error) {
	if w.writes%20 == 0 {
		heap := heapInUse()
		if w.writes == 0 {
			w.before = heap
		}
		w.most = max(w.most, heap)
	}
	w.writes++
	w.written += len(text)
	return len(text), nil
}

func heapInUse() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// TestConnectionsStream lists many connections: however it is done, memory does not grow with their number.
func TestConnectionsStream(t *testing.T) {
	testenv.Namespace(t)
	const connections = 100_000
	path := filepath.Join(t.TempDir(), "connections")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewWriter(file)
	for i := range connections {
		fmt.Fprintf(lines, "TCP 14:57  ESTABLISHED 10.%d.%d.%d:4000 172.10.0.9:80 192.168.60.8:80\n", i>>16, i>>8&255, i&255)
	}
	if err := lines.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{
		"ip link add eth0 type veth peer name far0",
		"xdplb attach eth0 --flows 262144 --services 16 --backends 64",
		"xdplb service add 172.10.0.9:80",
		"xdplb backend add 192.168.60.8 --mac 02:00:00:00:00:08 --dev eth0",
		"xdplb import ipvs --connections " + path,
	} {
		words := strings.Fields(command)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	for name, list := range map[string]func(*environment) error{
		"text": func(env *environment) error { return env.listConnections(true, false, &connectionFilter{}) },
		"JSON": func(env *environment) error { return env.connectionsJSON(&connectionFilter{}) },
	} {
		watch := &heapWatch{}
		env := &environment{ctx: t.Context(), stdout: watch, stderr: os.Stderr, pinDir: defaultPinDir()}
		if err := list(env); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if watch.written < 60*connections {
			t.Errorf("%s: %d bytes for %d connections", name, watch.written, connections)
		}
		if grown := int(watch.most - watch.before); grown > watch.written/20 {
			t.Errorf("%s: %d bytes of memory for %d written", name, grown, watch.written)
		}
	}
}
