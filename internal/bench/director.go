// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

// Backends is how many backends each service of the director has, but for that of the case whose cost grows with them.
const (
	Backends     = 100
	manyBackends = 256
)

// The services of the director. Cases that open flows and cases whose flows are established have services of their own,
// so that the connections counted show which of both happened.
var (
	vip4 = netip.MustParseAddr("198.51.100.1")
	vip6 = netip.MustParseAddr("2001:db8::1")

	serviceRR      = lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, 80), Protocol: lb.TCP}
	serviceRRNew   = lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, 81), Protocol: lb.TCP}
	serviceMH      = lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, 82), Protocol: lb.TCP}
	serviceMHNew   = lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, 83), Protocol: lb.TCP}
	serviceLCNew   = lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, 87), Protocol: lb.TCP}
	serviceTwosNew = lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, 88), Protocol: lb.TCP}
	serviceQuiesce = lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, 84), Protocol: lb.TCP}
	serviceRRFlood = lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, 85), Protocol: lb.TCP}
	serviceMHFlood = lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, 86), Protocol: lb.TCP}
	serviceUDP     = lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, 53), Protocol: lb.UDP}
	serviceIP6     = lb.ServiceKey{Addr: netip.AddrPortFrom(vip6, 80), Protocol: lb.TCP}
)

// Director is xdplb, attached to a veth in the current network namespace, with services that it was given as an
// operator gives them. Its maps are also those of more copies of the program, inside the driver.
type Director struct {
	pinDir  string
	flows   uint32 // the most flows that a case has
	uplink  uplink
	driven  driven // for which nothing is a flood
	flooded driven // for which every SYN is one

	attachTook, applyTook time.Duration // how long the attachment took, and the first change
	observed              uint64        // packets of observers: the next one opens a flow that none has opened

	established map[flowGroup]uint32
	// how many connections the cases have opened of each service that new flows go to
	opened map[lb.ServiceKey]func() uint64
}

// flowGroup is flows of one service with clients of one range of addresses, whose first it names.
type flowGroup struct {
	service lb.ServiceKey
	base    uint32
}

// uplink is the veth that the director is attached to.
type uplink struct {
	link netlink.Link
	peer netlink.Link // the network's end of it
}

func (u uplink) ifindex() int { return u.link.Attrs().Index }

func (u uplink) mac() (mac [6]byte) {
	copy(mac[:], u.link.Attrs().HardwareAddr)
	return mac
}

