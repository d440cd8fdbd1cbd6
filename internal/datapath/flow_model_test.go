// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
)

// embryonicWays, youngWays and youngTicks are the program's bounds on embryonic flows (flow.h).
const (
	embryonicWays = 3
	youngWays     = 4
	youngTicks    = 2
)

// modelTuple is a flow in the model's words.
type modelTuple struct {
	client   netip.AddrPort
	service  netip.AddrPort
	protocol uint8
}

// modelFlow is what the model remembers of a flow. seen is in ticks of the model's clock.
type modelFlow struct {
	target  uint32
	state   xdplbFlowState
	seen    uint32
	spilled bool
}

// model is the program's decisions in plain Go: one map of all flows, of which so many share a place as a bucket has ways.
type model struct {
	services    map[modelTuple]*modelService // key: without a client
	flows       map[modelTuple]modelFlow
	generations map[uint32]uint32
	hashOf      func(modelTuple) flowHash
	home, spill func(flowHash) uint32
	spills      uint32            // the first bucket of the table's second part
	notes       map[uint32]uint32 // when a flow of this home spilled, or a packet of one that had came
	marks       map[uint32]bool
	evictions   [xdplbEvictionEVICTION_COUNT]uint64
	victims     []modelTuple // one of these has given way to the last new flow; the program says which
}

type modelService struct {
	virtual
	turn uint64
}

type modelPacket struct {
	modelTuple
	state xdplbFlowState // what the packet says: a SYN, a FIN, ...
}

func (p modelPacket) opens() bool { return p.state == stateSYN || p.state == stateUDP }

func (m *model) targetOf(backend uint32) uint32 { return targetOf(backend, m.generations[backend]) }

func (m *model) isCurrent(target uint32) bool { return m.targetOf(target&targetID) == target }

func (f modelFlow) isEmbryonic() bool { return f.state == stateSYN || f.state == stateDatagram }

func (f modelFlow) isOver() bool {
	return f.state == stateFIN || f.state == stateTimeWait || f.state == stateClosed
}

// touch is what a packet, by what it says, makes of the flow.
func (f *modelFlow) touch(says xdplbFlowState, now uint32) {
	f.seen = now
	next := map[[2]xdplbFlowState]xdplbFlowState{
		{stateDatagram, stateUDP}:       stateUDP,
		{stateSYN, stateEstablished}:    stateEstablished,
		{stateSYN, stateFIN}:            stateTimeWait,
		{stateEstablished, stateFIN}:    stateFIN,
		{stateEstablished, stateClosed}: stateClosed,
		{stateFIN, stateClosed}:         stateClosed,
		{stateTimeWait, stateClosed}:    stateClosed,
	}
	if to, moves := next[[2]xdplbFlowState{f.state, says}]; moves {
		f.state = to
	}
}

func (f modelFlow) timeout() uint32 {
	return uint32(map[xdplbFlowState]xdplbTimeout{
		stateSYN: xdplbTimeoutTIMEOUT_SYN, stateEstablished: xdplbTimeoutTIMEOUT_ESTABLISHED,
		stateFIN: xdplbTimeoutTIMEOUT_FIN, stateTimeWait: xdplbTimeoutTIMEOUT_TIME_WAIT, stateClosed: xdplbTimeoutTIMEOUT_CLOSED,
		stateDatagram: xdplbTimeoutTIMEOUT_UDP, stateUDP: xdplbTimeoutTIMEOUT_UDP,
	}[f.state])
}

func (f modelFlow) isExpired(now uint32) bool { return now-f.seen > f.timeout() }

// isUncertain: the flow expires in these moments, and the program's clock and the model's are not one.
func (f modelFlow) isUncertain(now uint32) bool {
	age := now - f.seen
	return age+2 > f.timeout() && age <= f.timeout()+2
}

