// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is what figures of nanoseconds mean nothing without.
type Machine struct {
	Kernel      string            `json:"kernel"`
	CPU         string            `json:"cpu"`
	CPUs        int               `json:"cpus"`
	Mitigations map[string]string `json:"mitigations"` // of what the CPU is affected by, as the kernel names it
}

// ThisMachine describes the machine that it runs on. What cannot be read is "unknown".
func ThisMachine() Machine {
	machine := Machine{
		Kernel: "unknown", CPU: cpuModel("/proc/cpuinfo"), CPUs: runtime.NumCPU(),
		Mitigations: mitigations("/sys/devices/system/cpu/vulnerabilities"),
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		machine.Kernel = unix.ByteSliceToString(name.Release[:]) + " " + unix.ByteSliceToString(name.Machine[:])
	}
	return machine
}

// cpuModel reads the model's name, which arm64 gives only in numbers.
func cpuModel(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return "unknown"
	}
	defer file.Close()
	var implementer string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "model name":
			return value
		case "CPU implementer":
			implementer = value
		case "CPU part":
			return fmt.Sprintf("implementer %s, part %s", implementer, value)
		}
	}
	return "unknown"
}

func mitigations(dir string) map[string]string {
	found := make(map[string]string)
	paths, _ := filepath.Glob(filepath.Join(dir, "*")) // errors only for a bad pattern
	for _, path := range paths {
		value, err := os.ReadFile(path)
		if text := strings.TrimSpace(string(value)); err == nil && text != "Not affected" {
			found[filepath.Base(path)] = text
		}
	}
	return found
}
