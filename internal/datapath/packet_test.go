// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
	"xdplb/internal/testenv"
)

// The reasons, in short.
const (
	isTX                = xdplbReasonREASON_TX
	isRedirect          = xdplbReasonREASON_REDIRECT
	isLocal             = xdplbReasonREASON_LOCAL
	isNotIP             = xdplbReasonREASON_NOT_IP
	isOtherProtocol     = xdplbReasonREASON_OTHER_PROTOCOL
	isNoService         = xdplbReasonREASON_NO_SERVICE
	isOtherHost         = xdplbReasonREASON_OTHER_HOST
	isMalformed         = xdplbReasonREASON_MALFORMED
	isNoBackend         = xdplbReasonREASON_NO_BACKEND
	isNoConnection      = xdplbReasonREASON_NO_CONNECTION
	isICMPUnmatched     = xdplbReasonREASON_ICMP_UNMATCHED
	isFragmentUnmatched = xdplbReasonREASON_FRAGMENT_UNMATCHED
	isTTLExceeded       = xdplbReasonREASON_TTL_EXCEEDED
	isNoNeighbour       = xdplbReasonREASON_NO_NEIGHBOUR
	isFlowTableFull     = xdplbReasonREASON_FLOW_TABLE_FULL
	isTooBig            = xdplbReasonREASON_TOO_BIG
	isNoHeadroom        = xdplbReasonREASON_NO_HEADROOM
	isInternal          = xdplbReasonREASON_INTERNAL
	reasonCount         = int(xdplbReasonREASON_COUNT)
)

// XDP's verdicts (linux/bpf.h).
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpTX       = 3
	xdpRedirect = 4
)

// verdictOf is what each reason must lead to. What is not ours or cannot be placed is the director's own stack's;
// what would harm if that saw it is dropped.
func verdictOf(reason xdplbReason) uint32 {
	switch {
	case reason == isTX:
		return xdpTX
	case reason == isRedirect:
		return xdpRedirect
	case reason <= isFragmentUnmatched:
		return xdpPass
	default:
		return xdpDrop
	}
}

func nameOf(reason xdplbReason) string { return reasonTexts()[reason].Name }

// TestReasonsSayTheirVerdict compares what the user is told with what the tests here expect.
func TestReasonsSayTheirVerdict(t *testing.T) {
	names := map[uint32]string{xdpDrop: "DROP", xdpPass: "PASS", xdpTX: "TX", xdpRedirect: "REDIRECT"}
	for reason, text := range reasonTexts() {
		if want := names[verdictOf(xdplbReason(reason))]; text.Verdict != want {
			t.Errorf("%s: %s, want %s", text.Name, text.Verdict, want)
		}
	}
}

// TestReasonsAreDocumented wants the guide to name every reason in the program's order, with its verdict.
func TestReasonsAreDocumented(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/deployment.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (sent|passed|dropped) \\|").FindAllStringSubmatch(string(guide), -1) {
		documented = append(documented, row[1]+" "+row[2])
	}
	verdicts := map[string]string{"TX": "sent", "REDIRECT": "sent", "PASS": "passed", "DROP": "dropped"}
	for _, reason := range reasonTexts() {
		want = append(want, reason.Name+" "+verdicts[reason.Verdict])
	}
	if diff := cmp.Diff(want, documented); diff != "" {
		t.Errorf("docs/deployment.md (-want +got):\n%s", diff)
	}
}

// BPF_PROG_TEST_RUN lets a frame come in by the loopback interface, unless told otherwise.
const (
	ifindexHere      = 1
	ifindexElsewhere = 7 // need not exist: a redirect happens only after the program has ended
)

// Egresses of the world.
const (
	egressHere = iota + 1
	egressHereVLAN
	egressElsewhere
	egressElsewhereVLAN
	egressSmallMTU
	egressRoom = 16

	vlanHere      = 100
	vlanElsewhere = 200
)

// Backends of the world.
const (
	real1 = iota + 1
	real2
	real1VLAN
	real1Elsewhere
	real1ElsewhereVLAN
	real1Unknown // no MAC
	real1NoEgress
	real1ZeroEgress
	real1SmallMTU
	realLocal   // the director itself
	backendRoom = 1024

	noSuchBackend = backendRoom
)