// send is what becomes of a packet: the reason, and the backend if there is one.
func (m *model) send(p modelPacket, now uint32) (xdplbReason, uint32) {
	service := m.services[modelTuple{service: p.service, protocol: p.protocol}]
	hashing := service.scheduler >= xdplbSchedulerSCHEDULER_SH
	slot := clientSlot(p.client.Addr(), len(service.slots))
	if service.scheduler == xdplbSchedulerSCHEDULER_MH && !p.opens() && len(service.slots) > 0 && service.slots[slot]&unsettled == 0 {
		m.watch(p, m.targetOf(service.slots[slot]), now)
		return isTX, service.slots[slot]
	}
	if p.state == stateSYN && service.scheduler == xdplbSchedulerSCHEDULER_MH {
		m.marks[m.markOf(p.modelTuple)] = true
	}
	flow, known := m.find(p.modelTuple, now)
	if known && m.follows(p, flow, now) {
		flow.touch(p.state, now)
		m.flows[p.modelTuple] = flow
		return isTX, flow.target & targetID
	}
	if !p.opens() && !known && !hashing {
		return isNoConnection, 0
	}
	if len(service.slots) == 0 {
		return isNoBackend, 0
	}
	backend := service.slots[slot]
	switch {
	case !hashing:
		backend = service.slots[service.turn%uint64(len(service.slots))]
	case !p.opens() && service.previous != nil && service.previous[slot] != 0:
		backend = service.previous[slot]
	}
	if p.opens() || known {
		service.turn++
	}
	if backend == unsettled {
		return isNoBackend, 0
	}
	backend &^= unsettled
	state := p.state
	switch {
	case p.opens() && p.state == stateUDP:
		state = stateDatagram
	case p.opens() || known:
	case p.state == stateEstablished && service.scheduler == xdplbSchedulerSCHEDULER_MH:
		state = stateSYN // one packet from a connection's middle proves nothing
	default:
		return isTX, backend
	}
	m.add(p.modelTuple, modelFlow{target: m.targetOf(backend), state: state, seen: now}, now)
	return isTX, backend
}

// find looks a flow up, and notes that one that has spilled was wanted.
func (m *model) find(t modelTuple, now uint32) (flow modelFlow, known bool) {
	flow, known = m.flows[t]
	if known && flow.spilled {
		m.notes[m.home(m.hashOf(t))] = now
	}
	return flow, known
}

// add adds a flow, in the place of what the table still had of it.
func (m *model) add(t modelTuple, fresh modelFlow, now uint32) {
	was, known := m.flows[t]
	delete(m.flows, t)
	if !known || was.spilled {
		fresh.spilled = m.makeRoom(t, fresh, now)
	}
	m.flows[t] = fresh
}

// makeRoom says whether a new flow spills, and who may have to give way to it. No established flow does while anything else
// will do.
func (m *model) makeRoom(t modelTuple, fresh modelFlow, now uint32) (spills bool) {
	hash := m.hashOf(t)
	home, spill := m.lookAt(m.home(hash), now), m.lookAt(m.spill(hash), now)
	evict := func(kind xdplbEviction, victims []modelTuple) {
		m.evictions[kind]++
		m.victims = victims
	}
	spills = !home.fits(fresh) && (spill.fits(fresh) || len(home.embryos) == 0)
	bucket := home
	if spills {
		bucket = spill
		m.notes[m.home(hash)] = now
		m.evictions[xdplbEvictionEVICTION_SPILLED]++
	}
	switch {
	case bucket.isAtBound(fresh):
		evict(xdplbEvictionEVICTION_EMBRYONIC, bucket.embryos)
	case len(bucket.all) < int(ways):
	case len(bucket.dead) > 0:
		evict(xdplbEvictionEVICTION_EXPIRED, bucket.dead)
	case len(bucket.embryos) > 0:
		evict(xdplbEvictionEVICTION_EMBRYONIC, bucket.embryos)
	default:
		evict(xdplbEvictionEVICTION_ESTABLISHED, m.oldest(bucket.all))
	}
	return spills
}

