// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lb"
)

// TestInherit follows slots through changes. In each, the table's slots say who owns them, in small numbers.
func TestInherit(t *testing.T) {
	t.Parallel()
	type change struct {
		name           string
		owners         []uint32
		gone           []uint32 // backends that are removed
		settled        bool     // so much later that no flow without an entry is left
		slots, earlier []uint32 // want
	}
	const u = unsettled
	for _, test := range []struct {
		name    string
		first   []uint32 // nil: another scheduler's flows
		changes []change
	}{
		{"a backend comes, and another", []uint32{1, 1, 1, 1}, []change{
			{"2 comes", []uint32{1, 2, 1, 2}, nil, false, []uint32{1, u | 2, 1, u | 2}, []uint32{0, 1, 0, 1}},
			{"3 comes", []uint32{1, 3, 3, 2}, nil, false, []uint32{1, u | 3, u | 3, u | 2}, []uint32{0, 1, 1, 1}},
			{"3 goes", []uint32{1, 2, 1, 2}, []uint32{3}, false, []uint32{1, u | 2, u | 1, u | 2}, []uint32{0, 1, 1, 1}},
			{"1 goes", []uint32{2, 2, 2, 2}, []uint32{1}, false, []uint32{2, u | 2, u | 2, u | 2}, []uint32{0, 0, 0, 0}},
		}},
		{"long after", []uint32{1, 1, 1}, []change{
			{"2 comes", []uint32{1, 2, 2}, nil, false, []uint32{1, u | 2, u | 2}, []uint32{0, 1, 1}},
			{"3 comes", []uint32{3, 3, 2}, nil, true, []uint32{u | 3, u | 3, u | 2}, []uint32{1, 0, 0}},
		}},
		{"quiesced and back", []uint32{1, 2}, []change{
			{"2 takes nothing new", []uint32{1, 1}, nil, false, []uint32{1, u | 1}, []uint32{0, 2}},
			{"nor does 1", []uint32{0, 0}, nil, false, []uint32{u, u}, []uint32{1, 2}},
			{"both again", []uint32{1, 2}, nil, false, []uint32{u | 1, u | 2}, []uint32{1, 2}},
		}},
		{"the only one is replaced", []uint32{1, 1}, []change{
			{"2 for 1", []uint32{2, 2}, []uint32{1}, false, []uint32{2, 2}, []uint32{0, 0}},
		}},
		{"another scheduler before", nil, []change{
			{"mh", []uint32{1, 2}, nil, false, []uint32{u | 1, u | 2}, []uint32{0, 0}},
			{"3 comes", []uint32{3, 2}, nil, false, []uint32{u | 3, u | 2}, []uint32{0, 0}},
		}},
	} {
		h := &heritage{slots: test.first}
		for _, change := range test.changes {
			h.kept = map[uint32]bool{1: true, 2: true, 3: true}
			for _, id := range change.gone {
				delete(h.kept, id)
			}
			if change.settled {
				h.previous = nil
			}
			var slots, earlier []uint32
			for i, owner := range change.owners {
				slot, previous := h.inherit(i, owner)
				slots, earlier = append(slots, slot), append(earlier, previous)
			}
			if diff := cmp.Diff(change.slots, slots); diff != "" {
				t.Errorf("%s, %s: slots (-want +got):\n%s", test.name, change.name, diff)
			}
			if diff := cmp.Diff(change.earlier, earlier); diff != "" {
				t.Errorf("%s, %s: previous (-want +got):\n%s", test.name, change.name, diff)
			}
			h.slots, h.previous = slots, earlier
		}
	}
}

// hashed is what the maps say of an mh service.
type hashed struct {
	service         xdplbService
	slots, previous []uint32
	ids             map[netip.Addr]uint32
}

func readHashed(t testing.TB, key lb.ServiceKey) (h hashed) {
	t.Helper()
	d, live := openLive(t)
	defer d.Close()
	s := live.services[key]
	h = hashed{service: s.xdplbService, ids: make(map[netip.Addr]uint32)}
	for _, b := range s.backends {
		h.ids[b.Addr] = b.id
	}
	read := func(id uint32) (copied []uint32) {
		if id == noTable {
			return nil
		}
		slots, err := d.slots.slots(id, s.Slots)
		if err != nil {
			t.Fatal(err)
		}
		return append(copied, slots...)
	}
	h.slots, h.previous = read(s.Table), read(s.Previous)
	return h
}

