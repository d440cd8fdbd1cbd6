// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bufio"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
)

// checkMemory refuses maps that the machine has no memory for. The kernel would try, and end other processes for it.
func checkMemory(spec *ebpf.CollectionSpec) error {
	want, err := wantedMemory(spec)
	if err != nil {
		return err
	}
	available, err := availableMemory()
	if err != nil {
		return err
	}
	if want > available {
		return &MemoryError{Want: want, Available: available}
	}
	return nil
}

// wantedMemory is how many bytes the maps' entries take, without what the kernel adds to each.
func wantedMemory(spec *ebpf.CollectionSpec) (uint64, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return 0, fmt.Errorf("counting CPUs: %w", err)
	}
	var sum uint64
	for _, m := range spec.Maps {
		each := uint64(m.KeySize) + (uint64(m.ValueSize)+7)&^7
		if m.Type == ebpf.PerCPUArray {
			each *= uint64(cpus)
		}
		sum += each * uint64(m.MaxEntries)
	}
	return sum, nil
}

// availableMemory is MemAvailable of /proc/meminfo (kernel: Documentation/filesystems/proc.rst), in bytes.
func availableMemory() (uint64, error) {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("reading the available memory: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var kilobytes uint64
		if _, err := fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &kilobytes); err == nil {
			return kilobytes << 10, nil
		}
	}
	return 0, fmt.Errorf("reading the available memory: /proc/meminfo has no MemAvailable")
}