// addUplink makes a pair of interfaces that are up and over which the kernel sends nothing by itself.
func addUplink(name, peer string) (uplink, error) {
	link, err := addVeth(name, peer)
	if err != nil {
		return uplink{}, err
	}
	other, err := netlink.LinkByName(peer)
	if err != nil {
		return uplink{}, fmt.Errorf("finding veth %s: %w", peer, err)
	}
	for _, end := range []netlink.Link{link, other} {
		path := "/proc/sys/net/ipv6/conf/" + end.Attrs().Name + "/disable_ipv6"
		if err := os.WriteFile(path, []byte("1"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			return uplink{}, fmt.Errorf("keeping the kernel's own IPv6 packets away: %w", err)
		}
		if err := netlink.LinkSetUp(end); err != nil {
			return uplink{}, fmt.Errorf("setting %s up: %w", end.Attrs().Name, err)
		}
	}
	return uplink{link, other}, nil
}

// NewDirector attaches xdplb with its pins in pinDir, which must not exist, on a BPF filesystem. Tables are made for
// four times as many flows as the largest case has, but for so many that none of a few is evicted; see [Director.Fill].
func NewDirector(pinDir string, flows uint32) (*Director, error) {
	capacity := datapath.Capacity{Flows: max(4*flows, 1<<14), Services: 16, Backends: 4096}
	return newDirector(pinDir, flows, capacity, standardServices)
}

// newDirector is the same with other tables and services; flows is the most flows that a case has.
func newDirector(
	pinDir string, flows uint32, capacity datapath.Capacity, services func(uplink) []lb.Service,
) (*Director, error) {
	d, err := attachDirector(pinDir, capacity, services)
	if err != nil {
		return nil, err
	}
	d.flows = flows
	// A new flow with every packet would be a flood, and would be placed without being recorded.
	if d.driven, err = d.load(math.MaxUint32); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if d.flooded, err = d.load(0); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// attachDirector makes a director without the copies of the program inside the driver.
func attachDirector(
	pinDir string, capacity datapath.Capacity, services func(uplink) []lb.Service,
) (*Director, error) {
	uplink, err := addUplink("director", "network")
	if err != nil {
		return nil, err
	}
	d := &Director{
		pinDir: pinDir, uplink: uplink,
		established: make(map[flowGroup]uint32), opened: make(map[lb.ServiceKey]func() uint64),
	}
	start := time.Now()
	if _, err := datapath.Attach(pinDir, uplink.link.Attrs().Name, datapath.Native, capacity); err != nil {
		return nil, errors.Join(fmt.Errorf("attaching xdplb: %w", err), netlink.LinkDel(uplink.link))
	}
	d.attachTook = time.Since(start)
	if err := d.configure(services(uplink)); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Close detaches xdplb and removes its pins and interfaces.
func (d *Director) Close() error {
	d.driven.close()
	d.flooded.close()
	return errors.Join(datapath.DetachAll(d.pinDir), netlink.LinkDel(d.uplink.link))
}

// configure applies the services, all at once.
func (d *Director) configure(services []lb.Service) error {
	wanted, err := lb.NewState(services)
	if err != nil {
		return fmt.Errorf("making the services: %w", err)
	}
	start := time.Now()
	_, err = datapath.Change(d.pinDir, func(state *lb.State) error {
		*state = wanted
		return nil
	})
	if err != nil {
		return fmt.Errorf("adding the services: %w", err)
	}
	d.applyTook = time.Since(start)
	return nil
}

func standardServices(up uplink) []lb.Service {
	services := []lb.Service{
		{ServiceKey: serviceRR, Scheduler: lb.RR},
		{ServiceKey: serviceRRNew, Scheduler: lb.RR},
		{ServiceKey: serviceMH, Scheduler: lb.MH},
		{ServiceKey: serviceMHNew, Scheduler: lb.MH},
		{ServiceKey: serviceLCNew, Scheduler: lb.LC},
		{ServiceKey: serviceTwosNew, Scheduler: lb.TWOS},
		{ServiceKey: serviceQuiesce, Scheduler: lb.RR},
		{ServiceKey: serviceRRFlood, Scheduler: lb.RR},
		{ServiceKey: serviceMHFlood, Scheduler: lb.MH},
		{ServiceKey: serviceUDP, Scheduler: lb.RR},
		{ServiceKey: serviceIP6, Scheduler: lb.RR},
	}
	for i := range services {
		first := netip.MustParseAddr("192.0.2.1")
		if services[i].Addr.Addr().Is6() {
			first = netip.MustParseAddr("2001:db8:0:1::1")
		}
		count := Backends
		if services[i].Scheduler == lb.LC {
			count = manyBackends
		}
		services[i].Backends = up.backends(first, count)
	}
	return services
}

// backends are real servers behind the interface that the packets come in by.
func (u uplink) backends(first netip.Addr, count int) []lb.Backend {
	backends := make([]lb.Backend, count)
	for i, addr := 0, first; i < count; i, addr = i+1, addr.Next() {
		backends[i] = lb.Backend{Addr: addr, Weight: 1, Hop: lb.NextHop{
			MAC: [6]byte{2, 0, 0, 1, byte(i >> 8), byte(i)}, Ifindex: u.ifindex(), Static: true,
		}}
	}
	return backends
}

// driven is a copy of the program inside the driver. Zero: none.
type driven struct {
	objects *ebpf.Collection
}

func (d driven) program() (*ebpf.Program, *ebpf.Variable) {
	if d.objects == nil {
		return nil, nil
	}
	return d.objects.Programs["driven_xdplb"], d.objects.Variables["driver"]
}

func (d driven) close() {
	if d.objects != nil {
		d.objects.Close()
	}
}

// load loads a copy of the program, on the director's pinned maps. A service is in flood mode that gets more new flows
// in a tick than floodRate.
func (d *Director) load(floodRate uint32) (driven, error) {
	spec, err := loadDriven()
	if err != nil {
		return driven{}, err
	}
	if err := datapath.Prepare(d.pinDir, spec); err != nil {
		return driven{}, err
	}
	if err := spec.Variables["flood_rate"].Set(floodRate); err != nil {
		return driven{}, fmt.Errorf("setting the flood rate: %w", err)
	}
	delete(spec.Programs, "xdplb") // without the driver it is the attached one
	pinned := make(map[string]*ebpf.Map)
	defer func() {
		for _, m := range pinned {
			m.Close()
		}
	}()
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") { // the object's own variables and constants
			continue
		}
		pinned[name], err = ebpf.LoadPinnedMap(filepath.Join(d.pinDir, name), nil)
		if err != nil {
			return driven{}, fmt.Errorf("loading the pinned map %s: %w", name, err)
		}
		m.MaxEntries = pinned[name].MaxEntries()
	}
	objects, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: pinned})
	if err != nil {
		return driven{}, fmt.Errorf("loading xdplb inside the driver: %w", err)
	}
	return driven{objects}, nil
}