// unsettledSlots counts them, and checks that previous backends stand in them alone, and are these.
func (h hashed) unsettledSlots(t testing.TB, previous ...uint32) (count int) {
	t.Helper()
	allowed := map[uint32]bool{0: true}
	for _, id := range previous {
		allowed[id] = true
	}
	for i, slot := range h.slots {
		if slot&unsettled != 0 {
			count++
		}
		if h.previous == nil {
			continue
		}
		if before := h.previous[i]; before != 0 && slot&unsettled == 0 || !allowed[before] {
			t.Fatalf("slot %d is %#x, and was of backend id %d", i, slot, before)
		}
	}
	return count
}

// pastSettling makes the time of settling pass for all services.
func pastSettling(t testing.TB) {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	now, err := ticks()
	if err != nil {
		t.Fatal(err)
	}
	for i := range d.services.values {
		if s := &d.services.values[i]; s.Settles != 0 {
			s.Settles = now - 1
		}
	}
}

// hashedService adds an mh service with two backends of three.
func hashedService(t testing.TB, ifindex int) (lb.ServiceKey, []lb.Backend) {
	t.Helper()
	key := lb.ServiceKey{Addr: addrPort(address(false, 1, 0), 80), Protocol: lb.TCP}
	var backends []lb.Backend
	for n := range 3 {
		hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 0, byte(n + 1)}, Ifindex: ifindex}
		backends = append(backends, lb.Backend{Addr: address(false, 2, n), Weight: 1, Hop: hop})
	}
	mustChange(t, func(s *lb.State) error {
		return s.AddService(lb.Service{ServiceKey: key, Scheduler: lb.MH, Backends: backends[:2]})
	})
	return key, backends
}

func TestSuccession(t *testing.T) {
	t.Parallel()
	key, backends := hashedService(t, director(t, small).Ifindex)
	h := readHashed(t, key)
	if n := h.unsettledSlots(t); n != 0 || h.previous != nil || h.service.Settles != 0 {
		t.Fatalf("new: %d unsettled slots of %+v", n, h.service)
	}
	mustChange(t, func(s *lb.State) error { return s.AddBackend(key, backends[2]) })
	h = readHashed(t, key)
	share := len(h.slots) / 3
	first, second := h.ids[backends[0].Addr], h.ids[backends[1].Addr]
	added := h.unsettledSlots(t, first, second)
	if added < share || added > share*5/4 || h.previous == nil || h.service.Settles == 0 {
		t.Fatalf("a third backend: %d unsettled slots of %+v, want about %d", added, h.service, share)
	}

	// Removed, a backend leaves no slot unsettled that was not before, and its id stands nowhere.
	mustChange(t, func(s *lb.State) error { return s.DeleteBackend(key, backends[0].Addr) })
	h = readHashed(t, key)
	if n := h.unsettledSlots(t, second); n < added || n > added+share/100 {
		t.Errorf("the first removed: %d unsettled slots, want hardly more than %d", n, added)
	}
	// Also where the table of new flows stays as it is.
	mustChange(t, func(s *lb.State) error {
		return s.SetBackend(key, backends[1].Addr, func(b *lb.Backend) error { b.Weight = 0; return nil })
	})
	mustChange(t, func(s *lb.State) error { return s.DeleteBackend(key, backends[1].Addr) })
	h = readHashed(t, key)
	h.unsettledSlots(t)
	checkTidy(t)

	// Later, the next change of whatever drops the table of previous backends.
	mustChange(t, func(s *lb.State) error { return s.AddBackend(key, backends[0]) })
	if h = readHashed(t, key); h.previous == nil {
		t.Fatal("no table of previous backends")
	}
	pastSettling(t)
	mustChange(t, func(s *lb.State) error {
		return s.AddService(lb.Service{ServiceKey: lb.ServiceKey{Addr: key.Addr, Protocol: lb.UDP}, Scheduler: lb.RR})
	})
	if h = readHashed(t, key); h.previous != nil || h.service.Settles == 0 {
		t.Errorf("long after: %+v, want no table of previous backends", h.service)
	}
	checkTidy(t)
}

