// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// step is a part of a change, after which the process may die without harm.
type step struct {
	name string
	run  func() error
}

// run does the steps in order. The function after, if any, is called after each; its error ends the run (tests inject
// faults with it).
func run(steps []step, after func(step string) error) error {
	for _, s := range steps {
		if err := s.run(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if after == nil {
			continue
		}
		if err := after(s.name); err != nil {
			return fmt.Errorf("after %s: %w", s.name, err)
		}
	}
	return nil
}

// steps lists what makes a layout the live configuration. The cleanup of what it replaces follows.
func (l *layout) steps(d *Datapath) []step {
	steps := []step{
		{"announcing", func() error { d.config.store(configTidy, 0); return nil }},
		{"filling new words", func() error { return l.fillWords(d) }},
	}
	if l.newSide() {
		steps = append(steps, step{"building the other side", func() error { return l.build(d) }})
	}
	steps = append(steps, step{"changing next hops", func() error {
		return errors.Join(storeHops(d, l.gained), d.addPeers(side(l.epoch)))
	}})
	if l.newSide() {
		steps = append(steps, step{"publishing", func() error { d.config.store(configEpoch, l.epoch); return nil }})
	}
	if len(l.lost) > 0 {
		// Packets of the old side may still choose these backends.
		steps = append(steps, step{"waiting for packets", d.settle})
	}
	return append(steps, step{"forgetting next hops", func() error { return storeHops(d, l.lost) }})
}

// fillWords writes what nothing refers to yet: new egresses, new backends and their counters, and the cursors of new
// services.
func (l *layout) fillWords(d *Datapath) error {
	for index, egress := range l.egresses {
		d.egresses.put(uint32(index), egress)
	}
	var ids []uint32 // that had a backend before; the counters of the others are zero yet
	for _, b := range l.newBackends {
		if d.backends.get(b.id).Generation > 0 {
			ids = append(ids, b.id)
		}
	}
	if err := zeroPerCPU[xdplbCounters](d.maps.BackendCounters, ids); err != nil {
		return fmt.Errorf("zeroing the counters of new backends: %w", err)
	}
	if err := zero[xdplbCursor](d.maps.Cursors, l.newServices); err != nil {
		return fmt.Errorf("zeroing the cursors of new services: %w", err)
	}
	for _, b := range l.newBackends {
		d.loads.put(b.id, xdplbLoad{})
		d.limits.store(int(b.id), limitOf(b.Upper, b.Lower))
		value := d.backends.get(b.id)
		value.NextHop, value.InUse = b.word, 1
		d.backends.put(b.id, value)
	}
	return nil
}

// zero writes zero values under some keys of an array.
func zero[V any](m *ebpf.Map, keys []uint32) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := m.BatchUpdate(keys, make([]V, len(keys)), nil)
	return err
}

// zeroPerCPU does the same to a per-CPU array.
func zeroPerCPU[V any](m *ebpf.Map, keys []uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	for keys := range slices.Chunk(keys, 1024) {
		if _, err := m.BatchUpdate(keys, make([]V, len(keys)*cpus), nil); err != nil {
			return err
		}
	}
	return nil
}

// build writes the lookup tables, and to the other side, which nobody reads, what differs from the live one, of
// which it is a copy.
func (l *layout) build(d *Datapath) error {
	to := side(l.epoch)
	services, info := d.services.side(to), d.info.side(to)
	if l.newTimes {
		d.timeouts.side(to)[0] = l.timeouts
	}
	for _, s := range l.services {
		services[s.place] = s.value
	}
	for _, c := range l.columns {
		info[c.id] = c.columns
	}
	retired := d.retired.side(to)
	for _, id := range l.zeroed {
		retired[id] = xdplbCounters{}
	}
	if l.directory != nil {
		l.directory.write(d.serviceBuckets.side(to), to*uint32(len(services)))
		l.directory.writeRanges(d.portRanges.side(to), to*uint32(len(services)))
		d.config.store(configMultiplier+int(to), l.directory.multiplier)
		d.config.store(configAllPorts+int(to), l.directory.allPorts)
	}
	return l.writeTables(d)
}

// writeTables writes the lookup tables, and waits for nothing but their new parts' being put in.
func (l *layout) writeTables(d *Datapath) error {
	var group errgroup.Group
	group.SetLimit(partsAtOnce)
	err := d.makeParts(l.parts, &group)
	if err == nil {
		err = l.fillTables(&d.slots)
	}
	return errors.Join(err, group.Wait())
}

// fillTables does by plain stores, as no packet sees the tables yet, and on all CPUs, as Maglev tables take long.
func (l *layout) fillTables(memory *slotMemory) error {
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, t := range l.tables {
		group.Go(func() error {
			slots, err := memory.slots(t.at, t.slots)
			if err == nil {
				err = t.fill(slots)
			}
			if err != nil {
				return fmt.Errorf("writing a lookup table: %w", err)
			}
			t.fill = nil // and with it the shape
			return nil
		})
	}
	return group.Wait()
}

// storeHops changes next hops of backends that packets use, a word each.
func storeHops(d *Datapath, backends []*backend) error {
	for _, b := range backends {
		value := d.backends.get(b.id)
		value.NextHop = b.word
		d.backends.put(b.id, value)
	}
	return nil
}

// apply makes a layout the live configuration and cleans up behind it.
func (d *Datapath) apply(l *layout, after func(step string) error) error {
	if err := run(l.steps(d), after); err != nil {
		return err
	}
	if err := d.cleanUp(l.epoch, after); err != nil || !l.counts {
		return err
	}
	// Only now: until the old side was left, packets recorded flows that they did not count.
	return d.countUncounted(l.epoch)
}
