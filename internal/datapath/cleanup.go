// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// leftover is what the maps hold besides the live configuration: what a change has replaced, or what a killed writer
// has left, before publishing or after.
type leftover struct {
	d        *Datapath
	live     *configuration
	backends []uint32 // in use
	tables   []uint32
	side     bool // the other side is not empty
	egresses []uint32
}

// tidy says whether nothing can be left over, without looking for it.
func (d *Datapath) tidy(live *configuration) bool {
	return d.config.load(configTidy) == live.epoch+1
}

// cleanUp removes everything that does not belong to the live configuration. It needs nothing but that, so that any
// writer can do it.
func (d *Datapath) cleanUp(live *configuration, after func(step string) error) error {
	if d.tidy(live) {
		return nil
	}
	left := d.findLeftover(live)
	if left.empty() {
		d.config.store(configTidy, live.epoch+1)
		return nil
	}
	return run([]step{
		{"waiting for packets of the old side", d.settle},
		{"retiring backends", left.retire},
		{"dropping tables", left.drop},
		{"closing the accounts of retired backends", left.account},
		{"forgetting the old side", left.forget},
	}, after)
}

func (l *leftover) empty() bool {
	return len(l.backends) == 0 && len(l.tables) == 0 && !l.side && len(l.egresses) == 0
}

func (d *Datapath) findLeftover(live *configuration) *leftover {
	left := &leftover{d: d, live: live}
	left.findBackends()
	left.findTables()
	other := 1 - side(live.epoch)
	left.side = !isZero(d.services.side(other)) || !isZero(d.serviceBuckets.side(other)) || !isZero(d.info.side(other))
	return left
}

func isZero[T comparable](values []T) bool {
	var zero T
	for i := range values {
		if values[i] != zero {
			return false
		}
	}
	return true
}

// findBackends finds backends and egresses that nothing live refers to.
func (l *leftover) findBackends() {
	ids := l.live.backendIDs(l.d.backends.count)
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
func (l *leftover) findTables() {
	used := make([]bool, l.d.maps.Tables.MaxEntries())
	for _, s := range l.live.list {
		used[s.Table], used[s.Previous], used[s.Members] = true, true, true
	}
	for id := range l.d.presentTables() {
		if !used[id] {
			l.tables = append(l.tables, id)
		}
	}
}

// presentTables returns the lookup tables by index, the empty one aside. After a crash it may name one that is gone.
func (d *Datapath) presentTables() map[uint32]ebpf.MapID {
	present := make(map[uint32]ebpf.MapID)
	for index := range d.maps.TableIds.MaxEntries() {
		if id := d.tableIDs.load(int(index)); id != 0 && index != noTable {
			present[index] = ebpf.MapID(id)
		}
	}
	return present
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

// drop frees the tables. When it returns, no packet to a retired backend is under way.
func (l *leftover) drop() error {
	return l.d.emptyTables(append(l.tables, noTable))
}

// account adds what the removed backends have counted to their services, and frees their ids. Who dies between the two
// leaves one service's part to be added twice: a choice, since the other order loses it.
func (l *leftover) account() error {
	if len(l.backends) == 0 {
		return nil
	}
	byService := l.backendsByService()
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
func (l *leftover) backendsByService() map[uint32][]uint32 {
	goesOn := make([]bool, ids(l.d.meta.Services))
	for _, s := range l.live.list {
		goesOn[s.Id] = true
	}
	byService := make(map[uint32][]uint32)
	was := l.d.info.side(1 - side(l.live.epoch))
	for _, id := range l.backends {
		service := was[id].Service
		if was[id].Family != 0 && service < uint32(len(goesOn)) && goesOn[service] {
			byService[service] = append(byService[service], id)
		}
	}
	return byService
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

// forget removes the old side, whose cold columns the accounts needed, and egresses that are free.
func (l *leftover) forget() error {
	for _, index := range l.egresses {
		l.d.egresses.put(index, xdplbEgress{})
	}
	other := 1 - side(l.live.epoch)
	clear(l.d.services.side(other))
	clear(l.d.serviceBuckets.side(other))
	clear(l.d.info.side(other))
	l.d.config.store(configTidy, l.live.epoch+1)
	return nil
}
