// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net/netip"
	"time"

	"xdplb/internal/lb"
)

const DefaultPinDir = "/sys/fs/bpf/xdplb"
const LockTimeout = 5 * time.Second

var errNotYet = errors.New("not yet")

// Capacity says how much the maps hold. It is fixed when the pins are created.
type Capacity struct {
	Flows    uint32 // of each family
	Services uint32
	Backends uint32
}

var DefaultCapacity = Capacity{Flows: 1 << 20, Services: 4096, Backends: 65536}

// Mode is the way in which the program is attached to an interface.
type Mode string

const (
	Auto    Mode = "auto"    // native if the driver can, else generic
	Native  Mode = "native"  // in the driver
	Generic Mode = "generic" // in the network stack
)

// ParseMode parses "auto", "native" or "generic".
func ParseMode(word string) (Mode, error) { return Auto, nil }

// Attachment is an interface that carries the program.
type Attachment struct {
	Name     string // "" if Gone
	Ifindex  int
	Driver   string // as ethtool -i says
	Mode     Mode   // that was obtained
	Why      string // why generic, though auto was asked; else ""
	MAC      [6]byte
	MTU      int      // bytes of IP
	Gone     bool     // the interface was deleted; the next attach or detach cleans up
	Warnings []string // what breaks direct routing under XDP on this interface
}

func Attach(pinDir, iface string, mode Mode, capacity Capacity) (Attachment, error) {
	return Attachment{}, errNotYet
}
func Detach(pinDir, iface string) error                                 { return errNotYet }
func DetachAll(pinDir string) error                                     { return errNotYet }
func Change(pinDir string, edit func(*lb.State) error) (lb.Plan, error) { return lb.Plan{}, errNotYet }
func DryRun(pinDir string, edit func(*lb.State) error) (lb.Plan, error) { return lb.Plan{}, errNotYet }

type Datapath struct{}

func Open(pinDir string) (*Datapath, error)         { return nil, errNotYet }
func (*Datapath) Close() error                      { return nil }
func (*Datapath) Snapshot() (lb.State, error)       { return lb.State{}, errNotYet }
func (*Datapath) Interfaces() ([]Attachment, error) { return nil, errNotYet }

type Counters struct{ Connections, Packets, Bytes uint64 }
type BackendStats struct {
	Counters
	Active, Inactive uint64
}
type ServiceStats struct {
	Counters
	Backends map[netip.Addr]BackendStats
}

func (*Datapath) Stats() (map[lb.ServiceKey]ServiceStats, error)    { return nil, errNotYet }
func (*Datapath) Counters() (map[lb.ServiceKey]ServiceStats, error) { return nil, errNotYet }

type Reason struct {
	Name, Verdict, Meaning string
	Packets                uint64
}

func (*Datapath) Reasons() ([]Reason, error) { return nil, errNotYet }

type Status struct {
	Epoch    uint64
	Schema   uint32
	Capacity Capacity
	Program  ProgramStatus
	Maps     []MapStatus
	Memory   uint64 // bytes of all maps and the program
}
type ProgramStatus struct {
	Name     string
	ID       uint32
	Tag      string
	LoadedAt time.Time
	JITed    uint32 // bytes of machine code
}
type MapStatus struct {
	Name      string
	Type      string
	Used, Max uint32
	Bytes     uint64
}

func (*Datapath) Status() (Status, error) { return Status{}, errNotYet }
