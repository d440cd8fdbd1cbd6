// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"xdplb/internal/lb"
	"xdplb/internal/testenv"
)

// pinDir is where tests pin: each in a BPF filesystem of its own.
const pinDir = "/sys/fs/bpf/test"

// small is a capacity that is quick to create.
var small = Capacity{Flows: 1024, Services: 64, Backends: 512}

// director gives the test a namespace with the two ends of a veth, eth0 and far0, and attaches to the first.
func director(t testing.TB, capacity Capacity) Attachment {
	t.Helper()
	testenv.Namespace(t)
	addVeth(t, "eth0", "far0")
	attachment, err := Attach(pinDir, "eth0", Auto, capacity)
	if err != nil {
		t.Fatal(err)
	}
	return attachment
}

func addVeth(t testing.TB, name, peer string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer}); err != nil {
		t.Fatalf("add veth %s: %v", name, err)
	}
}

func linkOf(t testing.TB, name string) netlink.Link {
	t.Helper()
	device, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return device
}

func snapshot(t testing.TB) lb.State {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	state, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func mustChange(t testing.TB, edit func(*lb.State) error) lb.Plan {
	t.Helper()
	plan, err := Change(pinDir, edit)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// to makes an edit that replaces the whole state.
func to(state lb.State) func(*lb.State) error {
	return func(s *lb.State) error {
		*s = state.Clone()
		return nil
	}
}

// compareStates compares states; addresses of netip have unexported fields but compare with ==.
func compareStates(want, got lb.State) string {
	return cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Transformer("services", func(s lb.State) []lb.Service {
			list := make([]lb.Service, len(s.Services))
			for i, service := range s.Services {
				list[i] = service
				if len(service.Backends) == 0 {
					list[i].Backends = nil
				}
			}
			return list
		}))
}

// randomState makes a valid state of up to some services, all of whose next hops lead out of one interface.
func randomState(t testing.TB, random *rand.Rand, services, backends, ifindex int) lb.State {
	t.Helper()
	seen := make(map[lb.ServiceKey]bool)
	var list []lb.Service
	for range random.IntN(services + 1) {
		is6 := random.IntN(2) == 0
		key := lb.ServiceKey{
			Addr:     netip.AddrPortFrom(address(is6, 1, random.IntN(8)), uint16(80+random.IntN(4))),
			Protocol: []lb.Protocol{lb.TCP, lb.UDP, lb.SCTP}[random.IntN(3)],
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		service := lb.Service{
			ServiceKey: key, Scheduler: lb.Schedulers()[random.IntN(14)], Flags: lb.SchedulerFlags(random.IntN(8)),
			OnePacket: key.Protocol == lb.UDP && random.IntN(4) == 0, OnRemoval: lb.Removal(random.IntN(2)),
		}
		if random.IntN(3) == 0 && !service.OnePacket {
			service.Persistence = lb.Persistence{
				Timeout: time.Duration(1+random.IntN(9999)) * time.Second, Prefix: uint8(1 + random.IntN(key.Addr.Addr().BitLen())),
				ExpireQuiescent: random.IntN(2) == 0,
			}
			if random.IntN(2) == 0 && !seen[withPort0(key)] {
				service.ServiceKey = withPort0(key)
				seen[service.ServiceKey] = true
			}
		}
		for n := range random.IntN(backends + 1) {
			if random.IntN(3) > 0 {
				service.Backends = append(service.Backends, randomBackend(random, address(is6, 2, n), ifindex))
			}
		}
		list = append(list, service)
	}
	state, err := lb.NewState(list)
	if err != nil {
		t.Fatal(err)
	}
	state.Timeouts = someTimeouts()[random.IntN(3)]
	return state
}

func withPort0(key lb.ServiceKey) lb.ServiceKey {
	key.Addr = netip.AddrPortFrom(key.Addr.Addr(), 0)
	return key
}

func randomBackend(random *rand.Rand, addr netip.Addr, ifindex int) lb.Backend {
	backend := lb.Backend{Addr: addr, Weight: uint32(random.IntN(4))}
	if random.IntN(8) == 0 {
		backend.Upper = 1_000_000 + uint32(random.IntN(3)) // which no test reaches
		backend.Lower = uint32(random.IntN(2))
	}
	switch random.IntN(8) {
	case 0: // nothing known
	case 1:
		backend.Hop.Ifindex = ifindex
	default:
		backend.Hop = lb.NextHop{
			MAC:     [6]byte{2, 0, 0, 0, 0, byte(1 + random.IntN(250))},
			Ifindex: ifindex,
			VLAN:    uint16(random.IntN(3)),
			Static:  random.IntN(2) == 0,
		}
	}
	return backend
}

func address(is6 bool, network, n int) netip.Addr {
	if is6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::%x", network, n+1))
	}
	return netip.AddrFrom4([4]byte{10, byte(network), byte(n / 250), byte(n%250 + 1)})
}

// TestSnapshotGivesBackWhatChangeWrote also holds the maps to what they promise after each change.
func TestSnapshotGivesBackWhatChangeWrote(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	for seed := range uint64(12) {
		random := rand.New(rand.NewPCG(seed, 1))
		want := randomState(t, random, 24, 12, attachment.Ifindex)
		plan := mustChange(t, to(want))
		if diff := compareStates(want, snapshot(t)); diff != "" {
			t.Fatalf("seed %d: snapshot (-want +got):\n%s", seed, diff)
		}
		if diff := compareStates(want, plan.To); diff != "" {
			t.Fatalf("seed %d: plan.To (-want +got):\n%s", seed, diff)
		}
		checkTidy(t)
		checkTables(t)
	}
}

// TestChangeService makes random changes to one service at a time, which may come and go, beside a model.
func TestChangeService(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	random := rand.New(rand.NewPCG(1, 2))
	want := randomState(t, random, 24, 12, attachment.Ifindex)
	mustChange(t, to(want))
	for n := range 12 {
		others := randomState(t, random, 24, 12, attachment.Ifindex)
		if len(others.Services) == 0 {
			continue
		}
		wanted := others.Services[0]
		if _, err := ChangeService(pinDir, wanted.ServiceKey, replaceService(t, &want, wanted)); err != nil {
			t.Fatalf("change %d: %v", n, err)
		}
		if diff := compareStates(want, snapshot(t)); diff != "" {
			t.Fatalf("change %d: snapshot (-want +got):\n%s", n, diff)
		}
		checkTidy(t)
		checkTables(t)
	}
}

// replaceService makes an edit that takes a service out if it is there, and else puts it in, and does so to a model, of
// which the edit must see that service alone.
func replaceService(t testing.TB, model *lb.State, wanted lb.Service) func(*lb.State) error {
	there, found := model.Service(wanted.ServiceKey)
	var seen lb.State
	if found {
		seen.Services = []lb.Service{*there}
	}
	edit := func(state *lb.State) error {
		if found && len(there.Backends) > 6 {
			return state.DeleteService(wanted.ServiceKey)
		}
		if found {
			return state.SetService(wanted.ServiceKey, func(s *lb.Service) error { *s = wanted; return nil })
		}
		return state.AddService(wanted)
	}
	return func(state *lb.State) error {
		if diff := compareStates(seen, *state); diff != "" {
			t.Errorf("the edit sees (-want +got):\n%s", diff)
		}
		return errors.Join(edit(state), edit(model))
	}
}

func TestChangeServiceOfAnother(t *testing.T) {
	t.Parallel()
	director(t, Capacity{Flows: 1024, Services: 2, Backends: 2})
	key := func(n int) lb.ServiceKey {
		return lb.ServiceKey{Addr: addrPort(address(false, 1, n), 80), Protocol: lb.TCP}
	}
	add := func(n int, backends ...lb.Backend) func(*lb.State) error {
		return func(state *lb.State) error {
			return state.AddService(lb.Service{ServiceKey: key(n), Scheduler: lb.RR, Backends: backends})
		}
	}
	_, err := ChangeService(pinDir, key(0), add(1))
	wantError(t, err, key(0).String(), key(1).String(), "not part")

	// What is not handed out counts too.
	one := lb.Backend{Addr: address(false, 2, 0), Weight: 1}
	mustChange(t, add(0, one))
	mustChange(t, add(1, one))
	for _, test := range []struct {
		what    string
		service int
		edit    func(*lb.State) error
	}{
		{"services", 2, add(2)},
		{"backends", 1, add(1, one, lb.Backend{Addr: address(false, 2, 1)})},
	} {
		var full *CapacityError
		_, err := ChangeService(pinDir, key(test.service), func(state *lb.State) error {
			state.Services = nil
			return test.edit(state)
		})
		if !errors.As(err, &full) || full.What != test.what || full.Want != 3 {
			t.Errorf("error %v, want a CapacityError of 3 %s", err, test.what)
		}
	}
}

// openLive opens the pins and reads the live configuration. The caller closes them, since they hold the lock.
func openLive(t testing.TB) (*Datapath, *configuration) {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	live, err := d.readLive(nil)
	if err != nil {
		d.Close()
		t.Fatal(err)
	}
	return d, live
}

// checkTidy fails when the maps hold more than the live configuration.
func checkTidy(t testing.TB) {
	t.Helper()
	d, live := openLive(t)
	defer d.Close()
	if left := d.findLeftover(live.epoch); !left.empty() {
		t.Errorf("left over: backends %v, parts %v, the other side %v, egresses %v, limits of %v",
			left.backends, left.parts, left.side, left.egresses, left.limits)
	}
	if !d.tidy(live.epoch) {
		t.Error("config.tidy does not say so")
	}
	for _, s := range live.list {
		for _, b := range s.backends {
			if inUse := d.backends.get(b.id).InUse; inUse != 1 {
				t.Errorf("live backend id %d: in_use is %d", b.id, inUse)
			}
		}
	}
	checkDirectory(t, d, live)
}

// checkDirectory looks for every service as packets do.
func checkDirectory(t testing.TB, d *Datapath, live *configuration) {
	t.Helper()
	at := side(live.epoch)
	buckets, found := d.serviceBuckets.side(at), len(live.ports)
	for _, bucket := range buckets {
		for _, key := range bucket.Key {
			if key != 0 {
				found++
			}
		}
	}
	if found != len(live.services) {
		t.Errorf("%d services stand in the buckets, want %d", found, len(live.services))
	}
	multiplier, allPorts := d.config.load(configMultiplier+int(at)), uint64(0)
	for key := range live.services {
		if key.Addr.Port() == 0 {
			allPorts++
		}
	}
	if got := d.config.load(configAllPorts+int(at)) & (1<<allPortsRangesShift - 1); got != allPorts {
		t.Errorf("%d services of all ports are noted, want %d", got, allPorts)
	}
	for key, s := range live.services {
		if s.ports != "" {
			continue // readPorts has found it by its ranges
		}
		bucket := buckets[bucketOf(s.word(), multiplier, uint32(len(buckets)))]
		way := slices.Index(bucket.Key[:], s.word())
		if way < 0 {
			t.Errorf("service %s is not in its bucket", key)
			continue
		}
		// In the other side stands the same, until the next change.
		if got, want := bucket.Service[way], at*uint32(len(live.values))+s.place; got != want {
			t.Errorf("the bucket of %s leads to place %d, want %d", key, got, want)
		}
		if got := d.services.values[bucket.Service[way]]; got != s.xdplbService {
			t.Errorf("the bucket of %s leads to %+v", key, got)
		}
	}
}

// checkTables fails when a live table has not exactly the backends that take new flows, or of fo and dh one of them.
func checkTables(t testing.TB) {
	t.Helper()
	d, live := openLive(t)
	defer d.Close()
	for key, s := range live.services {
		want, got := make(map[uint32]bool), make(map[uint32]bool)
		scheduler := lb.Scheduler(s.Scheduler)
		for _, c := range candidates(s) {
			if c.weight > 0 {
				want[c.id] = true
			}
		}
		if limited := slices.ContainsFunc(s.backends, func(b *backend) bool { return b.Upper != 0 }); limited != (s.Limited != 0) {
			t.Errorf("%s: limited: %v, want %v", key, s.Limited != 0, limited)
		}
		if s.isCounted() && (s.Slots > 0 || looksAtLoads(scheduler)) {
			checkMembers(t, d, s, want)
		}
		if scheduler == lb.FO || scheduler == lb.DH {
			checkSlot(t, d, s, want)
			continue
		}
		if s.Slots > 0 && len(want) == 0 && s.Scheduler == uint8(lb.MH) {
			want[0] = true // every slot has flows yet, and nobody takes new ones
		} else if (s.Slots > 0) != (len(want) > 0) {
			t.Errorf("%s: %d slots for %d backends", key, s.Slots, len(want))
		}
		if s.Slots == 0 {
			continue
		}
		slots, err := d.slots.slots(s.Table, s.tableSlots())
		if err != nil {
			t.Fatalf("%s: table %d: %v", key, s.Table, err)
		}
		if forFloods := len(slots) > int(s.Slots); forFloods != takesTurns(scheduler) {
			t.Errorf("%s: has a table for floods alone: %v", key, forFloods)
		}
		for _, part := range [][]uint32{slots[:s.Slots], slots[s.Slots:]} {
			clear(got)
			for _, slot := range part {
				got[slot&^unsettled] = true
			}
			if diff := cmp.Diff(want, got); len(part) > 0 && diff != "" {
				t.Errorf("%s: backends in the table (-want +got):\n%s", key, diff)
			}
		}
	}
}

// checkSlot wants one slot, of one of the backends. dh may have none.
func checkSlot(t testing.TB, d *Datapath, s *service, backends map[uint32]bool) {
	t.Helper()
	if s.Slots == 0 && (len(backends) == 0 || s.Scheduler == uint8(lb.DH)) {
		return
	}
	slots, err := d.slots.slots(s.Table, s.Slots)
	if err != nil {
		t.Fatal(err)
	}
	if len(slots) != 1 || !backends[slots[0]] {
		t.Errorf("%s: slots %v for backends %v", s.key(), slots, backends)
	}
}

// checkMembers wants the backends, with their weights, in the table of those that are chosen from by load.
func checkMembers(t testing.TB, d *Datapath, s *service, backends map[uint32]bool) {
	t.Helper()
	if s.MemberCount == 0 && s.Members == noTable && len(backends) == 0 {
		return
	}
	pairs, err := d.slots.slots(s.Members, memberSlots(s.MemberCount))
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range pairs[2*s.MemberCount:] {
		if slot != 0 {
			t.Errorf("%s: behind the last member stands %d", s.key(), slot)
		}
	}
	pairs = pairs[:2*s.MemberCount]
	want, got := make(map[uint32]uint32), make(map[uint32]uint32)
	for _, b := range s.backends {
		if rr := s.Scheduler == uint8(lb.LC) || s.Scheduler == uint8(lb.RR); rr && backends[b.id] {
			want[b.id] = 1
		} else if backends[b.id] {
			want[b.id] = b.Weight
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		got[pairs[i]] = pairs[i+1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: members and weights (-want +got):\n%s", s.key(), diff)
	}
}

func TestKeysRoundTrip(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"1.2.3.4:80", "255.0.0.1:65535", "[2001:db8::1]:443", "[::1:2:3]:1"} {
		key := lb.ServiceKey{Addr: netip.MustParseAddrPort(word), Protocol: lb.UDP}
		var value xdplbService
		value.setKey(key)
		got := value.key()
		if got != key {
			t.Errorf("%s comes back as %s", key, got)
		}
		want := lb.Backend{Addr: key.Addr.Addr(), Weight: 7, Hop: lb.NextHop{Static: true}}
		b := &backend{Backend: want}
		columns := b.columns(1)
		if got := fromColumns(&columns); got != want {
			t.Errorf("%v comes back as %v", want, got)
		}
	}
}

func mac(t testing.TB, name string) [6]byte {
	t.Helper()
	return [6]byte(net.HardwareAddr(linkOf(t, name).Attrs().HardwareAddr))
}
