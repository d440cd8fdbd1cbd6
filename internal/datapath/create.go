// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"xdplb/internal/lb"
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

// Of types.h and maps.h, where they are no enums.
const (
	sides       = 2                              // SIDES
	ways        = uint32(len(xdplbBucket{}.Tag)) // WAYS
	serviceWays = len(xdplbServiceBucket{}.Key)  // SERVICE_WAYS
	noTable     = uint32(0)                      // where no lookup table begins
)

// Capacity says how much the maps hold; it is fixed when the pins are created. In [Attach], a zero field means
// whatever is there, or [DefaultCapacity].
type Capacity struct {
	Flows    uint32 // remembered connections, of IPv4 and IPv6 together; half as many more where they crowd
	Services uint32
	Backends uint32 // over all services
	// How many new TCP connections a service may get in a [Tick] before it goes into flood mode. The default goes by Flows.
	FloodRate uint32
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
	if c.FloodRate == 0 {
		c.FloodRate = other.FloodRate
	}
	return c
}

// ids is how many ids there are for a number of services or backends, id 0, which means none, included. While a
// configuration replaces another, both have theirs.
func ids(capacity uint32) uint32 { return 2*capacity + 1 }

// backendIDs is never so small that an id could be given away 256 times, which is where a flow's eight bits of the
// generation begin again, before the flow is forgotten: ids are given away in turn (layout.go).
func (c Capacity) backendIDs() uint32 { return max(ids(c.Backends), 4096) }

// The most flows and backends that the program can name: a flow's cell has 32 bits, a backend's id 24 (bpf/flow.h).
const (
	MaxFlows    = 1 << 30
	MaxBackends = 1<<23 - 1
)

func (c Capacity) check() error {
	if c.Flows > MaxFlows {
		return fmt.Errorf("room for %d flows is too much: --flows takes at most %d", c.Flows, MaxFlows)
	}
	if c.Backends > MaxBackends {
		return fmt.Errorf("room for %d backends is too much: --backends takes at most %d", c.Backends, MaxBackends)
	}
	return nil
}

// meta chooses everything that the program is given before it is loaded.
func (c Capacity) meta() (xdplbMeta, error) {
	buckets := (c.Flows + ways - 1) / ways
	meta := xdplbMeta{
		Schema: xdplbSchemaSCHEMA, Flows: c.Flows, Services: c.Services, Backends: c.Backends,
		FlowBuckets: buckets, SpillBuckets: buckets/2 + 1, ServiceBucketsPerSide: 2 * c.Services, FloodRate: c.floodRate(),
	}
	var random [8 * len(meta.HashKeys)]byte
	if _, err := rand.Read(random[:]); err != nil {
		return xdplbMeta{}, fmt.Errorf("drawing the keys of the flow table: %w", err)
	}
	for i := range meta.HashKeys {
		meta.HashKeys[i] = binary.NativeEndian.Uint64(random[8*i:]) | 1
	}
	return meta, nil
}

// floodRate is the rate, or by default so few that even then a SYN's flow, which has three of a bucket's five ways, stays
// for about ten seconds, which is time to answer.
func (c Capacity) floodRate() uint32 {
	if c.FloodRate != 0 {
		return c.FloodRate
	}
	return max(c.Flows/16, 1024)
}

// portRanges is how many ranges of ports the services together may have.
func portRanges(meta *xdplbMeta) uint32 { return max(4*meta.Services, 1024) }

// templates is how many persistence templates there can be of clients that have sent more than one packet, and of others:
// of these enough for those of half a second at the default flood rate, after which the client's next packet has come.
func (c Capacity) templates() (kept, fresh uint32) {
	return max(c.Flows/4, 4096), max(c.Flows/32, 4096)
}

