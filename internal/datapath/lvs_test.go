// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"xdplb/internal/lb"
)

// lvsWorld is the program and LVS's model side by side, with one service.
type lvsWorld struct {
	*rig
	service  lvsService
	real     *realLVS // nil: the model alone
	at       netip.AddrPort
	protocol lb.Protocol
	kind     int // of weights
	random   *rand.Rand
	reals    []uint32
	loads    mapped
	pairs    []uint32         // of the table of members
	table    []uint32         // sh, mh: whose clients' hashes choose
	live     map[int]*lvsFlow // by the client's number
	ended    map[int]bool     // those that the client has closed
	next     int
	turns    uint64
	era      uint32
	replaced uint32 // how often a backend was
	ahead    int64  // ticks by which the model's clock is ahead of the kernel's
	limited  bool   // real servers may have thresholds
	words    mapped // of the limits
}

type lvsFlow struct {
	dest   *lvsDest
	active bool
}

// TestSchedulersAgainstLVS lets the program and the model schedule the same connections, which come, end and go while
// weights change, and compares each decision, and in the end the numbers of connections.
func TestSchedulersAgainstLVS(t *testing.T) {
	t.Parallel()
	d := newRig(t, tableOf(8*flowBuckets, spillBuckets)) // so large that nothing is evicted
	for _, scheduler := range lb.Schedulers() {
		t.Run(scheduler.String(), func(t *testing.T) {
			rounds := uint64(6)
			if scheduler == lb.LBLC || scheduler == lb.LBLCR {
				rounds = 24 // they seldom come to where they differ
			}
			for round := range rounds {
				seed := uint64(time.Now().UnixNano())
				d.runLVS(t, scheduler, seed+round)
				if t.Failed() {
					t.Fatalf("seed %d", seed+round)
				}
			}
		})
	}
}

// FuzzSchedulers is the same for as long as one likes, and for one seed again.
func FuzzSchedulers(f *testing.F) {
	f.Add(uint64(1), uint8(lb.WLC))
	f.Fuzz(func(t *testing.T, seed uint64, scheduler uint8) {
		list := lb.Schedulers()
		d := newRig(t, tableOf(8*flowBuckets, spillBuckets))
		d.runLVS(t, list[int(scheduler)%len(list)], seed)
	})
}

func (d *rig) runLVS(t *testing.T, scheduler lb.Scheduler, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	protocol := []lb.Protocol{lb.TCP, lb.TCP, lb.UDP}[random.IntN(3)]
	kind, reals := random.IntN(4), []int{1, 2, 3, 7, 40, 70}[random.IntN(6)]
	if scheduler == lb.LBLC || scheduler == lb.LBLCR { // which differ from wlc where some are overloaded, and others not
		kind, protocol, reals = 2, lb.TCP, 2+random.IntN(3)
	}
	w := d.newLVSWorld(t, scheduler, protocol, random)
	// mh without thresholds does not look its flows up: succession_test.go
	w.kind, w.limited = kind, random.IntN(2) == 0 || scheduler == lb.MH
	for range reals {
		w.add(w.weight())
	}
	for _, d := range w.service.dests {
		w.limit(d)
	}
	w.publish()
	for step := range 600 {
		what := w.step(t)
		if t.Failed() {
			t.Fatalf("step %d of seed %d, %d backends: %s", step, seed, reals, what)
		}
	}
	w.compareLoads(t)
}

// newLVSWorld has a service without backends, on any address.
func (d *rig) newLVSWorld(t *testing.T, scheduler lb.Scheduler, protocol lb.Protocol, random *rand.Rand) *lvsWorld {
	t.Cleanup(d.reportTo(t))
	vip := netip.AddrFrom4([4]byte{172, 10, 0, byte(1 + random.IntN(250))})
	w := &lvsWorld{
		rig: d, random: random, loads: mapMemory(t, d.maps["loads"]), live: map[int]*lvsFlow{}, ended: map[int]bool{}, era: 1,
		at: netip.AddrPortFrom(vip, portPlain), protocol: protocol,
		service: lvsService{scheduler: scheduler, vip: vip, position: -1},
	}
	d.forget()
	d.turn(0)
	clear(w.loads)
	w.words = mapMemory(t, d.maps["limits"])
	clear(w.words)
	return w
}

