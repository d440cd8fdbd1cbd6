// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// state is the cluster's record, from which [Down] knows the names of what it may take away.
type state struct {
	Options  Options `json:"options"`
	Complete bool    `json:"complete"` // Up came to its end
}

const statePath = stateDir + "/state.json"

// readState returns an error that wraps fs.ErrNotExist if there is no record.
func readState() (state, error) {
	var s state
	text, err := os.ReadFile(statePath)
	if err != nil {
		return s, fmt.Errorf("read the cluster's record: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read the cluster's record %s: %w", statePath, err)
	}
	return s, nil
}

// writeState replaces the record whole.
func writeState(s state) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write the cluster's record: %w", err)
	}
	next := statePath + ".new"
	if err := os.WriteFile(next, text, 0o644); err != nil {
		return fmt.Errorf("write the cluster's record: %w", err)
	}
	if err := os.Rename(next, statePath); err != nil {
		return fmt.Errorf("write the cluster's record: %w", err)
	}
	return nil
}

// lock makes the state directory if need be and takes the lock on it, or returns a [BusyError]. The kernel gives it
// back when the process ends.
func lock() (unlock func(), err error) {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the cluster's directory: %w", err)
	}
	dir, err := os.Open(stateDir)
	if err != nil {
		return nil, fmt.Errorf("lock the cluster's directory: %w", err)
	}
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && !sameFile(dir, stateDir) {
		// A Down removed it between the open and the lock.
		err = unix.EWOULDBLOCK
	}
	if err != nil {
		dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &BusyError{}
		}
		return nil, fmt.Errorf("lock %s: %w", stateDir, err)
	}
	return func() { dir.Close() }, nil
}

// sameFile tells whether the open file is still the one of that name.
func sameFile(open *os.File, path string) bool {
	a, errA := open.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}
