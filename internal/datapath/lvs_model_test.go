// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"xdplb/internal/lb"
)

// lvsDest is a real server as LVS's schedulers see it.
type lvsDest struct {
	id               uint32
	weight           int64
	active, inactive int64

	upper, lower int64
	overloaded   bool // IP_VS_DEST_F_OVERLOAD
}

// takes says whether the schedulers look at it.
func (d *lvsDest) takes() bool { return d.weight > 0 && !d.overloaded }

// bind and unbind count a connection that comes or goes, as ip_vs_bind_dest and ip_vs_unbind_dest do.
func (d *lvsDest) bind(flow *lvsFlow) {
	d.add(flow, 1)
	if d.upper != 0 && d.active+d.inactive >= d.upper {
		d.overloaded = true
	}
}

func (d *lvsDest) unbind(flow *lvsFlow) {
	d.add(flow, -1)
	d.overloaded = d.overloaded && d.isStillOverloaded()
}

// isStillOverloaded says whether one that was overloaded remains so.
func (d *lvsDest) isStillOverloaded() bool {
	total := d.active + d.inactive
	switch {
	case d.lower != 0:
		return total >= d.lower
	case d.upper != 0:
		return total*4 >= d.upper*3
	}
	return false
}

func (d *lvsDest) add(flow *lvsFlow, n int64) {
	if flow.active {
		d.active += n
	} else {
		d.inactive += n
	}
}

func (d *lvsDest) overhead() int64 { return d.active*256 + d.inactive }

// lvsService is LVS's schedulers in plain Go, after net/netfilter/ipvs/ip_vs_<name>.c of Linux 6.1: a list of real servers
// that is gone through for each connection. It has one destination, whose entry in the caches of lblc and lblcr is here.
type lvsService struct {
	scheduler lb.Scheduler
	vip       netip.Addr
	dests     []*lvsDest
	position  int        // rr, wrr: index of the last choice; -1: the list's head
	threshold int64      // wrr: the least weight that takes the next; 0: not known
	divisor   int64      // wrr: the greatest of all weights, or 1
	highest   int64      // wrr: where the threshold begins; 0: no weights
	cached    []*lvsDest // lblc, lblcr: the last to join first; nil: no entry
	used      int64      // ticks, of the entry
	joined    int64      // when the set grew or shrank last
}

// day is how long an entry lives without use, and a set without change (DEFAULT_EXPIRATION), in ticks.
const day = 24 * 3600 * int64(1e9) >> tickShift

// least is the first of those with the least cost in proportion to its weight; nil: none takes connections.
func least(dests []*lvsDest, cost func(*lvsDest) int64) (found *lvsDest) {
	for _, d := range dests {
		switch {
		case !d.takes():
		case found == nil, cost(found)*d.weight > cost(d)*found.weight:
			found = d
		}
	}
	return found
}

func delay(d *lvsDest) int64 { return d.active + 1 }

// add puts a real server at the head of the list, as ipvsadm -a does.
func (s *lvsService) add(d *lvsDest) {
	s.dests = slices.Insert(s.dests, 0, d)
	s.changed()
}

// setWeight is ipvsadm -e.
func (s *lvsService) setWeight(d *lvsDest, weight int64) {
	d.weight = weight
	s.changed()
}

// changed is for wrr: it begins at the list's head again, but with the threshold that it had, if that is one still.
func (s *lvsService) changed() {
	if s.scheduler != lb.WRR {
		return
	}
	largest, divisor := int64(0), int64(0)
	for _, d := range s.dests {
		largest = max(largest, d.weight)
		for a, b := divisor, d.weight; ; a, b = b, a%b {
			if divisor = a; b == 0 {
				break
			}
		}
	}
	s.position, s.divisor = -1, max(divisor, 1)
	s.highest = largest - s.divisor + 1
	switch {
	case s.threshold == 0, s.threshold > s.highest:
		s.threshold = s.highest
	case s.divisor > 1:
		s.threshold = s.threshold/s.divisor*s.divisor + 1
	}
}

// clone can schedule ahead, as if no threshold was reached, but for those that look at loads.
func (s *lvsService) clone() *lvsService {
	c := *s
	c.dests = nil
	for _, d := range s.dests {
		unlimited := *d
		unlimited.overloaded = false
		c.dests = append(c.dests, &unlimited)
	}
	return &c
}

