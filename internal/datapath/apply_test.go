// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// TestTableThatIsNotPutIn: who waits for a table learns that it will not come.
func TestTableThatIsNotPutIn(t *testing.T) {
	t.Parallel()
	director(t, small)
	d, err := open(pinDir, exclusive, LockTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	put, failure := make(chan error, 1), errors.New("injected")
	put <- failure
	d.tableIDs.store(1, 12345)
	if err := d.awaitTable(1, put); !errors.Is(err, failure) {
		t.Errorf("a table that is never put in: error %v, want the injected one", err)
	}
}

// TestTablesAreInTheirPlaces builds more tables than are put in at a time.
func TestTablesAreInTheirPlaces(t *testing.T) {
	t.Parallel()
	director(t, Capacity{Flows: 1024, Services: 200, Backends: 512})
	d, err := open(pinDir, exclusive, LockTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var tables []*table
	for id := range uint32(tableBatch * (tableBatches + 2)) {
		tables = append(tables, &table{1 + id, 2, func(slots []uint32) error { slots[0] = id; return nil }})
	}
	if err := d.buildTables(tables); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		var id ebpf.MapID
		if err := d.maps.Tables.Lookup(table.id, &id); err != nil {
			t.Fatal(err)
		}
		if noted := d.tableIDs.load(int(table.id)); noted != uint64(id) {
			t.Fatalf("at index %d is map %d, noted is %d", table.id, id, noted)
		}
		slots, err := d.openTable(table.id, 2)
		if err != nil {
			t.Fatal(err)
		}
		if slots.slots[0] != table.id-1 {
			t.Errorf("table %d holds %d", table.id, slots.slots[0])
		}
		slots.close()
	}
}

// TestEveryMapIsOpened compares the maps that are opened with those that are pinned.
func TestEveryMapIsOpened(t *testing.T) {
	t.Parallel()
	spec, err := loadXdplb()
	if err != nil {
		t.Fatal(err)
	}
	var opened []string
	for name := range new(Datapath).byName() {
		opened = append(opened, name)
	}
	pinned := mapNames(spec)
	slices.Sort(opened)
	slices.Sort(pinned)
	if diff := cmp.Diff(pinned, opened); diff != "" {
		t.Errorf("maps (-pinned +opened):\n%s", diff)
	}
}
