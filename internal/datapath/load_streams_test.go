// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/datapath/traffic"
	"xdplb/internal/lb"
	"xdplb/internal/testenv"
)

// Flows are numbered, and come in blocks. Those of a block belong to all services alike (bpf/bench/driver.h).
const (
	blockFlows = 1 << 16
	portFactor = 40503 // by which the driver scatters ports and services
)

// Addresses of the clients: of flows, 16 for each, and of SYNs from everywhere.
const (
	firstClient  = 10 << 24
	firstUnknown = 32 << 24
)

// streams sends live frames of numbered flows through an attached program, on two CPUs, and knows where each went.
type streams struct {
	attachment Attachment
	services   uint32 // their ports are 1, 2, 3, ...
	lanes      [2]*lane
	tracks     array[traffic.StreamTrack]
	lives      *words
}

// lane is one CPU's part: its generator sends into the network's end of the director's veth. Each CPU has a queue of its
// own there, so that a frame's whole way is one chain of softirqs on one CPU, and no queue can overflow.
type lane struct {
	streams *streams
	objects *ebpf.Collection
	frame   []byte
	network int // index of the interface
	random  *rand.Rand
	work    chan func(*lane) error
	done    chan error
	sent    uint64
}

// newStreams attaches xdplb in a namespace of its own, with so much capacity, to a network that sends so many flows,
// whole blocks, to services; lives is how many backends there will ever be.
func newStreams(t testing.TB, capacity Capacity, flows, services, lives uint32) *streams {
	t.Helper()
	testenv.Namespace(t)
	cpus := twoCPUs(t)
	addUplink(t, cpus)
	attachment, err := Attach(pinDir, "eth0", Native, capacity)
	if err != nil {
		t.Fatal(err)
	}
	f := &streams{attachment: attachment, services: services}
	spec, err := traffic.LoadStream()
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps["tracks"].MaxEntries, spec.Maps["lives"].MaxEntries = flows, lives
	must(spec.Variables["first_client"].Set(uint32(firstClient)))
	shared := make(map[string]*ebpf.Map)
	for _, name := range []string{"tracks", "lives"} {
		if shared[name], err = ebpf.NewMap(spec.Maps[name]); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { shared[name].Close() })
	}
	if f.tracks, err = mapArray[traffic.StreamTrack](shared["tracks"]); err != nil {
		t.Fatal(err)
	}
	if f.lives, err = mapWords(shared["lives"]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.tracks.close(); f.lives.close() })
	for i := range f.lanes {
		f.lanes[i] = f.newLane(t, spec, shared, cpus[i], uint64(i))
	}
	attachNative(t, f.lanes[0].objects.Programs["watch"], "far0")
	addVeth(t, "idle0", "idle1") // an attached program's test run need not change the kernel's dispatcher
	for i, name := range []string{"idle0", "idle1"} {
		attachNative(t, f.lanes[i].objects.Programs["stream"], name)
	}
	return f
}

// twoCPUs are two CPUs that the test may use, or one twice.
func twoCPUs(t testing.TB) (cpus [2]int) {
	t.Helper()
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	found := 0
	for cpu := 0; found < min(allowed.Count(), 2); cpu++ {
		if allowed.IsSet(cpu) {
			cpus[found] = cpu
			cpus[1] = cpu
			found++
		}
	}
	return cpus
}