// add gives the service a backend. Those that came before follow it in LVS's list, and so their addresses are higher.
func (w *lvsWorld) add(weight int64) *lvsDest {
	w.reals = w.addReals(len(w.service.dests) + 1)
	for _, d := range w.service.dests {
		d.id++
	}
	d := &lvsDest{id: w.reals[0], weight: weight}
	w.service.add(d)
	return d
}

// weight is small and often 0, or any, or 1.
func (w *lvsWorld) weight() int64 {
	switch {
	case w.random.IntN(8) == 0:
		return 0
	case w.kind == 0:
		return 1
	case w.kind == 1 && w.service.scheduler != lb.WRR: // whose table has room for small weights only
		return w.random.Int64N(lb.MaxWeight) + 1
	default:
		return w.random.Int64N(5) + 1
	}
}

// limit gives a real server other thresholds, small ones, which are often reached, or none.
func (w *lvsWorld) limit(d *lvsDest) string {
	upper, lower := int64(0), int64(0)
	if w.limited && w.random.IntN(4) > 0 {
		upper = w.random.Int64N(6) + 1
		lower = w.random.Int64N(upper + 1)
	}
	changed := *d
	changed.upper, changed.lower = upper, lower
	changed.overloaded = d.overloaded && upper != 0 && upper <= d.upper
	// what LVS would notice with the next connection only
	if now := changed; upper != 0 && upper <= now.active+now.inactive || now.overloaded && !now.isStillOverloaded() {
		return "no other thresholds"
	}
	*d = changed
	word := int(d.id)
	w.words.store(word, nextLimit(w.words.load(word), d.active+d.inactive, uint32(upper), uint32(lower)))
	return fmt.Sprintf("thresholds of %d are %d and %d", d.id, upper, lower)
}

func (w *lvsWorld) step(t *testing.T) string {
	switch n := w.random.IntN(100); {
	case n < 2:
		return w.setWeight(w.service.dests[w.random.IntN(len(w.service.dests))], w.weight())
	case n < 3 && w.limited:
		return w.limit(w.service.dests[w.random.IntN(len(w.service.dests))])
	case n < 4:
		return w.replace(w.service.dests[w.random.IntN(len(w.service.dests))])
	case n < 5 && looksAtLoads(w.service.scheduler):
		return w.change()
	case n < 7:
		return w.wait(t, []int64{50_000, 50_000, 50_000, day + 10}[w.random.IntN(4)])
	case n < 50 || len(w.live) == 0:
		w.next++
		return w.connect(t, w.next)
	case n < 53:
		return w.connect(t, w.any()) // a SYN again, on a connection that may have ended
	case n < 60:
		return w.expire(w.any())
	default:
		return w.goOn(w.any(), tcpFlags{ack: true, fin: n >= 85, rst: n >= 93})
	}
}

// any is the number of a client that has a connection.
func (w *lvsWorld) any() int {
	numbers := slices.Sorted(maps.Keys(w.live)) // so that a seed gives the same again
	return numbers[w.random.IntN(len(numbers))]
}

func (w *lvsWorld) setWeight(d *lvsDest, weight int64) string {
	w.service.setWeight(d, weight)
	w.publish()
	return fmt.Sprintf("weight of %d is %d", d.id, d.weight)
}

// publish makes the service live, with the tables that user space makes of it.
func (w *lvsWorld) publish() {
	s := &service{}
	s.setKey(lb.ServiceKey{Addr: w.at, Protocol: w.protocol})
	s.Scheduler = uint8(w.service.scheduler)
	if w.limited {
		s.Limited = 1
	}
	for _, d := range w.service.dests {
		b := &backend{id: d.id, listed: d.weight > 0}
		b.Addr, b.Weight = netip.AddrFrom4([4]byte{192, 168, byte(d.id >> 8), byte(d.id)}), uint32(d.weight)
		s.backends = append(s.backends, b)
	}
	list := candidates(s)
	shape, err := slotsOf(s, list)
	if err != nil {
		w.tb.Fatal(err)
	}
	v := virtual{
		at: w.at, protocol: uint8(w.protocol), era: w.era,
		scheduler: xdplbScheduler(s.Scheduler), limited: s.Limited != 0,
	}
	for _, i := range shape {
		v.slots = append(v.slots, list[i].id)
	}
	if s.isCounted() && len(shape) > 0 {
		for _, i := range mustMembers(w.tb, s, list) {
			v.members = append(v.members, list[i].id, list[i].weight)
		}
	}
	w.rig.publish(v)
	w.pairs, w.table = v.members, v.slots
	if w.service.scheduler == lb.RR || w.service.scheduler == lb.WRR {
		w.align(v.slots)
	}
}