// Sizes of the test's maps.
const (
	serviceRoom    = 64
	serviceBuckets = 64
	flowBuckets    = 1024
	spillBuckets   = 512
	floodRate      = 1 << 20 // in one tick: out of a test's reach, but where the test is about floods
)

// hashKeys are any odd numbers; drawn once, so that a test that fails fails again.
func hashKeys() (keys [12]uint64) {
	random := rand.New(rand.NewPCG(7, 9))
	for i := range keys {
		keys[i] = random.Uint64() | 1
	}
	return keys
}

// rig is the program with small maps, which the test fills itself, whatever the rest of this package does.
type rig struct {
	tb      testing.TB
	spec    *ebpf.CollectionSpec
	maps    map[string]*ebpf.Map
	program *ebpf.Program
	slots   mapped // the first part of the lookup tables
	taken   uint32 // of those slots, those before
	config  mapped
	hops    mapped // of backends, two words each
	buckets mapped // of flows
	home    uint32 // buckets in the first part of the flow table
	spill   uint32 // and in the second
	keys    [12]uint64
}

// tableOf gives the flow table another size.
func tableOf(home, spill uint32) func(*ebpf.CollectionSpec) {
	return func(spec *ebpf.CollectionSpec) {
		spec.Maps["flows"].MaxEntries = home + spill
		spec.Maps["flow_origins"].MaxEntries = home + spill
		spec.Maps["flow_clients6"].MaxEntries = (home + spill) * ways
		must(spec.Variables["flow_buckets"].Set(home))
		must(spec.Variables["spill_buckets"].Set(spill))
	}
}

// floodAt lets a service enter flood mode with the new flow behind so many in one tick.
func floodAt(rate uint32) func(*ebpf.CollectionSpec) {
	return func(spec *ebpf.CollectionSpec) { must(spec.Variables["flood_rate"].Set(rate)) }
}

// newRig has the world's backends and egresses, and no service. What is given may change the program before its load.
func newRig(tb testing.TB, change ...func(*ebpf.CollectionSpec)) *rig {
	tb.Helper()
	testenv.Require(tb, testenv.Root)
	spec, err := loadXdplb()
	if err != nil {
		tb.Fatal(err)
	}
	for name, size := range map[string]uint32{
		"backends": backendRoom, "backend_counters": backendRoom, "loads": backendRoom, "limits": backendRoom, "egresses": egressRoom,
		"cursors": serviceRoom + 1, "retired_counters": 2 * (serviceRoom + 1), "tables": 2,
		"services": 2 * serviceRoom, "service_buckets": 2 * serviceBuckets, "backend_info": 2 * backendRoom,
	} {
		spec.Maps[name].MaxEntries = size
	}
	must(spec.Variables["service_buckets_per_side"].Set(uint32(serviceBuckets)))
	must(spec.Variables["backends_per_side"].Set(uint32(backendRoom)))
	must(spec.Variables["hash_keys"].Set(hashKeys()))
	for _, f := range append([]func(*ebpf.CollectionSpec){tableOf(flowBuckets, spillBuckets), floodAt(floodRate)}, change...) {
		f(spec)
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		tb.Fatalf("%+v", err)
	}
	tb.Cleanup(collection.Close)
	d := &rig{tb: tb, spec: spec, maps: collection.Maps, program: collection.Programs["xdplb"], keys: hashKeys()}
	must(spec.Variables["flow_buckets"].Get(&d.home))
	must(spec.Variables["spill_buckets"].Get(&d.spill))
	d.config = mapMemory(tb, d.maps["config"])
	d.buckets = mapMemory(tb, d.maps["flows"])
	d.hops = mapMemory(tb, d.maps["backends"])
	part, err := ebpf.NewMap(spec.Maps["tables"].InnerMap.Copy())
	if err != nil {
		tb.Fatal(err)
	}
	defer part.Close()
	d.put("tables", uint32(0), part)
	d.slots = mapMemory(tb, part)

	for side := range uint32(2) {
		d.put("timeouts", side, newTimeouts(lb.Timeouts{}))
	}
	d.put("interfaces", uint32(ifindexHere), xdplbInterface{Mac: directorMAC, Ifindex: ifindexHere})
	for index, egress := range map[uint32]xdplbEgress{
		egressHere:          {Mac: directorMAC, Ifindex: ifindexHere, Mtu: 1500},
		egressHereVLAN:      {Mac: directorMAC, Ifindex: ifindexHere, Mtu: 1500, Vlan: vlanHere},
		egressElsewhere:     {Mac: otherMAC, Ifindex: ifindexElsewhere, Mtu: 1500},
		egressElsewhereVLAN: {Mac: otherMAC, Ifindex: ifindexElsewhere, Mtu: 1500, Vlan: vlanElsewhere},
		egressSmallMTU:      {Mac: directorMAC, Ifindex: ifindexHere, Mtu: 100},
	} {
		d.put("egresses", index, egress)
	}
	for id, hop := range map[uint32]xdplbNextHop{
		real1:              {Mac: real1MAC, Egress: egressHere},
		real2:              {Mac: real2MAC, Egress: egressHere},
		real1VLAN:          {Mac: real1MAC, Egress: egressHereVLAN},
		real1Elsewhere:     {Mac: real1MAC, Egress: egressElsewhere},
		real1ElsewhereVLAN: {Mac: real1MAC, Egress: egressElsewhereVLAN},
		real1Unknown:       {Egress: egressHere},
		real1NoEgress:      {Mac: real1MAC, Egress: egressRoom},
		real1ZeroEgress:    {Mac: real1MAC},
		real1SmallMTU:      {Mac: real1MAC, Egress: egressSmallMTU},
		realLocal:          {Egress: uint16(xdplbEgressIndexEGRESS_LOCAL)},
	} {
		d.addBackend(id, hop)
	}
	return d
}