// addUplink makes the veth between director and network, with a queue for each CPU, over which the kernel sends nothing
// by itself.
func addUplink(t testing.TB, cpus [2]int) {
	t.Helper()
	queues := max(cpus[0], cpus[1]) + 1
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.NumTxQueues, attributes.NumRxQueues = "eth0", queues, queues
	err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: attributes, PeerName: "far0", PeerNumTxQueues: uint32(queues), PeerNumRxQueues: uint32(queues),
	})
	if err != nil {
		t.Fatalf("add a veth: %v", err)
	}
	for _, name := range []string{"eth0", "far0"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(linkOf(t, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func attachNative(t testing.TB, program *ebpf.Program, to string) {
	t.Helper()
	held, err := link.AttachXDP(link.XDPOptions{
		Program: program, Interface: linkOf(t, to).Attrs().Index, Flags: link.XDPDriverMode,
	})
	if err != nil {
		t.Fatalf("attach to %s: %v", to, err)
	}
	t.Cleanup(func() { held.Close() })
}

// newLane loads a generator on maps that both lanes share, and starts its goroutine.
func (f *streams) newLane(t testing.TB, spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map, cpu int, seed uint64) *lane {
	t.Helper()
	objects, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		t.Fatalf("load the generator: %+v", err)
	}
	t.Cleanup(objects.Close)
	l := &lane{
		streams: f, objects: objects, network: linkOf(t, "far0").Attrs().Index,
		frame:  frameBetween(routerMAC, f.attachment.MAC, ip4(), tcp(clientPort, 1, tcpFlags{})),
		random: rand.New(rand.NewPCG(seed, 0)),
		work:   make(chan func(*lane) error), done: make(chan error, 1),
	}
	ended := make(chan struct{})
	onThisNamespace(t, func() {
		defer close(ended)
		var one unix.CPUSet
		one.Set(cpu)
		err := unix.SchedSetaffinity(0, &one)
		for do := range l.work {
			if err == nil {
				err = do(l)
			}
			l.done <- err
		}
	})
	t.Cleanup(func() { close(l.work); <-ended })
	return l
}

// Places in the frame.
const (
	atHopLimit    = 14 + 8
	atClient      = 14 + 12
	atClientPort  = 14 + 20
	atServicePort = 14 + 22
	atNumber      = 14 + 24
)

// liveFrames is BPF_F_TEST_XDP_LIVE_FRAMES of linux/bpf.h, liveBatch how many the kernel makes at a time.
const (
	liveFrames = 1 << 1
	liveBatch  = 64
)

// strideFlows is how many flows shake hands at a time.
const strideFlows = 2048

// open sends packets of each flow of a block, and opens connections for those that have none.
func (l *lane) open(block uint32) error {
	for stride := range uint32(blockFlows / strideFlows) {
		if err := l.openStride(block, stride); err != nil {
			return err
		}
	}
	return nil
}

func (l *lane) openStride(block, stride uint32) error {
	first := stride * strideFlows
	base := clientOf(block * blockFlows)
	walk := traffic.StreamKnobs{ClientBase: base, Sequence: uint64(first), SequenceMask: blockFlows - 1}
	first += block * blockFlows
	if l.streams.isConnected(first, strideFlows) {
		return l.send(strideFlows, traffic.StreamHandshakeHANDSHAKE_NONE, walk)
	}
	for range 1000 {
		syns := l.send(strideFlows, traffic.StreamHandshakeHANDSHAKE_SYN, walk)
		acks := l.send(strideFlows, traffic.StreamHandshakeHANDSHAKE_ACK, walk)
		if err := errors.Join(syns, acks); err != nil || l.streams.isConnected(first, strideFlows) {
			return err
		}
	}
	return errors.New("flows get no connection")
}

// isConnected says whether all of some flows have a connection.
func (f *streams) isConnected(first, count uint32) bool {
	for i := first; i < first+count; i++ {
		home := atomic.LoadUint32(&f.tracks.values[i].Home)
		if home == 0 || f.lives.load(int(home)) != uint64(traffic.StreamLifeLIFE_KEPT) {
			return false
		}
	}
	return true
}

// roam sends packets of flows of a block that have a connection, in random order: of the first so many, a power of two.
func (l *lane) roam(block, flows uint32, packets int) error {
	base := clientOf(block * blockFlows)
	return l.send(packets, traffic.StreamHandshakeHANDSHAKE_NONE, traffic.StreamKnobs{ClientBase: base, RandomMask: flows - 1})
}

// flood sends SYNs of random clients.
func (l *lane) flood(packets int) error {
	return l.send(packets, traffic.StreamHandshakeHANDSHAKE_SYN, traffic.StreamKnobs{ClientBase: firstUnknown, RandomMask: ^uint32(0)})
}

func clientOf(flow uint32) uint32 { return firstClient + flow/16 }

// send runs the generator, which sends the packets, and with them the way of each through veth, program and veth again.
func (l *lane) send(packets int, step traffic.StreamHandshake, k traffic.StreamKnobs) error {
	k.Random = l.random.Uint64() | 1
	k.MacsLow, k.MacsHigh = binary.NativeEndian.Uint64(l.frame), binary.NativeEndian.Uint32(l.frame[8:])
	k.ClientOffset, k.PortOffset, k.HopLimitOffset, k.ServiceOffset = atClient, atClientPort, atHopLimit, atServicePort
	k.NumberOffset = atNumber
	k.Services, k.Expected = l.streams.services, xdpTX
	driver := l.objects.Variables["driver"]
	if err := errors.Join(l.objects.Variables["step"].Set(step), driver.Set(&k)); err != nil {
		return err
	}
	_, err := l.objects.Programs["stream"].Run(&ebpf.RunOptions{
		Data: l.frame, Context: xdpContext{DataEnd: uint32(len(l.frame)), IngressIfindex: uint32(l.network)},
		Repeat: uint32(packets), Flags: liveFrames, BatchSize: liveBatch,
	})
	if err != nil {
		return fmt.Errorf("sending %d packets: %w", packets, err)
	}
	if err := driver.Get(&k); err != nil {
		return err
	}
	l.sent += k.Right // more than packets, if a signal interrupted the system call and it was run again
	return nil
}

// start lets both lanes do something, each on its CPU; wait returns when they are done.
func (f *streams) start(do func(*lane) error) {
	for _, l := range f.lanes {
		l.work <- do
	}
}

func (f *streams) wait(t testing.TB) {
	t.Helper()
	for _, l := range f.lanes {
		if err := <-l.done; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// onLanes lets both lanes do something, and returns when all packets have arrived.
func (f *streams) onLanes(t testing.TB, do func(*lane) error) {
	t.Helper()
	f.start(do)
	f.wait(t)
	f.allArrive(t)
}

// allArrive waits until all packets that were sent have come to their end, and fails if one reached a backend that it
// should not have, or none. There are two reasons for none, see losses.
func (f *streams) allArrive(t testing.TB) (w traffic.StreamWatched) {
	t.Helper()
	sent := f.lanes[0].sent + f.lanes[1].sent
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := f.lanes[0].objects.Variables["watched"].Get(&w); err != nil {
			t.Fatal(err)
		}
		lost := f.losses(t)
		if w.Packets+lost.refused+lost.forgotten == sent {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d packets sent, %d arrived: %+v", sent, w.Packets, lost)
		}
	}
	if w.Strayed+w.Late > 0 {
		for i, track := range f.tracks.values {
			if track.Strayed > 0 {
				t.Errorf("flow %d of service %d: %+v", i, f.serviceOf(uint32(i)), track)
				break
			}
		}
		t.Fatalf("%d packets strayed, %d reached a backend that was gone", w.Strayed, w.Late)
	}
	return w
}

// losses are packets that xdplb did not forward.
type losses struct {
	// A new flow's packet is dropped if another CPU holds its bucket, which the hypervisor can make as long as it likes. A
	// client sends it again.
	refused uint64
	// A packet of no connection that xdplb knows.
	forgotten uint64
}

// losses counts them. Any other reason not to forward a packet is an error.
func (f *streams) losses(t testing.TB) (lost losses) {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	reasons, err := d.Reasons()
	if err != nil {
		t.Fatal(err)
	}
	for reason, r := range reasons {
		switch xdplbReason(reason) {
		case isTX, isNotIP, isOtherProtocol: // the last two are the kernel's own packets
		case isFlowTableFull:
			lost.refused = r.Packets
		case isNoConnection:
			lost.forgotten = r.Packets
		default:
			if r.Packets > 0 {
				t.Fatalf("%d packets %s", r.Packets, r.Name)
			}
		}
	}
	return lost
}

// serviceOf is the port of the service that a flow belongs to.
func (f *streams) serviceOf(flow uint32) uint32 {
	return 1 + flow*portFactor%blockFlows*f.services/blockFlows
}

// key is a service by its port.
func (f *streams) key(port uint32) lb.ServiceKey {
	return lb.ServiceKey{Addr: netip.AddrPortFrom(vip4, uint16(port)), Protocol: lb.TCP}
}

// backend is a real server that no other was before it: its MAC address says its number.
func (f *streams) backend(addr netip.Addr, number uint32) lb.Backend {
	hop := lb.NextHop{MAC: [6]byte{0: 2}, Ifindex: f.attachment.Ifindex, Static: true}
	binary.BigEndian.PutUint32(hop.MAC[2:], number)
	return lb.Backend{Addr: addr, Weight: 1, Hop: hop}
}

// numberOf is the backend's number.
func numberOf(b lb.Backend) uint32 { return binary.BigEndian.Uint32(b.Hop.MAC[2:]) }

// eachFlow looks at the flows one by one, the first so many of them, which have all had a connection. It returns of how
// many some packet did not arrive that belonged to a connection.
func (f *streams) eachFlow(t testing.TB, count uint32) (stopped int) {
	t.Helper()
	for i, track := range f.tracks.values[:count] {
		if track.Home == 0 || track.Strayed > 0 {
			t.Fatalf("flow %d of service %d: %+v", i, f.serviceOf(uint32(i)), track)
		}
		if track.Sent != track.Arrived {
			stopped++
		}
	}
	return stopped
}

// status is the director's.
func (f *streams) status(t testing.TB) FlowStatus {
	t.Helper()
	return status(t).Flows
}

// serve adds all services, with the schedulers by turns. The backends of the first one have the lowest numbers.
func (f *streams) serve(t testing.TB, backends uint32, schedulers ...lb.Scheduler) {
	t.Helper()
	all := make([]lb.Service, f.services)
	for i := range f.services {
		all[i] = lb.Service{ServiceKey: f.key(i + 1), Scheduler: schedulers[int(i)%len(schedulers)]}
		for j := range backends {
			all[i].Backends = append(all[i].Backends, f.backend(address(false, 2, int(j)), i*backends+j+1))
		}
	}
	state, err := lb.NewState(all)
	if err != nil {
		t.Fatal(err)
	}
	mustChange(t, to(state))
}
