// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
)

// Names in the pin directory besides the maps'.
const (
	programPin = "program"
	linksDir   = "links"
)

// Suffixes of the sibling directories in which pins are made and unmade, so that the pin directory is whole or absent.
// bpffs takes no dots.
const (
	newSuffix = "-new"
	oldSuffix = "-old"
)

// Capacity says how much the maps hold; it is fixed when the pins are created. In [Attach], a zero field means
// whatever is there, or [DefaultCapacity].
type Capacity struct {
	Flows    uint32 // remembered connections, of IPv4 and of IPv6 each; an eighth as many half-open ones
	Services uint32
	Backends uint32 // over all services
}

// DefaultCapacity is the capacity of pins for which none was asked. Nobody writes to it.
var DefaultCapacity = Capacity{Flows: 1 << 20, Services: 4096, Backends: 65536}

// or fills zero fields from another capacity.
func (c Capacity) or(other Capacity) Capacity {
	if c.Flows == 0 {
		c.Flows = other.Flows
	}
	if c.Services == 0 {
		c.Services = other.Services
	}
	if c.Backends == 0 {
		c.Backends = other.Backends
	}
	return c
}

// size gives the maps their sizes. There are twice as many ids as services and backends, since while a configuration
// replaces another, both are there; backend id 0 means none.
func (c Capacity) size(maps *xdplbMapSpecs) {
	maps.Flows4.MaxEntries = c.Flows
	maps.Flows6.MaxEntries = c.Flows
	maps.Syns4.MaxEntries = max(c.Flows/8, 1)
	maps.Syns6.MaxEntries = max(c.Flows/8, 1)
	maps.Tables.MaxEntries = 2 * c.Services
	maps.Cursors.MaxEntries = 2 * c.Services
	maps.RetiredCounters.MaxEntries = 2 * c.Services
	maps.Backends.MaxEntries = 2*c.Backends + 1
	maps.BackendCounters.MaxEntries = 2*c.Backends + 1
}

// capacityOf reads back what size wrote.
func capacityOf(maps *xdplbMaps) Capacity {
	return Capacity{
		Flows:    maps.Flows4.MaxEntries(),
		Services: maps.Cursors.MaxEntries() / 2,
		Backends: (maps.Backends.MaxEntries() - 1) / 2,
	}
}

// create makes the pins, unless somebody else was quicker.
func create(pinDir string, capacity Capacity, timeout time.Duration) (err error) {
	if err := checkKernel(); err != nil {
		return err
	}
	lock, err := lockDir(filepath.Dir(pinDir), exclusive, timeout)
	if err != nil {
		return err
	}
	defer lock.release()
	if present, err := isPinDir(pinDir); err != nil || present {
		return err
	}
	temporary := pinDir + newSuffix
	for _, left := range []string{temporary, pinDir + oldSuffix} {
		if err := removePins(left); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removePins(temporary))
		}
	}()
	if err := load(temporary, capacity); err != nil {
		return err
	}
	if err := os.Rename(temporary, pinDir); err != nil {
		return fmt.Errorf("putting the pins in place: %w", err)
	}
	return nil
}

// isPinDir says whether the directory is one of xdplb's, and refuses one that holds something else.
func isPinDir(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the pin directory: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == xdplbMapMeta {
			return true, nil
		}
	}
	if len(entries) > 0 {
		return false, fmt.Errorf("%s holds %s, which is not xdplb's: choose another pin directory", dir, entries[0].Name())
	}
	return false, nil
}

// load loads the program with empty maps and pins all into a new directory.
func load(dir string, capacity Capacity) error {
	spec, err := loadXdplb()
	if err != nil {
		return err
	}
	var specs xdplbMapSpecs
	if err := spec.Assign(&specs); err != nil {
		return fmt.Errorf("reading the embedded object: %w", err)
	}
	capacity.size(&specs)
	loaded, err := ebpf.NewCollection(spec)
	if err != nil {
		return &loadError{err}
	}
	defer loaded.Close()
	if err := fillNew(loaded, &specs); err != nil {
		return err
	}
	return pinAll(dir, loaded)
}

// fillNew makes the empty maps a valid, empty configuration: side 0 is live.
func fillNew(loaded *ebpf.Collection, specs *xdplbMapSpecs) error {
	meta := xdplbMeta{Schema: xdplbSchemaSCHEMA}
	if err := loaded.Maps[xdplbMapMeta].Put(uint32(0), meta); err != nil {
		return fmt.Errorf("writing the schema: %w", err)
	}
	for _, spec := range []*ebpf.MapSpec{specs.Services4, specs.Services6, specs.BackendInfo} {
		inner, err := newInner(spec, 0)
		if err != nil {
			return err
		}
		err = loaded.Maps[spec.Name].Put(uint32(0), inner)
		inner.Close()
		if err != nil {
			return fmt.Errorf("filling %s: %w", spec.Name, err)
		}
	}
	return nil
}

// newInner creates an inner map for a map of maps. It is made from the template, type information included, which
// kernels before 6.2 compare.
func newInner(outer *ebpf.MapSpec, entries int) (*ebpf.Map, error) {
	spec := outer.InnerMap.Copy()
	spec.MaxEntries = uint32(max(entries, 1))
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("creating an inner map of %s: %w", outer.Name, err)
	}
	return inner, nil
}

func pinAll(dir string, loaded *ebpf.Collection) error {
	if err := os.Mkdir(dir, 0o750); err != nil {
		return fmt.Errorf("creating the pin directory: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, linksDir), 0o750); err != nil {
		return fmt.Errorf("creating the pin directory: %w", err)
	}
	if err := loaded.Programs[xdplbProgXdplb].Pin(filepath.Join(dir, programPin)); err != nil {
		return fmt.Errorf("pinning the program: %w", err)
	}
	for name, m := range loaded.Maps {
		if err := m.Pin(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("pinning the map %s: %w", name, err)
		}
	}
	return nil
}

// removePins removes what pinAll makes, as far as it is there. Anything else in the directory stays, and with it the
// directory (ENOTEMPTY).
func removePins(dir string) error {
	spec, err := loadXdplb()
	if err != nil {
		return err
	}
	names := []string{linksDir, programPin}
	for name := range spec.Maps {
		names = append(names, name)
	}
	for _, path := range append(names, ".") {
		if err := os.Remove(filepath.Join(dir, path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing pins: %w", err)
		}
	}
	return nil
}
