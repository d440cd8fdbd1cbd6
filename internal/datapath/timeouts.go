// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"
	"time"

	"xdplb/internal/lb"
)

// newTimeouts is what packets are told of how long flows may be idle.
func newTimeouts(of lb.Timeouts) xdplbTimeouts {
	of = of.OrDefault()
	t := xdplbTimeouts{
		Tcp: uint32(of.TCP / time.Second), TcpFin: uint32(of.TCPFin / time.Second), Udp: uint32(of.UDP / time.Second),
	}
	for state := range t.Ticks {
		t.Ticks[state] = uint32(timeoutOf(xdplbFlowState(state), of))
	}
	t.Ticks[0] = 0 // of no state
	t.Ticks[0] = slices.Max(t.Ticks[:])
	return t
}

// timeoutOf is the timeout of a state, in ticks.
func timeoutOf(state xdplbFlowState, set lb.Timeouts) xdplbTimeout {
	switch state {
	case xdplbFlowStateFLOW_ESTABLISHED:
		return inTicks(set.TCP)
	case xdplbFlowStateFLOW_FIN:
		return inTicks(set.TCPFin)
	case xdplbFlowStateFLOW_DATAGRAM, xdplbFlowStateFLOW_UDP:
		return inTicks(set.UDP)
	case xdplbFlowStateFLOW_SYN:
		return xdplbTimeoutTIMEOUT_SYN
	case xdplbFlowStateFLOW_TIME_WAIT:
		return xdplbTimeoutTIMEOUT_TIME_WAIT
	case xdplbFlowStateFLOW_CLOSED:
		return xdplbTimeoutTIMEOUT_CLOSED
	case xdplbFlowStateFLOW_INIT1:
		return xdplbTimeoutTIMEOUT_INIT1
	case xdplbFlowStateFLOW_SCTP_ESTABLISHED:
		return xdplbTimeoutTIMEOUT_ESTABLISHED
	case xdplbFlowStateFLOW_FRAGMENT:
		return xdplbTimeoutTIMEOUT_FRAGMENT
	default:
		return xdplbTimeoutTIMEOUT_SCTP
	}
}

// inTicks rounds up.
func inTicks(d time.Duration) xdplbTimeout {
	return xdplbTimeout((d + Tick - 1) / Tick)
}

// state reads them back; those that are LVS's default are zero.
func (t *xdplbTimeouts) state() lb.Timeouts {
	seconds := func(n uint32) time.Duration { return time.Duration(n) * time.Second }
	return lb.Timeouts{TCP: seconds(t.Tcp), TCPFin: seconds(t.TcpFin), UDP: seconds(t.Udp)}.WithoutDefaults()
}

// settling is how long flows without an entry may come up, in ticks (succession.go).
func (t *xdplbTimeouts) settling() uint32 { return t.Ticks[0] + 1 }
