// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"xdplb/internal/datapath/traffic"
	"xdplb/internal/lb"
)

// TestLoadChanges changes an rr and an mh service a thousand times while packets of a million flows and more arrive on two
// CPUs. Every packet must reach the backend that its flow's SYN reached, unless that was removed.
func TestLoadChanges(t *testing.T) { testLoadChanges(t, 20, 4, 250, lb.Reschedule) }

// TestLoadChangesKept does the same with fewer flows of services that keep the connections of removed backends: none moves
// at all.
func TestLoadChangesKept(t *testing.T) { testLoadChanges(t, 4, 2, 100, lb.Keep) }

// testLoadChanges makes so many changes in each leg, of both services.
func testLoadChanges(t *testing.T, blocks, legs, changes uint32, removal lb.Removal) {
	// the table is so large that connections which open anew, their backend being removed, are no flood
	f := newStreams(t, Capacity{Flows: 8 << 20, Services: 2, Backends: 512}, blocks*blockFlows, 2, 2048)
	c := newChurn(t, f, removal)
	known := blocks - legs
	for block := range known {
		if block%4 == 0 { // no more in one tick than the flood rate
			time.Sleep(1 << tickShift)
		}
		f.onLanes(t, func(l *lane) error { return l.open(block) })
	}
	for leg := range legs {
		known++
		stop := f.stroll(t, known)
		if leg > 0 {
			sweep(t) // which settles slots
			c.countSettled(t)
		}
		for i := range changes {
			if i%25 == 12 {
				sweep(t)
			}
			c.change(t)
		}
		stop()
		c.bury()
		f.quarterOfAnHour(t, known)
	}
	w, lost, status := f.allArrive(t), f.losses(t), f.status(t)
	t.Logf("%d packets of %d flows; %+v, %+v, %+v", w.Packets, blocks*blockFlows, w, lost, status)
	// what was under way to a backend that is removed may be refused on its way to another one
	if stopped := f.eachFlow(t, blocks*blockFlows); uint64(stopped) > lost.refused {
		t.Errorf("packets of %d flows did not arrive: %+v", stopped, lost)
	}
	// each SYN's flow that gives way to another's is missed by the first ACK, perhaps of both lanes
	if w.Torn+lost.forgotten > 2*status.Evictions.Embryonic {
		t.Errorf("handshakes: %d torn, %d forgotten; %+v", w.Torn, lost.forgotten, status)
	}
	if status.Floods != 0 || status.Evictions.Established != 0 {
		t.Errorf("%+v: want no flood, and no eviction of an established flow", status)
	}
	if (w.Moves == 0) != (removal == lb.Keep) {
		t.Errorf("%d connections were opened anew elsewhere; those of removed backends: %s", w.Moves, removal)
	}
	if c.removed == 0 || c.settled == 0 || c.unsettled == 0 {
		t.Errorf("%d backends removed, %d slots settled, %d not: this test shows nothing", c.removed, c.settled, c.unsettled)
	}
}

// stroll lets both lanes send packets of all flows of so many blocks until the function that it returns is called.
func (f *streams) stroll(t testing.TB, blocks uint32) (stop func()) {
	t.Helper()
	var enough atomic.Bool
	t.Cleanup(func() { enough.Store(true) })
	f.start(func(l *lane) error {
		for stride := range uint32(blockFlows / strideFlows) {
			if err := l.openOwn(blocks-1, stride); err != nil {
				return err
			}
		}
		for !enough.Load() {
			flows := uint32(blockFlows)
			if l.random.IntN(4) == 0 {
				flows = 16 // so that both CPUs have packets of one flow at a time
			}
			block, stride := l.random.Uint32N(blocks), l.random.Uint32N(blockFlows/strideFlows)
			if err := errors.Join(l.roam(block, flows, 4096), l.openOwn(block, stride)); err != nil {
				return err
			}
		}
		return nil
	})
	return func() {
		t.Helper()
		enough.Store(true)
		f.wait(t)
		f.allArrive(t)
	}
}

// openOwn is openStride for the lane's half of the strides. A SYN that comes twice is another connection's where the backend
// has been quiesced in between: packets of the first would stray, and rightly.
func (l *lane) openOwn(block, stride uint32) error {
	if l != l.streams.lanes[stride%2] {
		return nil
	}
	return l.openStride(block, stride)
}

// quarterOfAnHour is longer than any timeout, with packets of all flows in it: entries expire that no packet looks at,
// and every flow that is not on a settled slot has an entry.
func (f *streams) quarterOfAnHour(t testing.TB, blocks uint32) {
	t.Helper()
	each := func(l *lane) (err error) {
		for block := range blocks {
			if l == f.lanes[block%2] {
				err = errors.Join(err, l.open(block))
			}
		}
		return err
	}
	f.onLanes(t, each) // all are connected: a new flow would take the place of one that seems idle now
	ageFlows(t, uint32(xdplbTimeoutTIMEOUT_ESTABLISHED)+2)
	f.onLanes(t, each)
	pastSettling(t)
}