// align lets the program go on where LVS does. After a change both go through the same cycle, but may begin anywhere; and
// when all are full, LVS's wrr begins its cycle anew, which gives who comes first more than their share, where the program
// goes on.
func (w *lvsWorld) align(slots []uint32) {
	if len(slots) == 0 {
		return
	}
	ahead := w.service.clone()
	var cycle []uint32
	for range slots {
		cycle = append(cycle, ahead.schedule(0, [2]*lvsDest{}).id)
	}
	for first := range slots {
		if slices.Equal(cycle, slices.Concat(slots[first:], slots[:first])) {
			w.turn(uint64(first))
			return
		}
	}
	w.tb.Fatalf("the slots %d are not LVS's cycle %d, wherever one begins", slots, cycle)
}

// pair are the two that the program's draw gives, or, where there are thresholds, its random numbers; for sh and mh, whose
// hash is not LVS's, the first is the one that the client's hash gives.
func (w *lvsWorld) pair(client netip.AddrPort) (pair [2]*lvsDest) {
	switch w.service.scheduler {
	case lb.SH, lb.MH:
		slot := uint64(new(xdplbService).hashClient(client)) * uint64(len(w.table)) >> 32
		pair[0] = w.dest(w.table[slot])
		return pair
	case lb.TWOS:
	default:
		return pair
	}
	hash := w.hashOf(client, w.at, uint8(w.protocol))
	random := mix64(w.turns<<32 ^ uint64(hash.tag()))
	if !w.limited {
		for i, half := range []uint32{uint32(random), uint32(random >> 32)} {
			pair[i] = w.dest(w.pairs[2*(uint64(half)*uint64(len(w.pairs)/2)>>32)])
		}
		return pair
	}
	total := uint64(0)
	for _, d := range w.service.dests {
		if d.takes() {
			total += uint64(d.weight)
		}
	}
	for i := 0; total > 0 && i < len(pair); i++ {
		left := random % total
		n := slices.IndexFunc(w.service.dests, func(d *lvsDest) bool {
			if d.takes() && left < uint64(d.weight) {
				return true
			}
			if d.takes() {
				left -= uint64(d.weight)
			}
			return false
		})
		pair[i], random = w.service.dests[n], mix64(random)
	}
	return pair
}

func (w *lvsWorld) dest(id uint32) *lvsDest {
	return w.service.dests[slices.IndexFunc(w.service.dests, func(d *lvsDest) bool { return d.id == id })]
}

func lvsClient(number int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 3, byte(number >> 8), byte(number)}), 1000)
}

func (w *lvsWorld) packet(number int, flags tcpFlags) []byte {
	client := lvsClient(number)
	if w.protocol == lb.UDP {
		return frame(ip4(from4(client.Addr()), to4(w.at.Addr())), udpFrom(client.Port(), portPlain))
	}
	return frame(ip4(from4(client.Addr()), to4(w.at.Addr())), tcp(client.Port(), portPlain, flags))
}

// connect lets a client open a connection, and compares where it goes.
func (w *lvsWorld) connect(t *testing.T, number int) string {
	what := fmt.Sprintf("client %d connects", number)
	var want *lvsDest
	was := w.live[number]
	switch {
	case was != nil && (w.protocol == lb.UDP || !w.ended[number]):
		want = was.dest // it goes on
	case slices.ContainsFunc(w.service.dests, func(d *lvsDest) bool { return d.weight > 0 }):
		want = w.service.schedule(int64(nowTicks(t))+w.ahead, w.pair(lvsClient(number)))
		w.turns++
	}
	w.compareReal(w.packet(number, tcpFlags{syn: true}), want)
	action, out := w.run(w.packet(number, tcpFlags{syn: true}))
	if want == nil && w.service.scheduler == lb.WRR {
		w.align(w.table)
	}
	switch got := macAddr(out[:6]); {
	case want == nil && action != xdpPass:
		t.Errorf("verdict %d, to %x: LVS has nobody for it", action, got)
	case want == nil:
	case action != xdpTX || got != realMAC(int(want.id-w.reals[0])):
		t.Errorf("verdict %d, to %x; LVS sends it to %d, which is %x", action, got, want.id, realMAC(int(want.id-w.reals[0])))
	case was == nil || was.dest != want || w.ended[number]:
		flow := &lvsFlow{dest: want}
		want.bind(flow) // its old connection, if there is one, is let go only then
		if was != nil {
			was.dest.unbind(was)
		}
		w.live[number] = flow
		delete(w.ended, number)
	}
	return what
}

