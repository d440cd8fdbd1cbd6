// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PinDir is where the director's pins are, once [Isolate] has mounted a BPF filesystem of its own there.
const PinDir = "/sys/fs/bpf/bench"

// Isolate moves the calling thread, to which the caller has locked its goroutine, into network and mount namespaces of
// its own with an empty BPF filesystem on /sys/fs/bpf. They end with the last process in them.
func Isolate() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, for network and mount namespaces of its own and for loading XDP programs")
	}
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making network and mount namespaces: %w", err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making all mounts private: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil { // shows the new network namespace
		return fmt.Errorf("mounting a sysfs: %w", err)
	}
	if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, ""); err != nil {
		return fmt.Errorf("mounting a BPF filesystem: %w", err)
	}
	return nil
}

// PinCPU binds the calling thread to a CPU.
func PinCPU(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("binding to CPU %d: %w", cpu, err)
	}
	return nil
}

// stay binds the calling thread to the CPU that it is on.
func stay() error {
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return fmt.Errorf("asking for the CPU: %w", errno)
	}
	return PinCPU(int(cpu))
}