// ageFloods lets floods have begun long ago: in the first seconds a SYN's entry from before the flood is looked for, which
// is not what goes on costing.
func (d driven) ageFloods() error {
	cursors := d.objects.Maps["cursors"]
	var id uint32
	var cursor drivenCursor
	for entries := cursors.Iterate(); entries.Next(&id, &cursor); {
		if cursor.Floods == 0 {
			continue
		}
		cursor.FloodSince = cursor.FloodUntil - 1000
		if err := cursors.Put(id, cursor); err != nil {
			return fmt.Errorf("ageing a flood: %w", err)
		}
	}
	return nil
}

// forgetSYNs frees the entries of which only a SYN was seen, so that every batch of new flows finds the table as full as
// [Director.Fill] has left it. No packets may be under way.
func (d *Director) forgetSYNs() error {
	table, err := d.driven.objects.Maps["flows"].Memory()
	if err != nil {
		return fmt.Errorf("mapping the flow table: %w", err)
	}
	const bytes = int64(unsafe.Sizeof(drivenBucket{}))
	buckets := make([]drivenBucket, min(1<<12, int64(table.Size())/bytes))
	memory := unsafe.Slice((*byte)(unsafe.Pointer(&buckets[0])), int64(len(buckets))*bytes)
	for at := int64(0); at < int64(table.Size()); at += int64(len(memory)) {
		n, err := table.ReadAt(memory, at)
		if err == nil || errors.Is(err, io.EOF) {
			forgetSYNs(buckets[:int64(n)/bytes])
			_, err = table.WriteAt(memory[:n], at)
		}
		if err != nil {
			return fmt.Errorf("freeing entries of the flow table: %w", err)
		}
	}
	return nil
}

func forgetSYNs(buckets []drivenBucket) {
	for i := range buckets {
		entries := &buckets[i].Entry
		for way := range entries {
			if entries[way].Status&uint32(drivenStatusSTATUS_STATE) == uint32(drivenFlowStateFLOW_SYN) {
				entries[way] = drivenEntry{}
			}
		}
	}
}

// Programs are xdplb inside the driver; they must be kept attached while they are measured.
func (d *Director) Programs() []*ebpf.Program {
	quiet, _ := d.driven.program()
	flooded, _ := d.flooded.program()
	return []*ebpf.Program{quiet, flooded}
}

// quiesce sets the weight of every backend of a service to 0.
func (d *Director) quiesce(key lb.ServiceKey) error {
	_, err := datapath.Change(d.pinDir, func(state *lb.State) error {
		return state.SetService(key, func(service *lb.Service) error {
			for i := range service.Backends {
				service.Backends[i].Weight = 0
			}
			return nil
		})
	})
	return err
}

// errCrowded means that of the table's second part one bucket was full of established flows by chance, and a new one
// took the place of one of them. That is no wrong verdict.
var errCrowded = errors.New("an established flow gave way to a new one")

// explain adds errCrowded to an error if it may be the reason.
func (d *Director) explain(reason error) error {
	view, err := datapath.Open(d.pinDir)
	if err != nil {
		return errors.Join(reason, err)
	}
	defer view.Close()
	status, err := view.Status()
	if err != nil {
		return errors.Join(reason, err)
	}
	if status.Flows.Evictions.Established > 0 {
		return fmt.Errorf("%w: %w", reason, errCrowded)
	}
	return reason
}

// Verify checks what no verdict shows: that each service counted exactly the connections that the cases opened. An
// established flow that was scheduled anew, or a new one that was taken for a known one, would be forwarded as well.
func (d *Director) Verify() error {
	view, err := datapath.Open(d.pinDir)
	if err != nil {
		return err
	}
	defer view.Close()
	counted, err := view.Counters()
	if err != nil {
		return err
	}
	want := make(map[lb.ServiceKey]uint64)
	for group, flows := range d.established {
		want[group.service] += uint64(flows)
	}
	for key, opened := range d.opened {
		want[key] += opened()
	}
	for key, connections := range want {
		if have := counted[key].Connections; have != connections {
			return fmt.Errorf("%s counted %d connections, of %d that were opened", key, have, connections)
		}
	}
	return verifyFloods(view, counted)
}

// verifyFloods checks that a flood's SYNs were recorded only where they made it one: one each time.
func verifyFloods(view *datapath.Datapath, counted map[lb.ServiceKey]datapath.ServiceStats) error {
	status, err := view.Status()
	if err != nil {
		return err
	}
	recorded := counted[serviceRRFlood].Connections + counted[serviceMHFlood].Connections
	if recorded != status.Flows.Floods {
		return fmt.Errorf("flooded services counted %d connections, and entered flood mode %d times", recorded, status.Flows.Floods)
	}
	return nil
}