// modelBucket are the flows that share a bucket.
type modelBucket struct {
	all     []modelTuple
	dead    []modelTuple // of them, those that have expired; if none has, those whose backend is gone
	embryos []modelTuple // the oldest of those of which one packet was seen
	number  int          // of all embryonic ones
	young   bool         // even the oldest of them
	spill   bool
}

// fits says whether a flow finds room where no established one must give way, and at home no handshake that is under way.
func (b *modelBucket) fits(fresh modelFlow) bool {
	if !b.isAtBound(fresh) && (len(b.all) < int(ways) || len(b.dead) > 0) {
		return true
	}
	return len(b.embryos) > 0 && (b.spill || !b.young)
}

// isAtBound says whether the flow is embryonic, and these have what they may have.
func (b *modelBucket) isAtBound(fresh modelFlow) bool {
	bound := embryonicWays
	if b.young {
		bound = youngWays
	}
	return fresh.isEmbryonic() && b.number >= bound
}

func (m *model) lookAt(bucket uint32, now uint32) *modelBucket {
	b := &modelBucket{all: m.residents(bucket), spill: bucket >= m.spills}
	b.dead = slices.DeleteFunc(slices.Clone(b.all), func(t modelTuple) bool { return !m.flows[t].isExpired(now) })
	embryos := slices.DeleteFunc(slices.Clone(b.all), func(t modelTuple) bool {
		return !m.flows[t].isEmbryonic() || m.flows[t].isExpired(now)
	})
	if len(b.dead) == 0 {
		b.dead = slices.DeleteFunc(slices.Clone(b.all), func(t modelTuple) bool { return m.isCurrent(m.flows[t].target) })
	}
	b.embryos, b.number = m.oldest(embryos), len(embryos)
	b.young = len(embryos) > 0 && now-m.flows[b.embryos[0]].seen < youngTicks
	return b
}

// residents are the flows that share a bucket.
func (m *model) residents(bucket uint32) (all []modelTuple) {
	for t, flow := range m.flows {
		if hash := m.hashOf(t); !flow.spilled && m.home(hash) == bucket || flow.spilled && m.spill(hash) == bucket {
			all = append(all, t)
		}
	}
	return all
}

// oldest are those that were silent for longest, as far as two clocks can tell: the first surely.
func (m *model) oldest(of []modelTuple) (list []modelTuple) {
	slices.SortFunc(of, func(a, b modelTuple) int { return cmp.Compare(m.flows[a].seen, m.flows[b].seen) })
	for _, t := range of {
		if m.flows[t].seen-m.flows[of[0]].seen <= 2 {
			list = append(list, t)
		}
	}
	return list
}

// isUnsure says whether what becomes of a flow, or its room, depends on which of two clocks one asks.
func (m *model) isUnsure(t modelTuple, now uint32) bool {
	hash := m.hashOf(t)
	return slices.ContainsFunc(slices.Concat(m.residents(m.home(hash)), m.residents(m.spill(hash))), func(t modelTuple) bool {
		flow := m.flows[t]
		return flow.isUncertain(now) || flow.isEmbryonic() && flow.seen != now && now-flow.seen <= youngTicks+1
	})
}

// sweep frees what has expired, or whose backend is gone.
func (m *model) sweep(now uint32) {
	maps.DeleteFunc(m.flows, func(_ modelTuple, flow modelFlow) bool { return flow.isExpired(now) || !m.isCurrent(flow.target) })
}

func (m *model) markOf(t modelTuple) uint32 { return m.hashOf(t).tag() % marks }

// watch keeps up the entry of a connection on a settled slot: behind its SYN, and at its end. (The sequence numbers of
// the test's packets are not of those that are sampled.)
func (m *model) watch(p modelPacket, target, now uint32) {
	if mark := m.markOf(p.modelTuple); p.state == stateEstablished {
		if !m.marks[mark] {
			return
		}
		delete(m.marks, mark)
	}
	if flow, _ := m.find(p.modelTuple, now); flow.target == target {
		flow.touch(p.state, now)
		m.flows[p.modelTuple] = flow
	}
}