// addBackend puts a backend in, of weight 1.
func (d *rig) addBackend(id uint32, hop xdplbNextHop) {
	d.tb.Helper()
	d.setHop(id, hop)
	d.setGeneration(id, generation(id))
	d.weigh(id, 1)
}

// weigh writes a backend's weight on both sides.
func (d *rig) weigh(backend, weight uint32) {
	d.tb.Helper()
	for side := range uint32(sides) {
		d.put("backend_info", side*backendRoom+backend, xdplbBackendColumns{Weight: weight, Family: 4})
	}
}

// reportTo makes another test the one that fails, until the function that it returns is called.
func (d *rig) reportTo(tb testing.TB) func() {
	before := d.tb
	d.tb = tb
	return func() { d.tb = before }
}

// turn makes the next flow of every service take a slot of its table.
func (d *rig) turn(slot uint64) {
	d.tb.Helper()
	for id := range uint32(serviceRoom + 1) {
		d.put("cursors", id, xdplbCursor{Next: slot})
	}
}

func (d *rig) put(name string, key, value any) {
	d.tb.Helper()
	if err := d.maps[name].Put(key, value); err != nil {
		d.tb.Fatalf("put into %s: %v", name, err)
	}
}

// mapped is the memory of a map: words that the test stores whole, as the control plane does.
type mapped []byte

func mapMemory(tb testing.TB, m *ebpf.Map) mapped {
	tb.Helper()
	memory, err := unix.Mmap(m.FD(), 0, int(m.MaxEntries()*((m.ValueSize()+7)&^7)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Munmap(memory) })
	return memory
}

func (m mapped) store(word int, value uint64) {
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&m[word*8])), value)
}

func (m mapped) load(word int) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&m[word*8])))
}

func (d *rig) setHop(backend uint32, hop xdplbNextHop) {
	word := binary.LittleEndian.Uint64(append(hop.Mac[:], byte(hop.Egress), byte(hop.Egress>>8)))
	d.hops.store(int(backend)*2, word)
}

// generation is what each backend starts with here: another one for each, so that no constant hits it.
func generation(backend uint32) uint32 { return 1000 + backend }

func (d *rig) setGeneration(backend, generation uint32) {
	const inUse = 1 << 32
	d.hops.store(int(backend)*2+1, inUse|uint64(generation))
}

