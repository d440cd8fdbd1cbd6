// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// deletions is how many entries of maps of maps are deleted side by side: each waits for a grace period, which those
// that wait at the same time share, and there is no batch call for it.
const deletions = 256

// leftover is what the maps hold besides the live configuration: what a change has replaced, or what a killed writer
// has left, before publishing or after.
type leftover struct {
	d        *Datapath
	live     *configuration
	backends []uint32 // in use
	tables   []uint32
	sides    []*ebpf.Map // services4 or services6, whose other side is not empty
	info     bool        // backend_info's other side is not empty
	egresses []uint32
}

// cleanUp removes everything that does not belong to the live configuration. It needs nothing but that, so that any
// writer can do it.
func (d *Datapath) cleanUp(live *configuration, after func(step string) error) error {
	left, err := d.findLeftover(live)
	if err != nil {
		return fmt.Errorf("looking for what is left over: %w", err)
	}
	if left.empty() {
		return nil
	}
	return run([]step{
		{"waiting for packets of the old side", d.settle},
		{"retiring backends", left.retire},
		{"dropping the old side", left.drop},
		{"closing the accounts of retired backends", left.account},
		{"forgetting the old side", left.forget},
	}, after)
}

func (l *leftover) empty() bool {
	return len(l.backends) == 0 && len(l.tables) == 0 && len(l.sides) == 0 && !l.info && len(l.egresses) == 0
}

func (d *Datapath) findLeftover(live *configuration) (*leftover, error) {
	left := &leftover{d: d, live: live}
	left.findBackends()
	if err := left.findTables(); err != nil {
		return nil, err
	}
	other := 1 - side(live.epoch)
	for _, m := range []*ebpf.Map{d.maps.Services4, d.maps.Services6, d.maps.BackendInfo} {
		var id ebpf.MapID
		err := m.Lookup(other, &id)
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
		case err != nil:
			return nil, fmt.Errorf("reading %s: %w", m, err)
		case m == d.maps.BackendInfo:
			left.info = true
		default:
			left.sides = append(left.sides, m)
		}
	}
	return left, nil
}

// findBackends finds backends and egresses that nothing live refers to.
func (l *leftover) findBackends() {
	ids := l.live.backendIDs()
	ways := make(map[uint32]bool)
	for id := uint32(1); id < l.d.backends.count; id++ {
		b := l.d.backends.get(id)
		switch {
		case ids[id]:
			ways[uint32(b.NextHop.Egress)] = true
		case b.InUse != 0:
			l.backends = append(l.backends, id)
		}
	}
	for index := uint32(1); index < l.d.egresses.count; index++ {
		if l.d.egresses.get(index) != (xdplbEgress{}) && !ways[index] {
			l.egresses = append(l.egresses, index)
		}
	}
}

// findTables finds lookup tables that no live service uses.
func (l *leftover) findTables() error {
	used := make(map[uint32]bool)
	for _, s := range l.live.services {
		if s.Slots > 0 {
			used[s.Table] = true
		}
	}
	ids, err := presentInner(l.d.maps.Tables)
	if err != nil {
		return err
	}
	for id := range ids {
		if !used[id] {
			l.tables = append(l.tables, id)
		}
	}
	return nil
}

// presentInner returns the inner maps of a map of maps by index.
func presentInner(outer *ebpf.Map) (map[uint32]ebpf.MapID, error) {
	var cursor ebpf.MapBatchCursor
	present := make(map[uint32]ebpf.MapID)
	keys, ids := make([]uint32, outer.MaxEntries()), make([]ebpf.MapID, outer.MaxEntries())
	for {
		n, err := outer.BatchLookup(&cursor, keys, ids, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("listing the inner maps of %s: %w", outer, err)
		}
		for i := range n {
			present[keys[i]] = ids[i]
		}
		if err != nil {
			return present, nil
		}
	}
}

// retire makes every flow of the removed backends stale.
func (l *leftover) retire() error {
	for _, id := range l.backends {
		b := l.d.backends.get(id)
		b.Generation++
		l.d.backends.put(id, b)
	}
	return nil
}

// drop deletes the old side, as far as packets used it. When it returns, no packet to a retired backend is under way.
func (l *leftover) drop() error {
	if len(l.sides) == 0 && len(l.tables) == 0 {
		return l.d.settle()
	}
	var group errgroup.Group
	group.SetLimit(deletions)
	remove := func(m *ebpf.Map, key uint32) {
		group.Go(func() error {
			if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("deleting an inner map of %s: %w", m, err)
			}
			return nil
		})
	}
	for _, m := range l.sides {
		remove(m, 1-side(l.live.epoch))
	}
	for _, id := range l.tables {
		remove(l.d.maps.Tables, id)
	}
	if l.info && len(l.backends) == 0 {
		remove(l.d.maps.BackendInfo, 1-side(l.live.epoch)) // nobody's account needs it
		l.info = false
	}
	return group.Wait()
}

// account adds what the removed backends have counted to their services, and frees their ids. Who dies between the two
// leaves one service's part to be added twice: a choice, since the other order loses it.
func (l *leftover) account() error {
	if len(l.backends) == 0 {
		return nil
	}
	byService, err := l.backendsByService()
	if err != nil {
		return err
	}
	for service, ids := range byService {
		if err := l.addRetired(service, ids); err != nil {
			return fmt.Errorf("keeping the counters of removed backends: %w", err)
		}
		l.free(ids)
	}
	l.free(l.backends) // those of services that are gone too
	return nil
}

// backendsByService sorts the removed backends of services that go on.
func (l *leftover) backendsByService() (map[uint32][]uint32, error) {
	ids, columns, err := readInner[uint32, xdplbBackendColumns](l.d.maps.BackendInfo, 1-side(l.live.epoch))
	if err != nil {
		return nil, fmt.Errorf("reading the removed backends: %w", err)
	}
	serviceOf := make(map[uint32]uint32)
	for i, id := range ids {
		serviceOf[id] = columns[i].Service
	}
	services := make(map[uint32]bool)
	for _, s := range l.live.services {
		services[s.Id] = true
	}
	byService := make(map[uint32][]uint32)
	for _, id := range l.backends {
		if service, known := serviceOf[id]; known && services[service] {
			byService[service] = append(byService[service], id)
		}
	}
	return byService, nil
}

func (l *leftover) addRetired(service uint32, ids []uint32) error {
	var total xdplbCounters
	if err := l.d.maps.RetiredCounters.Lookup(service, &total); err != nil {
		return err
	}
	var perCPU []xdplbCounters
	for _, id := range ids {
		if err := l.d.maps.BackendCounters.Lookup(id, &perCPU); err != nil {
			return err
		}
		total = total.plus(sum(perCPU))
	}
	return l.d.maps.RetiredCounters.Put(service, total)
}

func (l *leftover) free(ids []uint32) {
	for _, id := range ids {
		b := l.d.backends.get(id)
		// in_use and the generation are one word; the next hop is another, which nobody uses any more.
		b.InUse, b.NextHop = 0, xdplbNextHop{}
		l.d.backends.put(id, b)
	}
}

// forget removes what only a cleanup needs: the cold columns of the old side, and egresses that are free.
func (l *leftover) forget() error {
	for _, index := range l.egresses {
		l.d.egresses.put(index, xdplbEgress{})
	}
	if !l.info {
		return nil
	}
	if err := l.d.maps.BackendInfo.Delete(1 - side(l.live.epoch)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("deleting the old side of %s: %w", l.d.maps.BackendInfo, err)
	}
	return nil
}