// schedule chooses for a new connection; nil: none. pair are the two that twos draws, and the first is the one whose slot
// the client has under sh and mh, without a flag.
func (s *lvsService) schedule(now int64, pair [2]*lvsDest) *lvsDest {
	switch s.scheduler {
	case lb.RR:
		return s.roundRobin()
	case lb.WRR:
		return s.weightedRoundRobin()
	case lb.LC:
		return s.leastConnections()
	case lb.WLC:
		return least(s.dests, (*lvsDest).overhead)
	case lb.SED:
		return least(s.dests, delay)
	case lb.NQ:
		for _, d := range s.dests {
			if d.takes() && d.active == 0 {
				return d
			}
		}
		return least(s.dests, delay)
	case lb.FO:
		return s.greatest(func(*lvsDest) bool { return true })
	case lb.OVF:
		return s.greatest(func(d *lvsDest) bool { return d.active <= d.weight })
	case lb.TWOS:
		if pair[0] == nil {
			return nil
		}
		if pair[1].overhead()*pair[0].weight < pair[0].overhead()*pair[1].weight {
			return pair[1]
		}
		return pair[0]
	case lb.SH, lb.MH:
		if pair[0].overloaded {
			return nil
		}
		return pair[0]
	case lb.DH:
		return s.destinationHash()
	default:
		return s.cachedChoice(now)
	}
}

func (s *lvsService) roundRobin() *lvsDest {
	for i := range s.dests {
		next := (s.position + 1 + i) % len(s.dests)
		if d := s.dests[next]; d.takes() {
			s.position = next
			return d
		}
	}
	return nil
}

func (s *lvsService) weightedRoundRobin() *lvsDest {
	if s.highest == 0 {
		return nil
	}
	if !slices.ContainsFunc(s.dests, (*lvsDest).takes) {
		s.giveUp()
		return nil
	}
	for {
		s.position++
		if s.position == len(s.dests) {
			s.position = 0
			if s.threshold -= s.divisor; s.threshold <= 0 {
				s.threshold = s.highest
			}
		}
		if d := s.dests[s.position]; d.weight >= s.threshold && !d.overloaded {
			return d
		}
	}
}

// giveUp is for wrr when all are full: it begins anew, unless its last round in the cycle is under way.
func (s *lvsService) giveUp() {
	if s.position < 0 || s.threshold > s.divisor {
		s.position, s.threshold = -1, s.highest
	}
}

// destinationHash looks the VIP up among 256 buckets, which all real servers share in turn; that of weight 0 takes none.
func (s *lvsService) destinationHash() *lvsDest {
	var buckets [256]*lvsDest
	for i := range buckets {
		buckets[i] = s.dests[i%len(s.dests)]
	}
	const golden = 0x61c88647 // hash_32 of the kernel
	product := binary.BigEndian.Uint32(s.vip.AsSlice()) * golden
	if d := buckets[product>>24]; d.takes() {
		return d
	}
	return nil
}

func (s *lvsService) leastConnections() (found *lvsDest) {
	for _, d := range s.dests {
		if d.takes() && (found == nil || d.overhead() < found.overhead()) {
			found = d
		}
	}
	return found
}

// greatest is the first of those with the greatest weight that fit.
func (s *lvsService) greatest(fits func(*lvsDest) bool) (found *lvsDest) {
	for _, d := range s.dests {
		if d.takes() && fits(d) && (found == nil || d.weight > found.weight) {
			found = d
		}
	}
	return found
}

// cachedChoice is that of lblc and lblcr. Unlike in LVS a real server of weight 0 does not count for the size of a set, and
// an overloaded one gets no connections from lblc either.
func (s *lvsService) cachedChoice(now int64) *lvsDest {
	if now-s.used > day {
		s.cached = nil
	}
	s.used = now
	present := slices.DeleteFunc(slices.Clone(s.cached), func(d *lvsDest) bool { return d.weight == 0 })
	known := least(present, (*lvsDest).overhead)
	if s.scheduler == lb.LBLCR && len(present) > 1 && now-s.joined > day {
		most := present[0]
		for _, d := range present {
			if most.overhead()*d.weight < d.overhead()*most.weight {
				most = d
			}
		}
		s.drop(most)
		s.joined = now
	}
	if known != nil && !s.isOverloaded(known) {
		return known
	}
	chosen := least(s.dests, (*lvsDest).overhead)
	switch {
	case chosen == nil:
	case s.scheduler == lb.LBLC:
		s.cached = []*lvsDest{chosen}
	case !slices.Contains(s.cached, chosen):
		s.cached = slices.Insert(s.cached, 0, chosen)
		s.joined = now
	}
	return chosen
}

func (s *lvsService) drop(gone *lvsDest) {
	s.cached = slices.DeleteFunc(s.cached, func(d *lvsDest) bool { return d == gone })
}

func (s *lvsService) isOverloaded(d *lvsDest) bool {
	return d.active > d.weight && slices.ContainsFunc(s.dests, func(other *lvsDest) bool {
		return other.active*2 < other.weight
	})
}