// virtual is a service in the test's words: the backends of its lookup table, slot by slot.
type virtual struct {
	id        uint32
	at        netip.AddrPort
	protocol  uint8
	scheduler xdplbScheduler
	slots     []uint32 // may have the bit SLOT_UNSETTLED
	previous  []uint32 // mh: what the unsettled slots had before, as long as slots
	flood     []uint32 // what follows the slots, a power of two of them; none: floods go by the slots
	members   []uint32 // who is chosen from by load: backend, weight, backend, weight, ...
	flags     lb.SchedulerFlags
	era       uint32
	limited   bool
	persists  uint32 // seconds, or more of enum persistence
	prefix    uint8
	onePacket bool
}

func tcpService(at string, scheduler xdplbScheduler, slots ...uint32) virtual {
	return virtual{at: netip.MustParseAddrPort(at), protocol: unix.IPPROTO_TCP, scheduler: scheduler, slots: slots}
}

func udpService(at string, scheduler xdplbScheduler, slots ...uint32) virtual {
	return virtual{at: netip.MustParseAddrPort(at), protocol: unix.IPPROTO_UDP, scheduler: scheduler, slots: slots}
}

// everywhere is the service under both VIPs and both protocols.
func everywhere(port uint16, scheduler xdplbScheduler, slots ...uint32) []virtual {
	var all []virtual
	for _, vip := range []netip.Addr{vip4, vip6} {
		at := netip.AddrPortFrom(vip, port).String()
		all = append(all, tcpService(at, scheduler, slots...), udpService(at, scheduler, slots...))
	}
	return all
}

// publish replaces the configuration: the other side is built, then the epoch switched.
func (d *rig) publish(services ...virtual) {
	d.tb.Helper()
	d.prepare(services...)
	d.flip()
}

// prepare builds the other side of the configuration. Services without an id get their position, from 1, as id.
func (d *rig) prepare(services ...virtual) {
	d.tb.Helper()
	if len(services) > serviceRoom {
		d.tb.Fatalf("%d services, there is room for %d", len(services), serviceRoom)
	}
	side := uint32(d.config.load(0)+1) & 1
	tables, previous, members := d.addTables(services)
	keys, allPorts := map[uint64]uint32{}, uint64(0)
	for i, s := range services {
		value := xdplbService{
			Id: s.id, Table: tables[i], Slots: uint32(len(s.slots)), Scheduler: uint8(s.scheduler),
			Previous: previous[i], Members: members[i], MemberCount: uint32(len(s.members) / 2), Era: s.era,
			Flags: uint8(s.flags), Port: htons(s.at.Port()), Protocol: s.protocol, Family: 6, Persistence: s.persists,
			Prefix: s.prefix,
		}
		if len(s.flood) > 0 {
			value.FloodBits = uint8(bits.TrailingZeros(uint(len(s.flood))))
		}
		if s.scheduler == xdplbSchedulerSCHEDULER_MH && len(s.slots) > 0 && s.persists == 0 && !s.limited {
			value.Settled = 1
		}
		if s.at.Port() == 0 {
			allPorts++
		}
		if value.Id == 0 {
			value.Id = uint32(i) + 1
		}
		if s.limited {
			value.Limited = 1
		}
		if s.onePacket {
			value.Flags |= onePacket
		}
		copy(value.Address[:], s.at.Addr().AsSlice())
		if s.at.Addr().Is4() {
			value.Family = 4
		}
		index := side*serviceRoom + uint32(i)
		d.put("services", index, value)
		keys[serviceKey(s.at, s.protocol)] = index
	}
	if len(keys) != len(services) {
		d.tb.Fatal("two services have one key")
	}
	multiplier, buckets := spreadServices(keys)
	d.config.store(1+int(side), multiplier)
	d.config.store(configAllPorts+int(side), allPorts)
	for i, bucket := range buckets {
		d.put("service_buckets", side*serviceBuckets+uint32(i), bucket)
	}
}

// spreadServices draws a multiplier with which no bucket gets more services than it holds.
func spreadServices(keys map[uint64]uint32) (uint64, [serviceBuckets]xdplbServiceBucket) {
	random := rand.New(rand.NewPCG(3, 4))
draw:
	for {
		multiplier := random.Uint64() | 1
		var buckets [serviceBuckets]xdplbServiceBucket
		for key, index := range keys {
			bucket := &buckets[key*multiplier>>32*serviceBuckets>>32]
			way := slices.Index(bucket.Key[:], 0)
			if way < 0 {
				continue draw
			}
			bucket.Key[way], bucket.Service[way] = key, index
		}
		return multiplier, buckets
	}
}

