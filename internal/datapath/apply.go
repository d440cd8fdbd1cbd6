// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// Lookup tables are put in by batches, several at a time. Each table is an open file until it is in, and each batch
// waits for a grace period; before Linux 6.8, for one per table.
const (
	tableBatch   = 64
	tableBatches = 8
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
	if l.newSide {
		steps = append(steps, step{"building the other side", func() error { return l.build(d) }})
	}
	steps = append(steps, step{"changing next hops", func() error { return storeHops(d, l.gained) }})
	if l.newSide {
		steps = append(steps, step{"publishing", func() error { d.config.store(configEpoch, l.next.epoch); return nil }})
	}
	if len(l.lost) > 0 {
		// Packets of the old side may still choose these backends.
		steps = append(steps, step{"waiting for packets", d.settle})
	}
	return append(steps, step{"forgetting next hops", func() error { return storeHops(d, l.lost) }})
}

// fillWords writes what nothing refers to yet: new egresses, new backends and their counters, and the cursors and
// counters of new services.
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
	if err := zero[xdplbCounters](d.maps.RetiredCounters, l.newServices); err != nil {
		return fmt.Errorf("zeroing the counters of new services: %w", err)
	}
	if err := zero[xdplbCursor](d.maps.Cursors, l.newServices); err != nil {
		return fmt.Errorf("zeroing the cursors of new services: %w", err)
	}
	for _, b := range l.newBackends {
		d.loads.put(b.id, xdplbLoad{})
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

// build puts the lookup tables in, and writes the other side, which nobody reads and which is empty.
func (l *layout) build(d *Datapath) error {
	var group errgroup.Group
	group.Go(func() error { return d.buildTables(l.tables) })
	to := side(l.next.epoch)
	services, info := d.services.side(to), d.info.side(to)
	for i, s := range l.next.list {
		services[i] = s.xdplbService
		for _, b := range s.backends {
			info[b.id] = b.columns(s.Id)
		}
	}
	l.directory.write(d.serviceBuckets.side(to), to*uint32(len(services)))
	d.config.store(configMultiplier+int(to), l.directory.multiplier)
	return group.Wait()
}

func (d *Datapath) buildTables(tables []*table) error {
	var group errgroup.Group
	group.SetLimit(tableBatches)
	for batch := range slices.Chunk(tables, tableBatch) {
		group.Go(func() error { return d.buildBatch(batch) })
	}
	return group.Wait()
}

func (d *Datapath) buildBatch(batch []*table) (err error) {
	ids, inner := make([]uint32, len(batch)), make([]*ebpf.Map, len(batch))
	defer func() {
		for _, m := range inner {
			m.Close()
		}
	}()
	for i, t := range batch {
		ids[i] = t.id
		if inner[i], err = t.build(d.specs.Tables); err != nil {
			return err
		}
		id, err := innerID(inner[i])
		if err != nil {
			return err
		}
		d.tableIDs.store(int(t.id), uint64(id))
	}
	return d.putTables(ids, inner)
}

// putTables puts inner maps in by one system call. When it returns, no packet uses those that were there before.
func (d *Datapath) putTables(ids []uint32, inner []*ebpf.Map) error {
	files := make([]uint32, len(inner))
	for i, m := range inner {
		files[i] = uint32(m.FD())
	}
	if _, err := d.maps.Tables.BatchUpdate(ids, files, nil); err != nil {
		return fmt.Errorf("putting lookup tables in: %w", err)
	}
	return nil
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

// settle returns when no packet is under way that began before: the kernel waits for a grace period after every change
// of a map of maps (maybe_wait_bpf_programs in kernel/bpf/syscall.c), also where an inner map replaces itself.
func (d *Datapath) settle() error {
	return d.emptyTables([]uint32{noTable})
}

// emptyTables puts the empty table at some indexes, and waits as settle does.
func (d *Datapath) emptyTables(ids []uint32) error {
	empty, err := d.openInner(noTable)
	if err != nil {
		return fmt.Errorf("opening the empty lookup table: %w", err)
	}
	defer empty.Close()
	var group errgroup.Group
	group.SetLimit(tableBatches)
	for batch := range slices.Chunk(ids, tableBatch) {
		group.Go(func() error { return d.putTables(batch, slices.Repeat([]*ebpf.Map{empty}, len(batch))) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, id := range ids {
		if id != noTable {
			d.tableIDs.store(int(id), 0)
		}
	}
	return nil
}

// apply makes a layout the live configuration and cleans up behind it.
func (d *Datapath) apply(l *layout, after func(step string) error) error {
	if err := run(l.steps(d), after); err != nil {
		return err
	}
	if err := d.cleanUp(l.next, after); err != nil || !l.counts {
		return err
	}
	// Only now: until the old side was left, packets recorded flows that they did not count.
	return d.countUncounted(l.next)
}

// backendIDs says which ids below a number are a configuration's.
func (c *configuration) backendIDs(end uint32) []bool {
	ids := make([]bool, end)
	for _, s := range c.list {
		for _, b := range s.backends {
			ids[b.id] = true
		}
	}
	return ids
}
