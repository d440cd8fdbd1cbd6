// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a running process in one of the cluster's network namespaces.
type process struct {
	pid  int
	name string // as the kernel has it, 15 characters at most
	host string
}

// namespaceID is what tells namespaces apart: device and inode of their file.
type namespaceID struct{ device, inode uint64 }

func statNamespace(path string) (namespaceID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return namespaceID{}, fmt.Errorf("find namespace %s: %w", path, err)
	}
	return namespaceID{st.Dev, st.Ino}, nil
}

// processes lists the processes whose first thread is in the network namespace of one of the hosts. Those that end
// meanwhile are left out, and so are zombies and this process.
func processes(hosts []string) ([]process, error) {
	wanted := map[namespaceID]string{}
	for _, host := range hosts {
		if id, err := statNamespace(netnsPath(host)); err == nil {
			wanted[id] = host
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		id, err := statNamespace(filepath.Join("/proc", entry.Name(), "ns/net"))
		if err != nil {
			continue
		}
		host, ok := wanted[id]
		if !ok {
			continue
		}
		name, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "comm"))
		if err != nil {
			continue
		}
		found = append(found, process{pid: pid, name: strings.TrimSpace(string(name)), host: host})
	}
	return found, nil
}

// endProcesses asks the processes of the hosts to end, and ends those that have not after a second.
func endProcesses(hosts []string) error {
	signal := unix.SIGTERM
	for deadline := time.Now().Add(time.Second); ; time.Sleep(5 * time.Millisecond) {
		running, err := processes(hosts)
		if err != nil {
			return err
		}
		if len(running) == 0 {
			return nil
		}
		switch {
		case signal == unix.SIGTERM:
			if err := signalAll(running, signal); err != nil {
				return err
			}
			signal = 0
		case signal == 0 && time.Now().After(deadline):
			signal = unix.SIGKILL
		case signal == unix.SIGKILL:
			if err := signalAll(running, signal); err != nil {
				return err
			}
			if time.Now().After(deadline.Add(5 * time.Second)) {
				return fmt.Errorf("end process %d (%s) on %s: still there", running[0].pid, running[0].name, running[0].host)
			}
		}
	}
}

func signalAll(processes []process, signal syscall.Signal) error {
	for _, p := range processes {
		if err := unix.Kill(p.pid, signal); err != nil && err != unix.ESRCH {
			return fmt.Errorf("end process %d (%s) on %s: %w", p.pid, p.name, p.host, err)
		}
	}
	return nil
}

// kill ends the host's processes that match and returns when they are gone.
func (h *Host) kill(match func(process) bool) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		var running []process
		err := h.lab.thread(func() error {
			all, err := processes([]string{h.Name})
			for _, p := range all {
				if match(p) {
					running = append(running, p)
				}
			}
			return err
		})
		if err != nil || len(running) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end process %d (%s) on %s: still there", running[0].pid, running[0].name, h.Name)
		}
		if err := signalAll(running, unix.SIGKILL); err != nil {
			return err
		}
	}
}