// serviceKey is service_key4 and service_key6 of the program.
func serviceKey(at netip.AddrPort, protocol uint8) uint64 {
	port := uint64(htons(at.Port()))
	if at.Addr().Is4() {
		b := at.Addr().As4()
		const ip4 = 1 << 62
		return ip4 | uint64(protocol)<<48 | port<<32 | uint64(binary.NativeEndian.Uint32(b[:]))
	}
	b := at.Addr().As16()
	const ip6 = 1 << 63
	sum := binary.NativeEndian.Uint64(b[:])*0xbf58476d1ce4e5b9 + binary.NativeEndian.Uint64(b[8:])*0x94d049bb133111eb
	return ip6 | (sum+(uint64(protocol)<<16|port)*0x9e3779b97f4a7c15)>>1
}

// mix64 is the program's mix.
func mix64(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// flip makes the side live that prepare has built.
func (d *rig) flip() {
	d.config.store(0, d.config.load(0)+1)
}

// addTables writes the services' lookup tables and returns the places of the live ones, of the previous ones, and of those
// of the members, in the services' order; 0 is none. Those before must be gone when the part begins anew.
func (d *rig) addTables(services []virtual) (live, previous, members []uint32) {
	d.tb.Helper()
	add := func(slots []uint32) uint32 {
		if len(slots) == 0 {
			return 0
		}
		at, size := max(d.taken, slotsEach), wholeValues(uint32(len(slots)))
		if at+size > partSlots {
			at = slotsEach
		}
		d.taken = at + size
		clear(d.slots[4*at : 4*d.taken])
		for i, backend := range slots {
			binary.NativeEndian.PutUint32(d.slots[4*(at+uint32(i)):], backend)
		}
		return at
	}
	for _, s := range services {
		live, previous = append(live, add(slices.Concat(s.slots, s.flood))), append(previous, add(s.previous))
		members = append(members, add(s.members))
	}
	return live, previous, members
}

func htons(n uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(n >> 8), byte(n)})
}

// xdpContext is struct xdp_md of linux/bpf.h.
type xdpContext struct {
	Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32
}

// run sends a frame in and returns XDP's verdict and the frame that came out. Any number of threads may call it.
func (d *rig) run(in []byte) (uint32, []byte) {
	return d.runProgram(d.program, in, nil)
}

func (d *rig) runProgram(program *ebpf.Program, in []byte, context *xdpContext) (uint32, []byte) {
	options := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256)}
	if context != nil {
		options.Context = *context
	}
	action, err := program.Run(options)
	if err != nil {
		d.tb.Errorf("run a frame of %d bytes: %v", len(in), err)
	}
	return action, options.DataOut
}

// reasons are the packets counted so far under each reason, of all CPUs.
func (d *rig) reasons() (sums [reasonCount]uint64) {
	d.tb.Helper()
	for i := range sums {
		var each []uint64
		if err := d.maps["reasons"].Lookup(uint32(i), &each); err != nil {
			d.tb.Fatal(err)
		}
		for _, n := range each {
			sums[i] += n
		}
	}
	return sums
}

// explain is run, and the reason under which the packet was counted; more or less than one is an error.
func (d *rig) explain(in []byte) (xdplbReason, uint32, []byte) {
	d.tb.Helper()
	before := d.reasons()
	action, out := d.run(in)
	return d.countedSince(before), action, out
}

func (d *rig) countedSince(before [reasonCount]uint64) xdplbReason {
	d.tb.Helper()
	reason, counted := xdplbReason(0), uint64(0)
	for i, n := range d.reasons() {
		if n != before[i] {
			reason = xdplbReason(i)
			counted += n - before[i]
		}
	}
	if counted != 1 {
		d.tb.Errorf("one packet counted %d times", counted)
	}
	return reason
}

// counters are those of a backend, of all CPUs.
func (d *rig) counters(backend uint32) (sum xdplbCounters) {
	d.tb.Helper()
	var each []xdplbCounters
	if err := d.maps["backend_counters"].Lookup(backend, &each); err != nil {
		d.tb.Fatal(err)
	}
	for _, c := range each {
		sum.Connections += c.Connections
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
	}
	return sum
}