func (m *model) follows(p modelPacket, flow modelFlow, now uint32) bool {
	switch {
	case !m.isCurrent(flow.target):
		return false
	case p.state == stateSYN:
		return !flow.isOver() && !flow.isExpired(now)
	case p.state == stateUDP:
		return !flow.isExpired(now)
	default:
		return true
	}
}

// frame is the packet as it comes.
func (p modelPacket) frame() []byte {
	var transport gopacket.SerializableLayer
	from, to := p.client.Port(), p.service.Port()
	switch p.state {
	case stateUDP:
		transport = udpFrom(from, to)
	case stateSYN:
		transport = tcp(from, to, tcpFlags{syn: true})
	case stateFIN:
		transport = tcp(from, to, tcpFlags{fin: true, ack: true})
	case stateClosed:
		transport = tcp(from, to, tcpFlags{rst: true})
	default:
		transport = tcp(from, to, tcpFlags{ack: true})
	}
	if p.client.Addr().Is4() {
		return frame(ip4(from4(p.client.Addr())), transport)
	}
	return frame(ip6(from6(p.client.Addr())), transport)
}

// modelWorld is the program and the model side by side.
type modelWorld struct {
	*rig
	model  model
	random *rand.Rand
	reals  []uint32
	tuples []modelTuple
	ahead  uint32 // ticks by which the model's clock is ahead of the kernel's
	order  []*modelService
	table  flowTable // for the sweep
	lost   int       // flows that gave way to others
	unsure int       // packets that were not sent
}

// TestModel compares the program with the model over random operations, packet by packet: in a table that has room for
// all flows, and in one that has not.
func TestModel(t *testing.T) {
	t.Parallel()
	for _, size := range modelSizes {
		rounds := time.Now().Add(2 * time.Second)
		for seed := uint64(time.Now().UnixNano()); time.Now().Before(rounds); seed++ {
			runModel(t, seed, size)
			if t.Failed() {
				t.Fatalf("seed %d, %d buckets", seed, size)
			}
		}
	}
}

// modelSizes are the tables' home buckets. There are 216 flows.
var modelSizes = []uint32{8 * flowBuckets, 4}

const modelSteps = 2500

// FuzzModel is TestModel for as long as one likes, and for one seed again.
func FuzzModel(f *testing.F) {
	f.Add(uint64(1), uint8(0))
	f.Add(uint64(1), uint8(1))
	f.Fuzz(func(t *testing.T, seed uint64, size uint8) { runModel(t, seed, modelSizes[int(size)%len(modelSizes)]) })
}

func runModel(t *testing.T, seed uint64, size uint32) {
	w := newModelWorld(t, seed, size)
	w.change()
	for step := range modelSteps {
		var what string
		switch n := w.random.IntN(200); {
		case n == 0:
			w.change()
			what = "other tables"
		case n == 1:
			backend := w.reals[w.random.IntN(len(w.reals))]
			w.model.generations[backend]++
			w.setGeneration(backend, w.model.generations[backend])
			what = fmt.Sprintf("backend %d removed and added", backend)
		case n == 2:
			w.forget()
			clear(w.model.flows)
			what = "all flows forgotten"
		case n < 9:
			what = w.wait(t, []uint32{1, 5, 30, 57, 113, 281, 400, 840}[w.random.IntN(8)])
		case n < 12:
			what = w.sweep(t)
		default:
			what = w.send(t, step)
		}
		if t.Failed() {
			t.Fatalf("step %d of seed %d: %s", step, seed, what)
		}
	}
	w.compareTables(t)
	if few := size < flowBuckets; (w.lost > 0) != few {
		t.Errorf("%d flows gave way to others in %d buckets: this test shows nothing", w.lost, size)
	}
	if w.unsure > modelSteps*9/10 {
		t.Errorf("%d of %d packets were too close to tell: this test shows little", w.unsure, modelSteps)
	}
}

