// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
)

// ErrNotAttached means that there are no pins at the pin directory: nothing was ever attached, or all was detached.
var ErrNotAttached = errors.New("xdplb is not attached to any interface")

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
}

func (e *CapacityError) Error() string {
	return fmt.Sprintf("%d %s do not fit: room for %d was made by the first attach (--%s)", e.Want, e.What, e.Have, e.What)
}
