// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"
	"sync/atomic"

	"xdplb/internal/lb"
)

// The limits of the backends stand twice: in the cold columns of each side, and as a word that packets look at, and in
// which they note that a limit was reached (bpf/limit.h). The words of a live side are brought up to date when the side
// is published; who dies before that leaves it to the next writer.

// limitReached is the bit that packets set.
const limitReached = uint64(xdplbLimitBitLIMIT_REACHED)

// limitOf is a word whose limit was not reached.
func limitOf(upper, lower uint32) uint64 { return uint64(upper) | uint64(lower)<<32 }

// isLimited says whether a backend has a limit.
func isLimited(s *lb.Service) bool {
	return slices.ContainsFunc(s.Backends, func(b lb.Backend) bool { return b.Upper != 0 })
}

// nextLimit is the word that replaces another, of a backend with so many flows. As in LVS a limit that was reached was not
// if it is raised. Nor was it if nobody has looked at the backend since it got below its old lower threshold.
func nextLimit(was uint64, flows int64, upper, lower uint32) uint64 {
	next, before := limitOf(upper, lower), was&^limitReached
	if upper != 0 && upper <= uint32(before) && !isBelow(flows, uint32(before), uint32(before>>32)) {
		next |= was & limitReached
	}
	return next
}

// isBelow says whether a backend that had reached its limit takes new flows again.
func isBelow(flows int64, upper, lower uint32) bool {
	if lower != 0 {
		return flows < int64(lower)
	}
	return flows*4 < int64(upper)*3
}

// staleLimits lists the backends of the live side whose words say something else than their columns.
func (d *Datapath) staleLimits(epoch uint64) (list []uint32) {
	for id, columns := range d.info.side(side(epoch)) {
		if columns.Family != 0 && d.limits.load(id)&^limitReached != limitOf(columns.Upper, columns.Lower) {
			list = append(list, uint32(id))
		}
	}
	return list
}

// limit brings the words up to date.
func (l *leftover) limit() error {
	info := l.d.info.side(side(l.epoch))
	for _, id := range l.limits {
		for word, columns := l.d.limits.at(int(id)), &info[id]; ; {
			was := atomic.LoadUint64(word)
			active, inactive := splitLoad(atomic.LoadUint64(l.d.loadWord(id)))
			if atomic.CompareAndSwapUint64(word, was, nextLimit(was, active+inactive, columns.Upper, columns.Lower)) {
				break
			}
		}
	}
	return nil
}
