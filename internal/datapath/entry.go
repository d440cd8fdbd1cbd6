// SPDX-License-Identifier: Apache-2.0

package datapath

import "unsafe"

// Of a target, as target.h has it: the backend's id, and above it the lower bits of its generation.
const (
	targetIDBits = 24
	targetID     = 1<<targetIDBits - 1
)

func targetOf(id, generation uint32) uint32 { return id | generation<<targetIDBits }

// Of the status of an entry, as types.h has it. A bucket's head has its tick in the same place.
const (
	statusState   = uint32(xdplbStatusSTATUS_STATE)
	statusCounted = uint32(xdplbStatusSTATUS_COUNTED)
	statusCheck   = uint32(xdplbStatusSTATUS_CHECK)
	seenShift     = int(xdplbStatusSTATUS_SEEN_SHIFT)
	seenMask      = 1<<(32-seenShift) - 1
)

// ageOf is age_of of flow.h: ticks since a status was last seen, and one, since a packet may have been seen a tick after the
// clock was read.
func ageOf(status, now uint32) uint32 { return (now - status>>seenShift + 1) & seenMask }

// newEntry is the entry of a flow that was last seen in a tick. check may say that it is counted.
func newEntry(target uint32, state xdplbFlowState, check, seen uint32) xdplbEntry {
	return xdplbEntry{Target: target, Status: uint32(state) | check | seen<<seenShift}
}

func (e xdplbEntry) backend() uint32 { return e.Target & targetID }

func (e xdplbEntry) state() xdplbFlowState { return xdplbFlowState(e.Status & statusState) }

func (e xdplbEntry) isCounted() bool { return e.Status&statusCounted != 0 }

func (e xdplbEntry) word() (word uint64) {
	*(*xdplbEntry)(unsafe.Pointer(&word)) = e
	return word
}

// isEstablished says whether LVS counts the flow as an active connection (is_established in bpf/state.h).
func (e xdplbEntry) isEstablished() bool {
	return e.state() == xdplbFlowStateFLOW_ESTABLISHED || e.state() == xdplbFlowStateFLOW_SCTP_ESTABLISHED
}

// isOver is is_over of bpf/state.h.
func (e xdplbEntry) isOver() bool {
	switch e.state() {
	case xdplbFlowStateFLOW_FIN, xdplbFlowStateFLOW_TIME_WAIT, xdplbFlowStateFLOW_CLOSED, xdplbFlowStateFLOW_SCTP_CLOSED:
		return true
	}
	return false
}

// isEmbryonic is is_embryonic of bpf/state.h.
func (e xdplbEntry) isEmbryonic() bool {
	switch e.state() {
	case xdplbFlowStateFLOW_SYN, xdplbFlowStateFLOW_DATAGRAM, xdplbFlowStateFLOW_INIT1, xdplbFlowStateFLOW_INIT,
		xdplbFlowStateFLOW_SCTP_NONE:
		return true
	}
	return false
}
