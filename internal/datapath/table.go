// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"

	"xdplb/internal/lb"
	"xdplb/internal/schedule"
)

// candidate is a backend that is in its service's lookup table.
type candidate struct {
	id     uint32
	addr   netip.Addr
	weight uint32 // as far as the scheduler looks at it: 1 for rr
}

// candidates lists them by address.
func candidates(s *service) []candidate {
	list := make([]candidate, 0, len(s.backends))
	for _, b := range s.backends {
		c := candidate{b.id, b.Addr, b.Weight}
		switch scheduler := lb.Scheduler(s.Scheduler); {
		case !b.listed && s.leavesGaps():
			c.weight = 0
		case !b.listed:
			continue
		case scheduler == lb.RR || scheduler == lb.LC:
			c.weight = 1
		}
		list = append(list, c)
	}
	return list
}

// leavesGaps says whether backends that take no flows have slots all the same, as they have in LVS. dh refuses those who
// hash to one, sh takes another for them.
func (s *service) leavesGaps() bool {
	scheduler := lb.Scheduler(s.Scheduler)
	return scheduler == lb.DH || scheduler == lb.SH
}

// onePacket is the flag of a service that schedules each datagram by itself, beside those of its scheduler.
const onePacket = uint8(xdplbSchedulerFlagFLAG_ONE_PACKET)

// serviceFlags are what packets see of a service's options.
func serviceFlags(s *lb.Service) uint8 {
	flags := uint8(s.Flags)
	if s.OnePacket {
		flags |= onePacket
	}
	if s.OnRemoval == lb.Keep {
		flags |= keepRemoved
	}
	return flags
}

// looksAtLoads says whether a scheduler chooses by the number of flows that each backend has.
func looksAtLoads(scheduler lb.Scheduler) bool {
	switch scheduler {
	case lb.LC, lb.WLC, lb.LBLC, lb.LBLCR, lb.SED, lb.NQ, lb.OVF, lb.TWOS:
		return true
	}
	return false
}

// shapes remembers lookup tables as indexes into the candidates: services on the same real servers (ports 80 and 443)
// differ in the ids alone, and Maglev tables take up to some milliseconds.
type shapes map[string]func() ([]int, error)

// shape is that of a service whose slots are not Maglev's, and for twos what it draws from.
func (s shapes) shape(of *service, list []candidate) ([]int, error) {
	scheduler := lb.Scheduler(of.Scheduler)
	key := []byte{byte(scheduler), of.Flags}
	if scheduler == lb.DH {
		key = append(key, of.Address[:]...)
	}
	weights := weightsOf(list)
	for _, weight := range weights {
		key = binary.NativeEndian.AppendUint32(key, weight)
	}
	return s.remember(key, func() ([]int, error) { return newShape(of, weights) })()
}

// maglev is a Maglev table for who wants it later, perhaps on several CPUs.
func (s shapes) maglev(list []candidate, slots uint32) func() ([]int, error) {
	key := binary.NativeEndian.AppendUint32([]byte{byte(lb.MH)}, slots)
	addrs, weights := make([]netip.Addr, len(list)), weightsOf(list)
	for i, c := range list {
		addrs[i] = c.addr
		address := c.addr.As16()
		key = append(binary.NativeEndian.AppendUint32(key, c.weight), address[:]...)
	}
	return s.remember(key, func() ([]int, error) { return schedule.Maglev(addrs, weights, int(slots)) })
}

// remember returns what builds the shape of a key, which does so once.
func (s shapes) remember(key []byte, build func() ([]int, error)) func() ([]int, error) {
	shape := s[string(key)]
	if shape == nil {
		shape = sync.OnceValues(build)
		s[string(key)] = shape
	}
	return shape
}

func weightsOf(list []candidate) []uint32 {
	weights := make([]uint32, len(list))
	for i, c := range list {
		weights[i] = c.weight
	}
	return weights
}

// newShape makes such a shape.
func newShape(of *service, weights []uint32) ([]int, error) {
	switch scheduler := lb.Scheduler(of.Scheduler); {
	case scheduler == lb.RR:
		return schedule.RoundRobin(weights), nil
	case scheduler == lb.WRR || scheduler == lb.TWOS:
		return schedule.Weighted(weights)
	case scheduler == lb.SH:
		return schedule.SourceHash(weights)
	case scheduler == lb.FO:
		return schedule.Failover(weights), nil
	case scheduler == lb.DH:
		return schedule.DestinationHash(of.key().Addr.Addr(), weights), nil
	default:
		return nil, fmt.Errorf("scheduler %s has no lookup table", scheduler)
	}
}

// takesTurns says whether a scheduler goes through its slots in turn. To a hash they are of no use: any change moves most.
func takesTurns(scheduler lb.Scheduler) bool { return scheduler == lb.RR || scheduler == lb.WRR }

// maglevSlots is how long a Maglev table a service's backends ask for; 0: it has none. That of mh may be longer (see
// succeed); that of others is for floods.
func (s *service) maglevSlots() uint32 {
	switch scheduler := lb.Scheduler(s.Scheduler); {
	case scheduler == lb.MH:
		return uint32(schedule.MaglevSlots(len(s.backends)))
	case takesTurns(scheduler) || looksAtLoads(scheduler):
		return uint32(schedule.FloodSlots(len(s.backends)))
	}
	return 0
}

// members lists who is chosen from by load, or by what their limits leave, as indexes into the candidates, in the order in
// which they are looked at.
func (s shapes) members(of *service, list []candidate) ([]int, error) {
	switch scheduler := lb.Scheduler(of.Scheduler); {
	case scheduler == lb.TWOS && of.Limited == 0:
		return s.shape(of, list) // two of these are drawn
	case scheduler == lb.OVF || scheduler == lb.FO:
		return schedule.Overflow(weightsOf(list)), nil
	}
	return schedule.RoundRobin(weightsOf(list)), nil // some may have weight 0: see leavesGaps
}

// table is a lookup table to be written.
type table struct {
	at    uint32
	slots uint32
	fill  func(slots []uint32) error
}
