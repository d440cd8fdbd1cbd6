// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// The oldest kernel that xdplb is tested on, and so the oldest that it accepts.
const (
	minimumMajor = 6
	minimumMinor = 1
)

// checkCapabilities says which of the capabilities that xdplb needs the process lacks.
func checkCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("reading the process's capabilities: %w", err)
	}
	knows := func(capability uint) bool {
		_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(capability), 0, 0, 0)
		return err == nil
	}
	missing := missingCapabilities(uint64(sets[1].Effective)<<32|uint64(sets[0].Effective), knows)
	if len(missing) == 0 {
		return nil
	}
	return &CapabilityError{Missing: missing}
}

// missingCapabilities names what is not in the effective set. A capability that the kernel does not know, as Linux before
// 5.8 does not know CAP_BPF, nobody can have: that kernel is too old, which checkKernel says.
func missingCapabilities(effective uint64, knows func(uint) bool) (missing []string) {
	for _, need := range []struct {
		bit  uint
		name string
	}{
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, // XDP
		{unix.CAP_BPF, "CAP_BPF"},             // maps and programs
		{unix.CAP_PERFMON, "CAP_PERFMON"},     // programs that compare pointers
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, // opening inner maps and links, which the kernel names by id
	} {
		if effective&(1<<need.bit) == 0 && knows(need.bit) {
			missing = append(missing, need.name)
		}
	}
	return missing
}

// checkFilesystem says whether the directory that holds the pin directory is a BPF filesystem.
func checkFilesystem(pinDir string) error {
	parent := filepath.Dir(pinDir)
	var stat unix.Statfs_t
	err := unix.Statfs(parent, &stat)
	switch {
	case err == nil && stat.Type == unix.BPF_FS_MAGIC:
		return nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("looking for a BPF filesystem at %s: %w", parent, err)
	}
	return &FilesystemError{PinDir: pinDir, PrivateMounts: parent == Filesystem && hasPrivateMounts()}
}

// hasPrivateMounts says whether the process sees other mounts than the host, as the children of "ip netns exec" do. It
// compares mount namespaces with the host's first process where that may be looked at, and knows /sys as "ip netns
// exec" mounts it, with the network namespace's name for a source (lib/namespace.c of iproute2).
func hasPrivateMounts() bool {
	own, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err == nil {
		if host, err := os.Readlink("/proc/1/ns/mnt"); err == nil && own != host {
			return true
		}
	}
	mounts, err := os.ReadFile("/proc/thread-self/mounts")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		words := strings.Fields(line) // source, target, type, ...
		if len(words) < 3 || words[1] != "/sys" || words[2] != "sysfs" {
			continue
		}
		if _, err := os.Stat(filepath.Join("/run/netns", filepath.Base(words[0]))); err == nil {
			return true
		}
	}
	return false
}

// checkKernel says what the kernel lacks.
func checkKernel() error {
	version, err := features.LinuxVersionCode()
	if err != nil {
		return fmt.Errorf("reading the kernel's version: %w", err)
	}
	return judgeKernel(version,
		missingHelpers(asm.FnRedirect, asm.FnXdpAdjustHead, asm.FnKtimeGetCoarseNs, asm.FnJiffies64, asm.FnLoop))
}

// judgeKernel refuses a kernel that is too old, by its version as LINUX_VERSION_CODE writes it, or that lacks a helper.
func judgeKernel(version uint32, lacks []string) error {
	var faults []string
	if major, minor := version>>16, version>>8&0xff; major < minimumMajor || major == minimumMajor && minor < minimumMinor {
		faults = append(faults, fmt.Sprintf("it is Linux %d.%d, and xdplb needs %d.%d or newer", major, minor, minimumMajor, minimumMinor))
	}
	if len(lacks) > 0 {
		faults = append(faults, "XDP programs lack "+strings.Join(lacks, ", "))
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("this kernel cannot run xdplb: %s", strings.Join(faults, "; "))
}

// missingHelpers tries the helpers that the program calls, and names those that the kernel does not have. Its map types are
// older than any kernel that can be met.
func missingHelpers(helpers ...asm.BuiltinFunc) (missing []string) {
	for _, helper := range helpers {
		if err := features.HaveProgramHelper(ebpf.XDP, helper); errors.Is(err, ebpf.ErrNotSupported) {
			missing = append(missing, helperName(helper))
		}
	}
	return missing
}

// helperName is what the kernel calls a helper: bpf_xdp_adjust_head for FnXdpAdjustHead.
func helperName(helper asm.BuiltinFunc) string {
	name := []byte("bpf")
	for _, c := range []byte(strings.TrimPrefix(helper.String(), "Fn")) {
		if 'A' <= c && c <= 'Z' {
			name = append(name, '_')
		}
		name = append(name, c)
	}
	return strings.ToLower(string(name))
}