// forget empties the flow table.
func (d *rig) forget() {
	d.tb.Helper()
	clear(d.buckets)
	d.forgetFragments()
}

// packetCase is one frame in, and what becomes of it.
type packetCase struct {
	name   string
	before [][]byte // frames that go ahead, in a world without flows
	in     []byte
	want   []byte // nil: the frame as it came
	reason xdplbReason
}

// check runs the cases one by one. Their number is also a fact: it guards against a table that lost its cases.
func (d *rig) check(t *testing.T, cases []packetCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Helper()
			defer d.reportTo(t)()
			d.forget()
			for _, in := range c.before {
				d.run(in)
			}
			reason, action, out := d.explain(c.in)
			if reason != c.reason {
				t.Errorf("counted as %s, want %s", nameOf(reason), nameOf(c.reason))
			}
			if want := verdictOf(c.reason); action != want {
				t.Errorf("verdict %d, want %d", action, want)
			}
			want := c.want
			if want == nil {
				want = c.in
			}
			if diff := cmp.Diff(want, out); diff != "" {
				t.Errorf("frame out (-want +got):\n%s", diff)
			}
		})
	}
}

// world is a director with the services that the tables of single packets use.
func newWorld(tb testing.TB) *rig {
	tb.Helper()
	d := newRig(tb)
	d.publish(worldServices()...)
	return d
}

// Ports of the world's services.
const (
	portPlain = 80 + iota // all flows to real1, on this interface
	portVLAN
	portElsewhere
	portElsewhereVLAN
	portUnknown
	portNoEgress
	portZeroEgress
	portSmallMTU
	portLocal
	portEmpty
	portHashed // to real1 too
	portNoSuchBackend
	portUnserved // no service
)

func worldServices() []virtual {
	var all []virtual
	for port, slots := range map[uint16][]uint32{
		portPlain:         {real1},
		portVLAN:          {real1VLAN},
		portElsewhere:     {real1Elsewhere},
		portElsewhereVLAN: {real1ElsewhereVLAN},
		portUnknown:       {real1Unknown},
		portNoEgress:      {real1NoEgress},
		portZeroEgress:    {real1ZeroEgress},
		portSmallMTU:      {real1SmallMTU},
		portLocal:         {realLocal},
		portEmpty:         nil,
		portNoSuchBackend: {noSuchBackend},
	} {
		all = append(all, everywhere(port, xdplbSchedulerSCHEDULER_RR, slots...)...)
	}
	return append(all, everywhere(portHashed, xdplbSchedulerSCHEDULER_MH, real1)...)
}

// onEachCPU runs f at the same time on threads that are bound to one CPU each: up to four, and two at least.
func onEachCPU(tb testing.TB, f func(worker, workers int)) {
	tb.Helper()
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		tb.Fatal(err)
	}
	var cpus []int
	for cpu := 0; len(cpus) < min(allowed.Count(), 4); cpu++ {
		if allowed.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	var group sync.WaitGroup
	workers := max(len(cpus), 2)
	for worker := range workers {
		group.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			var one unix.CPUSet
			one.Set(cpus[worker%len(cpus)])
			if err := unix.SchedSetaffinity(0, &one); err != nil {
				tb.Error(err)
				return
			}
			f(worker, workers)
		})
	}
	group.Wait()
}

// meetingPoint lets threads go on at the same moment, again and again.
type meetingPoint struct {
	arrivals atomic.Int64
}

// wait returns when all have come to the round's meeting; rounds count from 0.
func (m *meetingPoint) wait(round, workers int) {
	all := int64(round+1) * int64(workers)
	m.arrivals.Add(1)
	for spins := 0; m.arrivals.Load() < all; spins++ {
		if spins > 1000 { // the other thread waits for a CPU, perhaps for this one
			unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
}

// allFrames are the frames of all tables.
func allFrames() [][]byte {
	var all [][]byte
	for _, cases := range [][]packetCase{
		ethernetCases(), ip4Cases(), ip6Cases(), icmpCases(), fragmentCases(), forwardCases(),
	} {
		for _, c := range cases {
			all = append(append(all, c.before...), c.in)
		}
	}
	return all
}