// size gives the maps their sizes, and the program its constants.
func size(spec *ebpf.CollectionSpec, meta *xdplbMeta) error {
	var specs xdplbSpecs
	if err := spec.Assign(&specs); err != nil {
		return fmt.Errorf("reading the embedded object: %w", err)
	}
	capacity := capacityOf(meta)
	buckets := meta.FlowBuckets + meta.SpillBuckets
	templates, newTemplates := capacity.templates()
	for m, entries := range map[*ebpf.MapSpec]uint32{
		specs.Flows:           buckets,
		specs.FlowOrigins:     buckets,
		specs.FlowClients6:    buckets * ways,
		specs.ServiceBuckets:  sides * meta.ServiceBucketsPerSide,
		specs.PortRanges:      sides * portRanges(meta),
		specs.Services:        sides * capacity.Services,
		specs.BackendInfo:     sides * capacity.backendIDs(),
		specs.Cursors:         ids(capacity.Services),
		specs.RetiredCounters: sides * ids(capacity.Services),
		specs.Backends:        capacity.backendIDs(),
		specs.BackendCounters: capacity.backendIDs(),
		specs.Loads:           capacity.backendIDs(),
		specs.Limits:          capacity.backendIDs(),
		specs.Templates:       templates,
		specs.NewTemplates:    newTemplates,
	} {
		m.MaxEntries = entries
	}
	for v, value := range map[*ebpf.VariableSpec]any{
		specs.FlowBuckets:           meta.FlowBuckets,
		specs.SpillBuckets:          meta.SpillBuckets,
		specs.ServiceBucketsPerSide: meta.ServiceBucketsPerSide,
		specs.PortRangesPerSide:     portRanges(meta),
		specs.FloodRate:             meta.FloodRate,
		specs.HashKeys:              meta.HashKeys,
		specs.BackendsPerSide:       capacity.backendIDs(),
		specs.WeaklyOrdered:         runtime.GOARCH != "amd64",
	} {
		if err := v.Set(value); err != nil {
			return fmt.Errorf("setting the program's constants: %w", err)
		}
	}
	return nil
}

// Prepare gives another object that holds the program (a benchmark's, say) the sizes and constants of the pinned one, so
// that it can be loaded on the pinned maps.
func Prepare(pinDir string, spec *ebpf.CollectionSpec) error {
	view, err := Open(pinDir)
	if err != nil {
		return err
	}
	defer view.Close()
	return size(spec, &view.meta)
}

// capacity is what the pins were made for.
func (d *Datapath) capacity() Capacity { return capacityOf(&d.meta) }

func capacityOf(meta *xdplbMeta) Capacity {
	return Capacity{meta.Flows, meta.Services, meta.Backends, meta.FloodRate}
}

// mapNames lists the maps that are pinned: all but the program's constants, which it holds itself (".rodata").
func mapNames(spec *ebpf.CollectionSpec) []string {
	var names []string
	for name := range spec.Maps {
		if !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	return names
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
	if err := capacity.check(); err != nil {
		return err
	}
	spec, err := loadXdplb()
	if err != nil {
		return err
	}
	meta, err := capacity.meta()
	if err != nil {
		return err
	}
	if err := size(spec, &meta); err != nil {
		return err
	}
	if err := checkMemory(spec); err != nil {
		return err
	}
	loaded, err := ebpf.NewCollection(spec)
	if err != nil {
		return &loadError{err}
	}
	defer loaded.Close()
	if err := fillNew(loaded, spec, meta); err != nil {
		return err
	}
	return pinAll(dir, loaded, mapNames(spec))
}

// fillNew makes the empty maps a valid, empty configuration: side 0 is live, and the lookup tables have their first part.
func fillNew(loaded *ebpf.Collection, spec *ebpf.CollectionSpec, meta xdplbMeta) error {
	if err := loaded.Maps[xdplbMapMeta].Put(uint32(0), meta); err != nil {
		return fmt.Errorf("writing what the pins are made with: %w", err)
	}
	if err := loaded.Maps[xdplbMapConfig].Put(uint32(0), xdplbConfig{Tidy: 1}); err != nil {
		return fmt.Errorf("writing the first configuration: %w", err)
	}
	for n := range uint32(sides) {
		if err := loaded.Maps[xdplbMapTimeouts].Put(n, newTimeouts(lb.Timeouts{})); err != nil {
			return fmt.Errorf("writing the first timeouts: %w", err)
		}
	}
	part, id, err := newPart(spec.Maps[xdplbMapTables])
	if err != nil {
		return err
	}
	defer part.Close()
	if err := loaded.Maps[xdplbMapTableIds].Put(uint32(0), uint64(id)); err != nil {
		return fmt.Errorf("noting the first part of the lookup tables: %w", err)
	}
	if err := loaded.Maps[xdplbMapTables].Put(uint32(0), part); err != nil {
		return fmt.Errorf("putting the first part of the lookup tables in: %w", err)
	}
	return nil
}

func pinAll(dir string, loaded *ebpf.Collection, names []string) error {
	if err := os.Mkdir(dir, 0o750); err != nil {
		return fmt.Errorf("creating the pin directory: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, linksDir), 0o750); err != nil {
		return fmt.Errorf("creating the pin directory: %w", err)
	}
	if err := loaded.Programs[xdplbProgXdplb].Pin(filepath.Join(dir, programPin)); err != nil {
		return fmt.Errorf("pinning the program: %w", err)
	}
	for _, name := range names {
		if err := loaded.Maps[name].Pin(filepath.Join(dir, name)); err != nil {
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
	for _, path := range append(mapNames(spec), linksDir, programPin, ".") {
		if err := os.Remove(filepath.Join(dir, path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing pins: %w", err)
		}
	}
	return nil
}
