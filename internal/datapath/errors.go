// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
)

// ErrNotAttached means that there are no pins at the pin directory: nothing was ever attached, or all was detached.
var ErrNotAttached = errors.New("not attached to any interface")

// ErrAttached means that the program is on the interface already.
var ErrAttached = errors.New("is attached already")

// SchemaError means that the pins were made by a version of xdplb whose maps have another layout.
type SchemaError struct {
	Dir        string
	Have, Want uint32 // of the pins, of this binary
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("the pins in %s have schema %d, this xdplb knows schema %d", e.Dir, e.Have, e.Want)
}

// LockedError means that another process held the lock for longer than the caller was willing to wait.
type LockedError struct {
	Dir string
	PID int // of the holder; 0: unknown
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is locked by another process", e.Dir)
	}
	return fmt.Sprintf("%s is locked by process %d", e.Dir, e.PID)
}

// ForeignProgramError means that an interface carries an XDP program that xdplb did not attach; it is left alone.
type ForeignProgramError struct {
	Interface string
	Program   string // its name, "" if it has none or may not be read
	ID        uint32 // as bpftool prints it
}

func (e *ForeignProgramError) Error() string {
	name := e.Program
	if name == "" {
		name = "without a name"
	}
	return fmt.Sprintf("interface %s carries another XDP program: %s (id %d)", e.Interface, name, e.ID)
}

// CapacityError means that a state does not fit into the maps, whose sizes were given at the first attach.
type CapacityError struct {
	What       string // "services", "backends": the name of the flag too
	Have, Want int    // what the maps hold, what the state needs
	Draining   int    // of those: removed backends whose connections go on
}

func (e *CapacityError) Error() string {
	removed := ""
	if e.Draining > 0 {
		removed = fmt.Sprintf(", %d of them removed ones that keep connections,", e.Draining)
	}
	return fmt.Sprintf("%d %s%s do not fit: room for %d was made by the first attach (--%s)", e.Want, e.What, removed, e.Have, e.What)
}

// MadeError means that the maps were made for another capacity than an attach asks for.
type MadeError struct{ Have, Want Capacity }

func (e *MadeError) Error() string {
	var differences []string
	for _, size := range []struct {
		flag       string
		have, want uint32
	}{
		{"flows", e.Have.Flows, e.Want.Flows},
		{"services", e.Have.Services, e.Want.Services},
		{"backends", e.Have.Backends, e.Want.Backends},
		{"flood-rate", e.Have.FloodRate, e.Want.FloodRate},
	} {
		if size.have != size.want {
			differences = append(differences, fmt.Sprintf("--%s %d, not %d", size.flag, size.have, size.want))
		}
	}
	return "the first attach was with " + strings.Join(differences, " and with ")
}

// MemoryError means that the maps of the wanted capacity do not fit into the machine's memory.
type MemoryError struct {
	Want, Available uint64 // bytes
}

func (e *MemoryError) Error() string {
	const mib = 1 << 20
	return fmt.Sprintf("the maps would take %d MiB of the kernel's memory, and %d MiB are available: ask for fewer --flows, --services or --backends",
		e.Want/mib, e.Available/mib)
}

// TableMemoryError means that a change needs lookup tables that do not fit into the machine's memory.
type TableMemoryError struct {
	Want, Available uint64 // bytes, besides what the tables take already
}

func (e *TableMemoryError) Error() string {
	const mib = 1 << 20
	return fmt.Sprintf("the lookup tables would take %d MiB more of the kernel's memory, and %d MiB are available",
		e.Want/mib, e.Available/mib)
}

// CapabilityError means that the process may not do what xdplb does.
type CapabilityError struct {
	Missing []string // "CAP_NET_ADMIN", ...
}

func (e *CapabilityError) Error() string {
	return "not permitted: run as root, or with " + strings.Join(e.Missing, ", ")
}

// Filesystem is where the host's BPF filesystem is mounted.
const Filesystem = "/sys/fs/bpf"

// FilesystemError means that there is no BPF filesystem to keep the pins in.
type FilesystemError struct {
	PinDir        string // whose parent is not on one
	PrivateMounts bool   // it would be on the host's, and the process does not see the host's mounts
}

// Unmounted says whether what is missing is the host's BPF filesystem itself.
func (e *FilesystemError) Unmounted() bool { return filepath.Dir(e.PinDir) == Filesystem }

func (e *FilesystemError) Error() string {
	switch {
	case e.PrivateMounts:
		return fmt.Sprintf("no BPF filesystem at %s: this process has mounts of its own, as under \"ip netns exec\", "+
			"and pins made in them would vanish with it", Filesystem)
	case e.Unmounted():
		return "no BPF filesystem at " + Filesystem
	case e.PinDir == Filesystem:
		return fmt.Sprintf("%s is the BPF filesystem itself, not a pin directory in it", e.PinDir)
	}
	return fmt.Sprintf("pin directory %s is not on a BPF filesystem", e.PinDir)
}

// loadError is a refusal of the program or its maps by the kernel. A verifier's log is shortened to its end, and shown
// whole by %+v.
type loadError struct {
	err error
}

func (e *loadError) Error() string { return fmt.Sprintf("loading the XDP program: %v", e.err) }
func (e *loadError) Unwrap() error { return e.err }

func (e *loadError) Format(f fmt.State, verb rune) {
	var verifier *ebpf.VerifierError
	if verb == 'v' && f.Flag('+') && errors.As(e.err, &verifier) {
		fmt.Fprintf(f, "loading the XDP program: %+v", verifier)
		return
	}
	fmt.Fprint(f, e.Error())
}