// ageFlows makes all entries older. The notes of what has spilled stay as young as the packets of these flows keep them.
func ageFlows(t testing.TB, ticks uint32) {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	table, err := d.openFlows()
	if err != nil {
		t.Fatal(err)
	}
	defer table.close()
	table.walkAll(func(bucket, way int, entry xdplbEntry) {
		atomic.StoreUint64(table.buckets.values[bucket].entryAt(way), entry.aged(ticks).word())
	})
}

// churn is the changes to the services, of which the first is rr and the second mh.
type churn struct {
	streams            *streams
	random             *rand.Rand
	members            [2][]lb.Backend
	removal            lb.Removal
	next               uint32 // number of the next backend
	removed            int
	leaving            []uint32
	settled, unsettled int // slots, summed over the legs
}

func newChurn(t testing.TB, f *streams, removal lb.Removal) *churn {
	t.Helper()
	c := &churn{streams: f, random: rand.New(rand.NewPCG(1, 2)), removal: removal, next: 1}
	mustChange(t, func(s *lb.State) error {
		for i, scheduler := range []lb.Scheduler{lb.RR, lb.MH} {
			for range 10 {
				c.members[i] = append(c.members[i], c.newBackend(c.members[i]))
			}
			service := lb.Service{ServiceKey: f.key(uint32(i) + 1), Scheduler: scheduler, OnRemoval: removal, Backends: c.members[i]}
			if err := s.AddService(service); err != nil {
				return err
			}
		}
		return nil
	})
	return c
}

// newBackend has an address that none of the others has now; it may have been another's, but not one's whose connections are
// kept, which it would take over.
func (c *churn) newBackend(others []lb.Backend) lb.Backend {
	for {
		addr := address(false, 2, c.random.IntN(32))
		if c.removal == lb.Keep {
			addr = address(false, 2, int(c.next))
		}
		if !slices.ContainsFunc(others, func(b lb.Backend) bool { return b.Addr == addr }) {
			c.next++
			return c.streams.backend(addr, c.next-1)
		}
	}
}

// change edits a backend of each service, at once.
func (c *churn) change(t testing.TB) {
	t.Helper()
	first, second := c.edit(0), c.edit(1)
	mustChange(t, func(s *lb.State) error { return errors.Join(first(s), second(s)) })
}

// edit adds, removes, quiesces or weighs a backend of a service.
func (c *churn) edit(i uint32) func(*lb.State) error {
	key, members := c.streams.key(i+1), c.members[i]
	at, weight := c.random.IntN(len(members)), uint32(1+c.random.IntN(4))
	b, active := members[at], 0
	for _, b := range members {
		if b.Weight > 0 {
			active++
		}
	}
	switch what := c.random.IntN(4); {
	case what == 0 && len(members) < 14:
		b = c.newBackend(members)
		c.members[i] = append(members, b)
		return func(s *lb.State) error { return s.AddBackend(key, b) }
	case what == 1 && len(members) > 6 && (active > 3 || b.Weight == 0):
		c.members[i] = slices.Delete(members, at, at+1)
		c.leave(b)
		return func(s *lb.State) error { return s.DeleteBackend(key, b.Addr) }
	case what == 2 && active > 3:
		weight = 0
	}
	members[at].Weight = weight
	return func(s *lb.State) error {
		return s.SetBackend(key, b.Addr, func(b *lb.Backend) error { b.Weight = weight; return nil })
	}
}

// leave says that the flows of a backend may go elsewhere from now on, unless they are kept, bury that no packet goes to those that left.
func (c *churn) leave(b lb.Backend) {
	c.removed++
	if c.removal == lb.Keep {
		return
	}
	number := numberOf(b)
	c.streams.lives.store(int(number), uint64(traffic.StreamLifeLIFE_REMOVING))
	c.leaving = append(c.leaving, number)
}

func (c *churn) bury() {
	for _, number := range c.leaving {
		c.streams.lives.store(int(number), uint64(traffic.StreamLifeLIFE_GONE))
	}
	c.leaving = nil
}

// countSettled counts the slots of the mh service that are settled, and not.
func (c *churn) countSettled(t testing.TB) {
	t.Helper()
	for _, slot := range readHashed(t, c.streams.key(2)).slots {
		if slot&unsettled != 0 {
			c.unsettled++
		} else {
			c.settled++
		}
	}
}