func newModelWorld(t *testing.T, seed uint64, size uint32) *modelWorld {
	w := &modelWorld{rig: newRig(t, tableOf(size, size/2)), random: rand.New(rand.NewPCG(seed, 0))}
	w.model = model{
		services: map[modelTuple]*modelService{}, flows: map[modelTuple]modelFlow{}, generations: map[uint32]uint32{},
		hashOf: func(t modelTuple) flowHash { return w.hashOf(t.client, t.service, t.protocol) },
		home:   w.homeOf, spill: w.spillOf, spills: size, notes: map[uint32]uint32{}, marks: map[uint32]bool{},
	}
	var err error
	if w.table.buckets, err = mapArray[xdplbBucket](w.maps["flows"]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.table.buckets.close() })
	w.table.timeouts = newTimeouts(lb.Timeouts{})
	w.reals = w.addReals(5)
	for _, id := range w.reals {
		w.model.generations[id] = generation(id)
	}
	for i, scheduler := range []xdplbScheduler{xdplbSchedulerSCHEDULER_RR, xdplbSchedulerSCHEDULER_SH, xdplbSchedulerSCHEDULER_MH} {
		for _, s := range everywhere(uint16(80+i), scheduler) {
			service := &modelService{virtual: s}
			w.order = append(w.order, service)
			key := modelTuple{service: s.at, protocol: s.protocol}
			w.model.services[key] = service
			for range 12 {
				tuple := key
				tuple.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(w.random.Uint32())}), uint16(w.random.Uint32()))
				if s.at.Addr().Is6() {
					tuple.client = netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd10::%x", w.random.Uint32N(1<<16))), uint16(w.random.Uint32()))
				}
				w.tuples = append(w.tuples, tuple)
			}
		}
	}
	return w
}

// change gives every service another table. mh has always 7 slots, or none.
func (w *modelWorld) change() {
	var all []virtual
	for _, s := range w.order {
		before := s.slots
		n := w.random.IntN(6)
		if s.scheduler == xdplbSchedulerSCHEDULER_MH && n > 0 {
			n = 7
		}
		s.slots, s.previous = nil, nil
		for range n {
			s.slots = append(s.slots, w.reals[w.random.IntN(len(w.reals))])
		}
		if s.scheduler == xdplbSchedulerSCHEDULER_MH && len(before) == n && n > 0 && w.random.IntN(4) > 0 {
			w.unsettle(s, before)
		}
		all = append(all, s.virtual)
	}
	w.publish(all...)
}

// unsettle marks slots as changed, with the owners before where there are any.
func (w *modelWorld) unsettle(s *modelService, before []uint32) {
	s.previous = slices.Repeat([]uint32{0}, len(s.slots))
	for i := range s.slots {
		switch w.random.IntN(4) {
		case 0: // settled
		case 1:
			s.slots[i] |= unsettled
		case 2:
			s.slots[i] |= unsettled
			s.previous[i] = before[i] &^ unsettled
		case 3:
			s.slots[i] = unsettled
			s.previous[i] = before[i] &^ unsettled
		}
	}
}

// wait lets time pass. A spilled flow is found no more when its note is too old; it has expired then.
func (w *modelWorld) wait(t *testing.T, ticks uint32) string {
	w.age(ticks)
	w.ahead += ticks
	what := fmt.Sprintf("%d ticks", ticks)
	for tuple, flow := range w.model.flows {
		if age := nowTicks(t) + w.ahead - w.model.notes[w.homeOf(w.model.hashOf(tuple))]; flow.spilled && age+3 > w.table.timeouts.Ticks[0] {
			return what + ", " + w.sweep(t)
		}
	}
	return what
}

