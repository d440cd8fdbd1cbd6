// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
	"xdplb/internal/neigh"
	"xdplb/internal/realserver"
)

// hintedError is an error that comes with its own hint, where that depends on the command.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

// withHint gives an error a hint that goes before the general one of its kind, but not before one given earlier.
func withHint(err error, text string) error {
	if errors.As(err, new(hintedError)) {
		return err
	}
	return hintedError{err, text}
}

// withoutHint keeps an error from the general hint of its kind, where that would mislead.
func withoutHint(err error) error { return withHint(err, "") }

// forbidden says of an act that the kernel does not permit what it needs; nil and other errors stay as they are.
func forbidden(err error, capabilities string) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return withHint(fmt.Errorf("%w: run as root, or with %s", err, capabilities), "run it with sudo")
}

// filesystemHint says where pins can be.
func filesystemHint(err *datapath.FilesystemError) string {
	switch {
	case err.PrivateMounts:
		return "enter only the network namespace: xdplb --netns NAME, or nsenter --net=/run/netns/NAME"
	case err.Unmounted():
		return fmt.Sprintf("mount it: mount -t bpf bpf %s", datapath.Filesystem)
	}
	return fmt.Sprintf("take a directory on one, such as --pin-dir %s/xdplb", datapath.Filesystem)
}

// hint says in one line what to do about an error, or nothing.
func hint(err error) string {
	var (
		own       hintedError
		schema    *datapath.SchemaError
		locked    *datapath.LockedError
		foreign   *datapath.ForeignProgramError
		capacity  *datapath.CapacityError
		made      *datapath.MadeError
		forbidden *datapath.CapabilityError
		noPins    *datapath.FilesystemError
		refused   *realserver.RefusedError
		unreached *neigh.NotConnectedError
		silent    *neigh.NoAnswerError
	)
	switch {
	case errors.As(err, &own):
		return own.hint
	case errors.Is(err, datapath.ErrNotAttached):
		return `attach an interface first: xdplb attach eth0`
	case errors.As(err, &schema):
		if schema.Have > schema.Want {
			return "they are a newer xdplb's: use that one"
		}
		return "with the xdplb that made them: save, detach --all; then with this one: attach, restore"
	case errors.As(err, &locked):
		if locked.PID != 0 {
			return fmt.Sprintf("wait for it to end, or look at it: ps -fp %d", locked.PID)
		}
		return "wait for it to end and try again"
	case errors.As(err, &foreign):
		return fmt.Sprintf("if nobody needs it, take it off: ip link set dev %s xdp off", foreign.Interface)
	case errors.As(err, &capacity) && capacity.Draining > 0:
		return `wait until those connections are over, or give them up: xdplb service set ADDRESS:PORT --on-removal reschedule`
	case errors.As(err, &capacity):
		return fmt.Sprintf(`only "xdplb detach --all" changes sizes: save, detach --all, attach with --%s, restore`, capacity.What)
	case errors.As(err, &made):
		return `only "xdplb detach --all" changes that: save, detach --all, attach, restore`
	case errors.As(err, &forbidden):
		return "run it with sudo"
	case errors.As(err, &noPins):
		return filesystemHint(noPins)
	case errors.As(err, &refused):
		return refused.Hint
	case errors.As(err, &unreached):
		return "only backends on the segment of an attached interface can be reached: attach the interface that leads there, or give --mac and --dev"
	case errors.As(err, &silent):
		return "is the host up? If it is, and does not answer on purpose, give --mac and --dev"
	case errors.Is(err, lb.ErrExists):
		return `see what there is with "xdplb list -n", change it with "set"`
	case errors.Is(err, lb.ErrNotFound):
		return `see what there is with "xdplb list -n"`
	}
	return ""
}
