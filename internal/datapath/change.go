// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"time"

	"xdplb/internal/lb"
)

// options are what varies of a change.
type options struct {
	timeout time.Duration           // for the lock
	only    *lb.ServiceKey          // the only service that may change; nil: any
	after   func(step string) error // called after each step, by tests; nil: nothing
}

// Change is the write path: under the exclusive lock it repairs what a killed writer left, hands a copy of the state to
// edit, and makes the result the live configuration, for all packets at once. An error of edit is returned unwrapped,
// and nothing is changed; nor is it for ErrNotAttached, *SchemaError, *LockedError, *CapabilityError,
// *FilesystemError, *CapacityError, or a state that is not valid. The plan says what was done.
func Change(pinDir string, edit func(*lb.State) error) (lb.Plan, error) {
	return change(pinDir, options{timeout: LockTimeout}, edit)
}

// ChangeService is Change for one service, and costs the less the more others there are: edit is handed that service
// alone, or no service where there is none of the key, and must leave none of another key. The plan says no more.
func ChangeService(pinDir string, key lb.ServiceKey, edit func(*lb.State) error) (lb.Plan, error) {
	return change(pinDir, options{timeout: LockTimeout, only: &key}, func(state *lb.State) error {
		if err := edit(state); err != nil {
			return err
		}
		for i := range state.Services {
			if other := state.Services[i].ServiceKey; other != key {
				return fmt.Errorf("service %s is not part of a change of %s", other, key)
			}
		}
		return nil
	})
}

func change(pinDir string, options options, edit func(*lb.State) error) (lb.Plan, error) {
	d, err := open(pinDir, exclusive, options.timeout)
	if err != nil {
		return lb.Plan{}, err
	}
	defer d.Close()
	live, interfaces, err := d.repair(options)
	if err != nil {
		return lb.Plan{}, err
	}
	plan, layout, err := d.prepare(live, interfaces, edit)
	if err != nil || layout.empty() {
		return plan, err
	}
	if err := d.apply(layout, options.after); err != nil {
		return plan, fmt.Errorf("applying the change: %w", err)
	}
	return plan, nil
}

// DryRun returns the plan of a change, and every error that the change would meet before it begins. It takes the shared
// lock and writes nothing.
func DryRun(pinDir string, edit func(*lb.State) error) (lb.Plan, error) {
	d, err := Open(pinDir)
	if err != nil {
		return lb.Plan{}, err
	}
	defer d.Close()
	live, err := d.readLive(nil)
	if err != nil {
		return lb.Plan{}, err
	}
	interfaces, err := d.attached()
	if err != nil {
		return lb.Plan{}, err
	}
	plan, _, err := d.prepare(live, interfaces, edit)
	return plan, err
}

// repair finishes or undoes what a killed writer left, and brings up to date what the kernel may have changed since:
// interfaces that are gone, and MAC address and MTU of those that are not.
func (d *Datapath) repair(options options) (*configuration, map[int]facts, error) {
	live, err := d.readLive(options.only)
	if err != nil {
		return nil, nil, err
	}
	if err := d.cleanUp(live.epoch, options.after); err != nil {
		return nil, nil, fmt.Errorf("repairing what another process left: %w", err)
	}
	interfaces, err := d.repairInterfaces()
	if err != nil {
		return nil, nil, fmt.Errorf("looking after the attached interfaces: %w", err)
	}
	return live, interfaces, nil
}

// prepare computes everything that can fail without anything having been written.
func (d *Datapath) prepare(live *configuration, interfaces map[int]facts, edit func(*lb.State) error) (lb.Plan, *layout, error) {
	from, err := live.state()
	if err != nil {
		return lb.Plan{}, nil, err
	}
	to := from.Clone()
	if err := edit(&to); err != nil {
		return lb.Plan{}, nil, err
	}
	if err := to.Validate(); err != nil {
		return lb.Plan{}, nil, err
	}
	// Also without a difference there may be something to do: a writer that died between a next hop's change and the
	// lookup table's.
	layout, err := d.plan(live, to, interfaces)
	return lb.Diff(from, to), layout, err
}
