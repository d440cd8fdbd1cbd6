// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"golang.org/x/sys/unix"
)

// modelTuple is a flow in the model's words.
type modelTuple struct {
	client   netip.AddrPort
	service  netip.AddrPort
	protocol uint8
}

// modelFlow is what the model remembers of a flow. seen is in ticks of the model's clock.
type modelFlow struct {
	target uint32
	state  xdplbFlowState
	seen   uint32
}

// model is the program's decisions in plain Go: a map where that has buckets, and nothing else.
type model struct {
	services    map[modelTuple]*modelService // key: without a client
	flows       map[modelTuple]modelFlow
	generations map[uint32]uint32
	markOf      func(modelTuple) uint32 // which mark the program has for it
	marks       map[uint32]bool
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
	flow, known := m.flows[p.modelTuple]
	if service.scheduler == xdplbSchedulerSCHEDULER_MH && !p.opens() && len(service.slots) > 0 && service.slots[slot]&unsettled == 0 {
		m.watch(p, flow, m.targetOf(service.slots[slot]), now)
		return isTX, service.slots[slot]
	}
	if p.state == stateSYN && service.scheduler == xdplbSchedulerSCHEDULER_MH {
		m.marks[m.markOf(p.modelTuple)] = true
	}
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
	m.flows[p.modelTuple] = modelFlow{target: m.targetOf(backend), state: state, seen: now}
	return isTX, backend
}

// watch keeps up the entry of a connection on a settled slot: behind its SYN, and at its end. (The sequence numbers of
// the test's packets are not of those that are sampled.)
func (m *model) watch(p modelPacket, flow modelFlow, target, now uint32) {
	if mark := m.markOf(p.modelTuple); p.state == stateEstablished {
		if !m.marks[mark] {
			return
		}
		delete(m.marks, mark)
	}
	if flow.target == target {
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
}

// TestModel compares the program with the model over random operations, packet by packet.
func TestModel(t *testing.T) {
	t.Parallel()
	rounds := time.Now().Add(2 * time.Second)
	for seed := uint64(time.Now().UnixNano()); time.Now().Before(rounds); seed++ {
		runModel(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// FuzzModel is TestModel for as long as one likes, and for one seed again.
func FuzzModel(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(runModel)
}

func runModel(t *testing.T, seed uint64) {
	w := newModelWorld(t, seed)
	w.change()
	for step := range 2500 {
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
			ticks := []uint32{1, 5, 30, 57, 113, 281, 400, 840}[w.random.IntN(8)]
			w.age(ticks)
			w.ahead += uint32(ticks)
			what = fmt.Sprintf("%d ticks", ticks)
		default:
			what = w.send(t, step)
		}
		if t.Failed() {
			t.Fatalf("step %d of seed %d: %s", step, seed, what)
		}
	}
	w.compareTables(t)
}

func newModelWorld(t *testing.T, seed uint64) *modelWorld {
	w := &modelWorld{
		rig:    newRig(t, tableOf(8*flowBuckets, spillBuckets)), // so large that nothing is evicted
		random: rand.New(rand.NewPCG(seed, 0)),
	}
	w.model = model{
		services: map[modelTuple]*modelService{}, flows: map[modelTuple]modelFlow{}, generations: map[uint32]uint32{},
		markOf: func(t modelTuple) uint32 { return w.hashOf(t.client, t.service, t.protocol).tag % marks },
		marks:  map[uint32]bool{},
	}
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
			for range 6 {
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

// send lets a packet of any flow go through both and compares.
func (w *modelWorld) send(t *testing.T, step int) string {
	tuple := w.tuples[w.random.IntN(len(w.tuples))]
	p := modelPacket{modelTuple: tuple, state: stateUDP}
	if tuple.protocol == unix.IPPROTO_TCP {
		p.state = []xdplbFlowState{stateSYN, stateSYN, stateEstablished, stateEstablished, stateEstablished, stateFIN, stateClosed}[w.random.IntN(7)]
	}
	before := w.reasons()
	now := nowTicks(t) + w.ahead
	if flow, ok := w.model.flows[tuple]; ok && flow.isUncertain(now) {
		return "too close to tell"
	}
	_, out := w.run(p.frame())
	got := w.countedSince(before)
	reason, backend := w.model.send(p, now)
	what := fmt.Sprintf("step %d: %v, state %d", step, p.modelTuple, p.state)
	if got != reason {
		t.Errorf("%s: reason %s, the model says %s", what, nameOf(got), nameOf(reason))
	} else if want := realMAC(int(backend) - 100); reason == isTX && macAddr(out[:6]) != want {
		t.Errorf("%s: to %x, the model says %x", what, out[:6], want)
	}
	return what
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
	if got := w.evictions(); got[xdplbEvictionEVICTION_ESTABLISHED]+got[xdplbEvictionEVICTION_EMBRYONIC] != 0 {
		t.Errorf("evictions %v: the model knows of none", got)
	}
}
