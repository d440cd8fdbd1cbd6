// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"
	"time"

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
	if l.newSide() {
		steps = append(steps, step{"building the other side", func() error { return l.build(d) }})
	}
	steps = append(steps, step{"changing next hops", func() error { return storeHops(d, l.gained) }})
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

// build puts the lookup tables in, and writes to the other side, which nobody reads, what differs from the live one, of
// which it is a copy.
func (l *layout) build(d *Datapath) error {
	var group errgroup.Group
	group.Go(func() error { return d.buildTables(l.tables) })
	to := side(l.epoch)
	services, info := d.services.side(to), d.info.side(to)
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
		d.config.store(configMultiplier+int(to), l.directory.multiplier)
	}
	return group.Wait()
}

func (d *Datapath) buildTables(tables []*table) error {
	var group errgroup.Group
	underWay := make(chan struct{}, tableBatches)
	for batch := range slices.Chunk(tables, tableBatch) {
		underWay <- struct{}{}
		group.Go(func() error { return d.buildBatch(batch, func() { <-underWay }) })
	}
	return group.Wait()
}

// buildBatch returns when the tables are in, and lets done be called when the kernel has waited for its grace period too:
// nobody uses what was at their indexes before.
func (d *Datapath) buildBatch(batch []*table, done func()) error {
	spec, err := d.spec()
	if err != nil {
		done()
		return err
	}
	ids, inner := make([]uint32, len(batch)), make([]*ebpf.Map, len(batch))
	defer func() {
		for _, m := range inner {
			m.Close()
		}
	}()
	for i, t := range batch {
		ids[i] = t.id
		if inner[i], err = t.build(spec.Maps[xdplbMapTables]); err == nil {
			err = d.noteTable(t.id, inner[i])
		}
		if err != nil {
			done()
			return err
		}
	}
	put, files := make(chan error, 1), fds(inner)
	d.waits.Go(func() {
		put <- d.putTables(ids, files)
		done()
	})
	return d.awaitTable(ids[len(ids)-1], put)
}

// noteTable writes a lookup table's id down, before it is put in.
func (d *Datapath) noteTable(index uint32, inner *ebpf.Map) error {
	id, err := innerID(inner)
	if err == nil {
		d.tableIDs.store(int(index), uint64(id))
	}
	return err
}

// tablePoll is the pause between two looks whether a lookup table is in.
const tablePoll = 20 * time.Microsecond

// awaitTable returns when the table that was noted for an index is there, or when its being put in has ended.
func (d *Datapath) awaitTable(index uint32, put <-chan error) error {
	for want := ebpf.MapID(d.tableIDs.load(int(index))); ; {
		var id ebpf.MapID
		if err := d.maps.Tables.Lookup(index, &id); err == nil && id == want {
			return nil // an error comes by put too
		}
		select {
		case err := <-put:
			return err
		case <-time.After(tablePoll):
		}
	}
}

func fds(maps []*ebpf.Map) []uint32 {
	files := make([]uint32, len(maps))
	for i, m := range maps {
		files[i] = uint32(m.FD())
	}
	return files
}

// putTables puts inner maps in, in order, by one system call. Packets see each at once. When it returns, no packet uses
// those that were there before.
func (d *Datapath) putTables(ids, files []uint32) error {
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
		group.Go(func() error { return d.putTables(batch, slices.Repeat([]uint32{uint32(empty.FD())}, len(batch))) })
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
	if err := d.cleanUp(l.epoch, after); err != nil || !l.counts {
		return err
	}
	// Only now: until the old side was left, packets recorded flows that they did not count.
	return d.countUncounted(l.epoch)
}