// TestQuiesceAll leaves an mh service without a backend for new flows, but with flows.
func TestQuiesceAll(t *testing.T) {
	t.Parallel()
	key, backends := hashedService(t, director(t, small).Ifindex)
	set := func(weight uint32) {
		for _, b := range backends[:2] {
			mustChange(t, func(s *lb.State) error {
				return s.SetBackend(key, b.Addr, func(b *lb.Backend) error { b.Weight = weight; return nil })
			})
		}
	}
	before := readHashed(t, key)
	set(0)
	h := readHashed(t, key)
	for i, slot := range h.slots {
		if slot != unsettled || h.previous[i] != before.slots[i] {
			t.Fatalf("slot %d is %#x and was of %d, want nobody and %d", i, slot, h.previous[i], before.slots[i])
		}
	}
	set(1)
	h = readHashed(t, key)
	for i, slot := range h.slots {
		if slot != unsettled|before.slots[i] || h.previous[i] != before.slots[i] {
			t.Fatalf("slot %d is %#x and was of %d, want %d for both", i, slot, h.previous[i], before.slots[i])
		}
	}
	mustChange(t, func(s *lb.State) error { return s.DeleteService(key) })
	checkTidy(t)
}

// putConnection writes a flow and its origin.
func (d *Datapath) putConnection(t testing.TB, bucket, way int, id uint32, client netip.AddrPort, to *service, port uint16) {
	t.Helper()
	d.putFlow(t, bucket, way, id, d.backends.get(id).Generation, 10, xdplbFlowStateFLOW_ESTABLISHED)
	d.putOrigin(t, bucket, way, client, port)
	hash, value := to.hashFlow(d.meta.HashKeys, client, port), d.bucket(t, bucket)
	value.Tag[way] = hash.tag()
	value.Entry[way].Status = value.Entry[way].Status&^statusCheck | hash.check()
	if err := d.maps.Flows.Put(uint32(bucket), value); err != nil {
		t.Fatal(err)
	}
}

func (d *Datapath) putOrigin(t testing.TB, bucket, way int, client netip.AddrPort, port uint16) {
	t.Helper()
	var origins xdplbOrigins
	if err := d.maps.FlowOrigins.Lookup(uint32(bucket), &origins); err != nil {
		t.Fatal(err)
	}
	origins.Origin[way].ClientPort, origins.Origin[way].VipPort = toPort(client.Port()), toPort(port)
	if client.Addr().Is4() {
		address := client.Addr().As4()
		origins.Origin[way].Client = binary.NativeEndian.Uint32(address[:])
	} else if err := d.maps.FlowClients6.Put(uint32(bucket)*ways+uint32(way), xdplbClient6{Address: client.Addr().As16()}); err != nil {
		t.Fatal(err)
	}
	if err := d.maps.FlowOrigins.Put(uint32(bucket), origins); err != nil {
		t.Fatal(err)
	}
}

// TestSweepSettlesSlots lets one flow stray: its slot alone stays unsettled, for as long as the flow lives.
func TestSweepSettlesSlots(t *testing.T) {
	t.Parallel()
	key, backends := hashedService(t, director(t, small).Ifindex)
	old := readHashed(t, key)
	mustChange(t, func(s *lb.State) error { return s.AddBackend(key, backends[2]) })
	h := readHashed(t, key)
	var client netip.Addr
	var slot uint32
	for n := 0; ; n++ {
		client = address(false, 7, n)
		slot = uint32(uint64((&xdplbService{}).hashClient(netip.AddrPortFrom(client, 0))) * uint64(len(h.slots)) >> 32)
		if h.slots[slot]&unsettled != 0 {
			break
		}
	}
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	live, err := d.readLive(nil)
	if err != nil {
		t.Fatal(err)
	}
	d.putConnection(t, 3, 1, old.slots[slot], netip.AddrPortFrom(client, 1000), live.services[key], 80)

	count := func(when string, want int, settles bool) {
		t.Helper()
		if _, err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		h := readHashed(t, key)
		got := 0
		for _, slot := range h.slots {
			if slot&unsettled != 0 {
				got++
			}
		}
		if got != want || (h.service.Settles != 0) != settles {
			t.Errorf("%s: %d unsettled slots, settles at %d; want %d, %v", when, got, h.service.Settles, want, settles)
		}
		if want == 1 && h.slots[slot]&unsettled == 0 {
			t.Errorf("%s: the slot is settled from which a flow strays", when)
		}
	}
	all := h.unsettledSlots(t, h.ids[backends[0].Addr], h.ids[backends[1].Addr])
	count("soon", all, true)
	pastSettling(t)
	d.putOrigin(t, 3, 1, netip.AddrPortFrom(address(false, 8, 1), 1000), 80)
	count("while the flow's client is not written down", all, true)
	d.putOrigin(t, 3, 1, netip.AddrPortFrom(client, 1000), 80)
	count("later", 1, true)
	d.putFlow(t, 3, 1, old.slots[slot], 0, uint32(xdplbTimeoutTIMEOUT_ESTABLISHED)+5, xdplbFlowStateFLOW_ESTABLISHED)
	count("when the flow has expired", 0, false)
}
