// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"maps"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// tableBatch is how many lookup tables are put in by one system call. Each is an open file until it is in.
const tableBatch = 256

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
		{"filling new words", func() error { return l.fillWords(d) }},
	}
	if l.newSide {
		steps = append(steps, step{"building the other side", func() error { return l.build(d) }})
	}
	steps = append(steps, step{"changing next hops", func() error { return storeHops(d, l.gained) }})
	if l.newSide {
		steps = append(steps, step{"publishing", func() error { d.config.store(0, l.next.epoch); return nil }})
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
	ids := make([]uint32, len(l.newBackends))
	for i, b := range l.newBackends {
		ids[i] = b.id
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

// build puts the lookup tables and the inner maps of the other side in. Each put waits for a grace period, so they go
// side by side.
func (l *layout) build(d *Datapath) error {
	var group errgroup.Group
	group.Go(func() error { return l.buildTables(d) })
	group.Go(func() error { return l.buildServices(d) })
	group.Go(func() error { return l.buildBackendInfo(d) })
	return group.Wait()
}

func (l *layout) buildTables(d *Datapath) error {
	var group errgroup.Group
	group.SetLimit(2) // one batch is filled while another waits
	for batch := range slices.Chunk(l.tables, tableBatch) {
		group.Go(func() error { return buildBatch(d, batch) })
	}
	return group.Wait()
}

func buildBatch(d *Datapath, batch []*table) error {
	ids, inner := make([]uint32, len(batch)), make([]*ebpf.Map, len(batch))
	defer func() {
		for _, m := range inner {
			m.Close()
		}
	}()
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, t := range batch {
		ids[i] = t.id
		group.Go(func() (err error) {
			inner[i], err = t.build(d.specs.Tables)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	files := make([]uint32, len(batch))
	for i, m := range inner {
		files[i] = uint32(m.FD())
	}
	if _, err := d.maps.Tables.BatchUpdate(ids, files, nil); err != nil {
		return fmt.Errorf("putting lookup tables in: %w", err)
	}
	return nil
}

func (l *layout) buildServices(d *Datapath) error {
	var (
		keys4            []xdplbServiceKey4
		keys6            []xdplbServiceKey6
		values4, values6 []xdplbService
	)
	for key, s := range l.next.services {
		if key.Addr.Addr().Is4() {
			keys4, values4 = append(keys4, toKey4(key)), append(values4, s.xdplbService)
		} else {
			keys6, values6 = append(keys6, toKey6(key)), append(values6, s.xdplbService)
		}
	}
	var group errgroup.Group
	other := side(l.next.epoch)
	group.Go(func() error { return putInner(d.maps.Services4, d.specs.Services4, other, keys4, values4) })
	group.Go(func() error { return putInner(d.maps.Services6, d.specs.Services6, other, keys6, values6) })
	return group.Wait()
}

func (l *layout) buildBackendInfo(d *Datapath) error {
	var (
		ids     []uint32
		columns []xdplbBackendColumns
	)
	for _, s := range l.next.services {
		for _, b := range s.backends {
			ids, columns = append(ids, b.id), append(columns, b.columns(s.Id))
		}
	}
	return putInner(d.maps.BackendInfo, d.specs.BackendInfo, side(l.next.epoch), ids, columns)
}

// putInner builds an inner hash map and puts it into the map of maps.
func putInner[K, V any](outer *ebpf.Map, spec *ebpf.MapSpec, index uint32, keys []K, values []V) error {
	inner, err := newInner(spec, len(keys))
	if err != nil {
		return err
	}
	defer inner.Close()
	if len(keys) > 0 {
		if _, err := inner.BatchUpdate(keys, values, nil); err != nil {
			return fmt.Errorf("filling %s: %w", spec.Name, err)
		}
	}
	if err := outer.Put(index, inner); err != nil {
		return fmt.Errorf("putting an inner map of %s in: %w", spec.Name, err)
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
	live := side(d.config.load(0))
	inner, err := openInner(d.maps.Services4, live)
	if err != nil {
		return fmt.Errorf("opening the live side: %w", err)
	}
	if inner == nil {
		return fmt.Errorf("the live side has no map of IPv4 services")
	}
	defer inner.Close()
	return d.maps.Services4.Put(live, inner)
}

// apply makes a layout the live configuration and cleans up behind it.
func (d *Datapath) apply(l *layout, after func(step string) error) error {
	if err := run(l.steps(d), after); err != nil {
		return err
	}
	return d.cleanUp(l.next, after)
}

// backendIDs lists the ids of a configuration.
func (c *configuration) backendIDs() map[uint32]bool {
	ids := make(map[uint32]bool)
	for _, s := range c.services {
		for b := range maps.Values(s.backends) {
			ids[b.id] = true
		}
	}
	return ids
}
