// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
)

// DefaultPinDir is where the pins are unless the operator says otherwise.
const DefaultPinDir = "/sys/fs/bpf/xdplb"

// Schema is the version of the maps' layout that this binary understands (SCHEMA in bpf/types.h).
const Schema = uint32(xdplbSchemaSCHEMA)

// Datapath is the opened pins. As long as it is open it holds the lock: who reads in intervals opens it anew for each
// reading.
type Datapath struct {
	dir     string
	lock    *lock
	maps    xdplbMaps
	program *ebpf.Program
	meta    xdplbMeta

	config         *words
	backends       pairs[xdplbBackend]
	egresses       pairs[xdplbEgress]
	interfaces     pairs[xdplbInterface]
	loads          pairs[xdplbLoad]
	serviceBuckets array[xdplbServiceBucket]
	services       array[xdplbService]
	portRanges     array[xdplbPortRange]
	info           array[xdplbBackendColumns]
	timeouts       array[xdplbTimeouts]
	retired        array[xdplbCounters] // by service id
	slots          slotMemory
	limits         *words // by backend id
}

// The words of struct config.
const (
	configEpoch      = 0
	configMultiplier = 1 // of side 0; side 1's is the next word
	configTidy       = 3
	configAllPorts   = 4 // of side 0; side 1's is the next word
)

// Open opens the pins for reading, under the shared lock. Errors: ErrNotAttached, *SchemaError, *LockedError,
// *CapabilityError, *FilesystemError.
func Open(pinDir string) (*Datapath, error) {
	return open(pinDir, shared, LockTimeout)
}

// open takes the lock and opens the pins.
func open(pinDir string, how int, timeout time.Duration) (*Datapath, error) {
	pinDir = filepath.Clean(pinDir)
	if err := checkCapabilities(); err != nil {
		return nil, err
	}
	if err := checkFilesystem(pinDir); err != nil {
		return nil, err
	}
	lock, err := lockDir(pinDir, how, timeout)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotAttached
	}
	if err != nil {
		return nil, err
	}
	d := &Datapath{dir: pinDir, lock: lock}
	if err := d.load(); err != nil {
		d.Close()
		return nil, err
	}
	if how == exclusive {
		if err := d.openLocked(); err != nil {
			d.Close()
			return nil, err
		}
	}
	return d, nil
}

// load opens every pin and looks at nothing before the schema.
func (d *Datapath) load() error {
	if err := d.checkSchema(); err != nil {
		return err
	}
	var err error
	for name, m := range d.byName() {
		if *m, err = ebpf.LoadPinnedMap(filepath.Join(d.dir, name), nil); err != nil {
			return fmt.Errorf("opening the pinned map %s: %w", name, err)
		}
	}
	if d.program, err = ebpf.LoadPinnedProgram(filepath.Join(d.dir, programPin), nil); err != nil {
		return fmt.Errorf("opening the pinned program: %w", err)
	}
	return d.mapMemory()
}

// mapMemory maps what every reader and writer needs; the flow table is mapped by who walks through it.
func (d *Datapath) mapMemory() (err error) {
	if d.config, err = mapWords(d.maps.Config); err != nil {
		return err
	}
	if d.backends, err = mapPairs[xdplbBackend](d.maps.Backends); err != nil {
		return err
	}
	if d.egresses, err = mapPairs[xdplbEgress](d.maps.Egresses); err != nil {
		return err
	}
	if d.interfaces, err = mapPairs[xdplbInterface](d.maps.Interfaces); err != nil {
		return err
	}
	if d.loads, err = mapPairs[xdplbLoad](d.maps.Loads); err != nil {
		return err
	}
	if d.limits, err = mapWords(d.maps.Limits); err != nil {
		return err
	}
	if d.serviceBuckets, err = mapArray[xdplbServiceBucket](d.maps.ServiceBuckets); err != nil {
		return err
	}
	if d.services, err = mapArray[xdplbService](d.maps.Services); err != nil {
		return err
	}
	if d.portRanges, err = mapArray[xdplbPortRange](d.maps.PortRanges); err != nil {
		return err
	}
	if d.info, err = mapArray[xdplbBackendColumns](d.maps.BackendInfo); err != nil {
		return err
	}
	if d.retired, err = mapArray[xdplbCounters](d.maps.RetiredCounters); err != nil {
		return err
	}
	if d.timeouts, err = mapArray[xdplbTimeouts](d.maps.Timeouts); err != nil {
		return err
	}
	d.slots.ids, err = mapWords(d.maps.TableIds)
	return err
}

func (d *Datapath) checkSchema() error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(d.dir, xdplbMapMeta), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotAttached
	}
	if err != nil {
		return fmt.Errorf("opening the pinned map %s: %w", xdplbMapMeta, err)
	}
	defer m.Close()
	// Read raw: of another schema, the value has another length.
	value, err := m.LookupBytes(uint32(0))
	if err != nil || len(value) < 4 {
		return fmt.Errorf("reading the schema of the pins: %w", err)
	}
	if have := binary.NativeEndian.Uint32(value); have != Schema {
		return &SchemaError{Dir: d.dir, Have: have, Want: Schema}
	}
	if err := m.Lookup(uint32(0), &d.meta); err != nil {
		return fmt.Errorf("reading what the pins were made with: %w", err)
	}
	return nil
}

// Close closes the pins and gives the lock back. It removes nothing.
func (d *Datapath) Close() error {
	var errs []error
	for _, memory := range []*words{
		d.config, d.backends.words, d.egresses.words, d.interfaces.words, d.loads.words, d.serviceBuckets.words, d.services.words,
		d.portRanges.words, d.info.words, d.timeouts.words, d.retired.words, d.slots.ids, d.limits,
	} {
		errs = append(errs, memory.close())
	}
	errs = append(errs, d.slots.close(), d.maps.Close())
	if d.program != nil {
		errs = append(errs, d.program.Close())
	}
	return errors.Join(append(errs, d.lock.release())...)
}