// compareReal compares where the real LVS sends a frame, if there is one; nil is nowhere.
func (w *lvsWorld) compareReal(in []byte, want *lvsDest) {
	w.tb.Helper()
	if w.real == nil {
		return
	}
	number := -1
	if want != nil {
		number = int(want.id - w.reals[0])
	}
	if got := w.real.send(in); got != number {
		w.tb.Errorf("LVS sends it to real server %d, its model to %d", got, number)
	}
}

// goOn sends another packet of a connection: it is established, or it ends.
func (w *lvsWorld) goOn(number int, flags tcpFlags) string {
	flow := w.live[number]
	w.compareReal(w.packet(number, flags), flow.dest)
	w.run(w.packet(number, flags))
	if w.protocol == lb.UDP {
		return "a datagram"
	}
	flow.dest.add(flow, -1)
	opening := !flow.active && !w.ended[number]
	switch {
	case flags.rst && opening: // LVS takes it for one that is not the client's
	case flags.fin || flags.rst:
		w.ended[number], flow.active = true, false
	default:
		flow.active = !w.ended[number]
	}
	flow.dest.add(flow, 1)
	return fmt.Sprintf("client %d sends %+v", number, flags)
}

// expire takes a connection away, as the sweep does.
func (w *lvsWorld) expire(number int) string {
	hash := w.hashOf(lvsClient(number), w.at, uint8(w.protocol))
	index, flow := w.homeOf(hash), w.live[number]
	bucket := w.bucket(index)
	way := slices.Index(bucket.Tag[:], hash.tag())
	entry := bucket.Entry[way]
	w.setEntry(index, way, xdplbEntry{})
	if entry.isCounted() {
		word := int(2 * flow.dest.id)
		w.loads.store(word, w.loads.load(word)-entry.load())
	}
	flow.dest.unbind(flow)
	delete(w.live, number)
	delete(w.ended, number)
	return fmt.Sprintf("client %d is forgotten", number)
}

// replace removes a backend and gives its id to another one.
func (w *lvsWorld) replace(d *lvsDest) string {
	w.replaced++
	w.setGeneration(d.id, generation(d.id)+w.replaced)
	w.loads.store(int(2*d.id), 0)
	w.loads.store(int(2*d.id)+1, 0)
	for number, flow := range w.live {
		if flow.dest == d {
			delete(w.live, number)
			delete(w.ended, number)
		}
	}
	d.active, d.inactive, d.overloaded = 0, 0, false
	w.words.store(int(d.id), uint64(d.upper)|uint64(d.lower)<<32)
	w.service.drop(d)
	return fmt.Sprintf("%d is another backend", d.id)
}

// change gives the service another scheduler of those that look at loads.
func (w *lvsWorld) change() string {
	var others []lb.Scheduler
	for _, s := range lb.Schedulers() {
		if looksAtLoads(s) {
			others = append(others, s)
		}
	}
	if next := others[w.random.IntN(len(others))]; next != w.service.scheduler {
		w.service.scheduler, w.service.cached = next, nil
		w.era++
	}
	w.publish()
	return "scheduler " + w.service.scheduler.String()
}

// wait lets time pass for lblc and lblcr.
func (w *lvsWorld) wait(t *testing.T, ticks int64) string {
	var cursor xdplbCursor
	if err := w.maps["cursors"].Lookup(uint32(1), &cursor); err != nil {
		t.Fatal(err)
	}
	cursor.Used -= uint32(ticks)
	cursor.Changed -= uint32(ticks)
	w.put("cursors", uint32(1), cursor)
	w.ahead += ticks
	return fmt.Sprintf("%d ticks pass", ticks)
}

// compareLoads compares the numbers of connections.
func (w *lvsWorld) compareLoads(t *testing.T) {
	t.Helper()
	if !looksAtLoads(w.service.scheduler) && !w.limited {
		return
	}
	for _, d := range w.service.dests {
		active, inactive := splitLoad(w.loads.load(int(2 * d.id)))
		if active != d.active || inactive != d.inactive {
			t.Errorf("backend %d: %d active and %d inactive, LVS has %d and %d", d.id, active, inactive, d.active, d.inactive)
		}
	}
}
