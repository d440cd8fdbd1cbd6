// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

	"xdplb/internal/lb"
)

// Zero makes the counters of services and of their backends begin at 0, of all at one moment: of the services of some
// keys, or, without any, of all. What packets count meanwhile counts before or after it, and is not lost. The numbers of
// flows are no counters and stay. Errors: lb.ErrNotFound, and those of Change.
func Zero(pinDir string, keys ...lb.ServiceKey) error {
	return zeroCounters(pinDir, options{timeout: LockTimeout}, keys)
}

func zeroCounters(pinDir string, options options, keys []lb.ServiceKey) error {
	d, err := open(pinDir, exclusive, options.timeout)
	if err != nil {
		return err
	}
	defer d.Close()
	live, _, err := d.repair(options)
	if err != nil {
		return err
	}
	chosen := live.list
	if len(keys) > 0 {
		chosen = nil
	}
	for _, key := range keys {
		s, found := live.services[key]
		if !found {
			return fmt.Errorf("service %s %w", key, lb.ErrNotFound)
		}
		chosen = append(chosen, s)
	}
	layout, err := d.planZero(live, chosen)
	if err != nil || layout.empty() {
		return err
	}
	if err := d.apply(layout, options.after); err != nil {
		return fmt.Errorf("zeroing the counters: %w", err)
	}
	return nil
}

// planZero lays out a configuration in which services have counted nothing, and all else is as in the live one.
func (d *Datapath) planZero(live *configuration, services []*service) (*layout, error) {
	counters, err := d.backendCounters(live)
	if err != nil {
		return nil, fmt.Errorf("reading the counters: %w", err)
	}
	l := &layout{epoch: live.epoch + 1}
	info, retired := d.info.side(side(live.epoch)), d.retired.side(side(live.epoch))
	for _, s := range services {
		if retired[s.Id] != (xdplbCounters{}) {
			l.zeroed = append(l.zeroed, s.Id)
		}
		for _, b := range s.all() {
			if b.base == counters[b.id] {
				continue
			}
			columns := info[b.id]
			columns.Base = counters[b.id]
			l.columns = append(l.columns, cold{b.id, columns})
		}
	}
	return l, nil
}