// sweep is the sweep of the one and of the other.
func (w *modelWorld) sweep(t *testing.T) string {
	now := nowTicks(t) + w.ahead
	for _, flow := range w.model.flows {
		if flow.isUncertain(now) {
			w.age(5)
			w.ahead += 5
			return w.sweep(t)
		}
	}
	w.table.now, w.table.targets = nowTicks(t), make([]uint32, backendRoom)
	for _, id := range w.reals {
		w.table.targets[id] = w.model.targetOf(id)
	}
	before, freed, loads := len(w.model.flows), 0, &loadKeeper{counts: make([]bool, backendRoom)}
	for i := range w.table.buckets.values {
		freed += w.table.sweepBucket(&w.table.buckets.values[i], loads)
	}
	w.model.sweep(now)
	if want := before - len(w.model.flows); freed != want {
		t.Errorf("the sweep freed %d flows, the model %d", freed, want)
	}
	return "a sweep"
}

// send lets a packet of any flow go through both and compares.
func (w *modelWorld) send(t *testing.T, step int) string {
	tuple := w.tuples[w.random.IntN(len(w.tuples))]
	for range 3 { // rather one that is known: or else few flows are established where room is scarce
		if _, known := w.model.flows[tuple]; !known {
			tuple = w.tuples[w.random.IntN(len(w.tuples))]
		}
	}
	p := modelPacket{modelTuple: tuple, state: stateUDP}
	if tuple.protocol == unix.IPPROTO_TCP {
		p.state = []xdplbFlowState{stateSYN, stateSYN, stateEstablished, stateEstablished, stateEstablished, stateFIN, stateClosed}[w.random.IntN(7)]
	}
	before := w.reasons()
	now := nowTicks(t) + w.ahead
	if w.model.isUnsure(tuple, now) {
		w.unsure++
		return "too close to tell"
	}
	w.model.victims = nil
	_, out := w.run(p.frame())
	got := w.countedSince(before)
	reason, backend := w.model.send(p, now)
	what := fmt.Sprintf("step %d: %v, state %d", step, p.modelTuple, p.state)
	if got != reason {
		t.Errorf("%s: reason %s, the model says %s", what, nameOf(got), nameOf(reason))
	} else if want := realMAC(int(backend) - 100); reason == isTX && macAddr(out[:6]) != want {
		t.Errorf("%s: to %x, the model says %x", what, out[:6], want)
	}
	w.evict(t, what)
	if got := w.evictions(); got != w.model.evictions {
		t.Errorf("%s: evictions %v, the model has %v", what, got, w.model.evictions)
	}
	return what
}

// evict takes the flow from the model that gave way to a new one: that of the victims which the table does not have.
func (w *modelWorld) evict(t *testing.T, what string) {
	gone := slices.DeleteFunc(w.model.victims, func(tuple modelTuple) bool { return w.rig.find(w.model.hashOf(tuple)) != nil })
	if want := min(len(w.model.victims), 1); len(gone) != want {
		t.Errorf("%s: of flows that may give way %d did, want %d", what, len(gone), want)
	}
	for _, tuple := range gone {
		delete(w.model.flows, tuple)
		w.lost++
	}
}

// compareTables compares all that is remembered.
func (w *modelWorld) compareTables(t *testing.T) {
	t.Helper()
	for tuple, want := range w.model.flows {
		got := w.find(w.hashOf(tuple.client, tuple.service, tuple.protocol))
		if got == nil || got.Target != want.target || got.state() != want.state {
			t.Errorf("%v: %+v, the model has %+v", tuple, got, want)
		} else if apart := int(nowTicks(t)+w.ahead-want.seen) - int(idleFor(t, got.Status)); max(apart, -apart) > 3 {
			t.Errorf("%v: seen %d ticks apart", tuple, apart)
		}
	}
	if got := len(w.flows()); got != len(w.model.flows) {
		t.Errorf("%d flows, the model has %d", got, len(w.model.flows))
	}
}
