// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"

	"xdplb/internal/lb"
)

// lvsDest is a real server as LVS's schedulers see it.
type lvsDest struct {
	id               uint32
	weight           int64
	active, inactive int64
}

func (d *lvsDest) overhead() int64 { return d.active*256 + d.inactive }

// lvsService is LVS's schedulers in plain Go, after net/netfilter/ipvs/ip_vs_<name>.c of Linux 6.1: a list of real servers
// that is gone through for each connection. It has one destination, whose entry in the caches of lblc and lblcr is here.
type lvsService struct {
	scheduler lb.Scheduler
	dests     []*lvsDest
	position  int        // rr, wrr: index of the last choice
	threshold int64      // wrr
	cached    []*lvsDest // lblc, lblcr: the last to join first; nil: no entry
	used      int64      // ticks, of the entry
	changed   int64
}

// day is how long an entry lives without use, and a set without change (DEFAULT_EXPIRATION), in ticks.
const day = 24 * 3600 * int64(1e9) >> tickShift

// least is the first of those with the least cost in proportion to its weight; nil: none has a weight.
func least(dests []*lvsDest, cost func(*lvsDest) int64) (found *lvsDest) {
	for _, d := range dests {
		switch {
		case d.weight == 0:
		case found == nil, cost(found)*d.weight > cost(d)*found.weight:
			found = d
		}
	}
	return found
}

func delay(d *lvsDest) int64 { return d.active + 1 }

// schedule chooses for a new connection; nil: none. pair are the two that twos draws.
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
			if d.weight > 0 && d.active == 0 {
				return d
			}
		}
		return least(s.dests, delay)
	case lb.FO:
		return s.greatest(func(*lvsDest) bool { return true })
	case lb.OVF:
		return s.greatest(func(d *lvsDest) bool { return d.active <= d.weight })
	case lb.TWOS:
		if pair[1].overhead()*pair[0].weight < pair[0].overhead()*pair[1].weight {
			return pair[1]
		}
		return pair[0]
	default:
		return s.cachedChoice(now)
	}
}

func (s *lvsService) roundRobin() *lvsDest {
	for range s.dests {
		s.position = (s.position + 1) % len(s.dests)
		if d := s.dests[s.position]; d.weight > 0 {
			return d
		}
	}
	return nil
}

func (s *lvsService) weightedRoundRobin() *lvsDest {
	largest, divisor := int64(0), int64(0)
	for _, d := range s.dests {
		largest = max(largest, d.weight)
		for a, b := divisor, d.weight; ; a, b = b, a%b {
			if divisor = a; b == 0 {
				break
			}
		}
	}
	if largest == 0 {
		return nil
	}
	for {
		s.position++
		if s.position == len(s.dests) {
			s.position = 0
			s.threshold -= divisor
		}
		if s.threshold <= 0 {
			s.threshold = largest
		}
		if s.dests[s.position].weight >= s.threshold {
			return s.dests[s.position]
		}
	}
}

func (s *lvsService) leastConnections() (found *lvsDest) {
	for _, d := range s.dests {
		if d.weight > 0 && (found == nil || d.overhead() < found.overhead()) {
			found = d
		}
	}
	return found
}

// greatest is the first of those with the greatest weight that fit.
func (s *lvsService) greatest(fits func(*lvsDest) bool) (found *lvsDest) {
	for _, d := range s.dests {
		if d.weight > 0 && fits(d) && (found == nil || d.weight > found.weight) {
			found = d
		}
	}
	return found
}

// cachedChoice is that of lblc and lblcr. Unlike in LVS a real server of weight 0 does not count for the size of a set.
func (s *lvsService) cachedChoice(now int64) *lvsDest {
	if now-s.used > day {
		s.cached = nil
	}
	s.used = now
	present := slices.DeleteFunc(slices.Clone(s.cached), func(d *lvsDest) bool { return d.weight == 0 })
	known := least(present, (*lvsDest).overhead)
	if s.scheduler == lb.LBLCR && len(present) > 1 && now-s.changed > day {
		most := present[0]
		for _, d := range present {
			if most.overhead()*d.weight < d.overhead()*most.weight {
				most = d
			}
		}
		s.drop(most)
		s.changed = now
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
		s.changed = now
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
