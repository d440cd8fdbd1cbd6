// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"time"

	"xdplb/internal/lb"
)

// ConnectionState is what a flow has come to, as far as the client's packets show it, by LVS's name (kernel:
// tcp_state_name_table, sctp_state_name_table and their like).
type ConnectionState string

// The states. Which one follows which is told in bpf/state.h.
const (
	StateSYN              ConnectionState = "SYN_RECV"    // TCP: a SYN and nothing after it
	StateEstablished      ConnectionState = "ESTABLISHED" // TCP, SCTP
	StateFIN              ConnectionState = "FIN_WAIT"    // TCP: the client has closed its half
	StateTimeWait         ConnectionState = "TIME_WAIT"   // TCP: it did so right behind its SYN
	StateClosed           ConnectionState = "CLOSE"       // TCP: the client has reset it
	StateUDP              ConnectionState = "UDP"
	StateNone             ConnectionState = "NONE"       // SCTP: one packet from an association's middle
	StateInit1            ConnectionState = "INIT1"      // SCTP: one INIT and nothing after it
	StateInit             ConnectionState = "INIT"       // SCTP: more than one
	StateCookieEchoed     ConnectionState = "C-ECHOED"   // SCTP: the client answers an INIT
	StateShutdownReceived ConnectionState = "S-RECEIVED" // SCTP: the client shuts the association down
	StateSCTPClosed       ConnectionState = "CLOSED"     // SCTP
)

// ConnectionStates are all states, those of TCP first.
func ConnectionStates() []ConnectionState {
	return []ConnectionState{
		StateSYN, StateEstablished, StateFIN, StateTimeWait, StateClosed, StateUDP,
		StateNone, StateInit1, StateInit, StateCookieEchoed, StateShutdownReceived, StateSCTPClosed,
	}
}

func stateOf(entry xdplbEntry) ConnectionState {
	switch entry.state() {
	case xdplbFlowStateFLOW_SYN:
		return StateSYN
	case xdplbFlowStateFLOW_ESTABLISHED, xdplbFlowStateFLOW_SCTP_ESTABLISHED:
		return StateEstablished
	case xdplbFlowStateFLOW_FIN:
		return StateFIN
	case xdplbFlowStateFLOW_TIME_WAIT:
		return StateTimeWait
	case xdplbFlowStateFLOW_CLOSED:
		return StateClosed
	case xdplbFlowStateFLOW_SCTP_NONE:
		return StateNone
	case xdplbFlowStateFLOW_INIT1:
		return StateInit1
	case xdplbFlowStateFLOW_INIT:
		return StateInit
	case xdplbFlowStateFLOW_COOKIE_ECHOED:
		return StateCookieEchoed
	case xdplbFlowStateFLOW_SHUTDOWN_RECEIVED:
		return StateShutdownReceived
	case xdplbFlowStateFLOW_SCTP_CLOSED:
		return StateSCTPClosed
	default:
		return StateUDP
	}
}

// flowState is the reverse of stateOf. A state that the protocol has not is that of one packet.
func (s ConnectionState) flowState(protocol lb.Protocol) xdplbFlowState {
	first, states := xdplbFlowStateFLOW_SYN, []xdplbFlowState{
		xdplbFlowStateFLOW_ESTABLISHED, xdplbFlowStateFLOW_FIN, xdplbFlowStateFLOW_TIME_WAIT, xdplbFlowStateFLOW_CLOSED,
	}
	switch protocol {
	case lb.UDP:
		return xdplbFlowStateFLOW_UDP
	case lb.SCTP:
		first, states = xdplbFlowStateFLOW_SCTP_NONE, []xdplbFlowState{
			xdplbFlowStateFLOW_INIT1, xdplbFlowStateFLOW_INIT, xdplbFlowStateFLOW_COOKIE_ECHOED,
			xdplbFlowStateFLOW_SCTP_ESTABLISHED, xdplbFlowStateFLOW_SHUTDOWN_RECEIVED, xdplbFlowStateFLOW_SCTP_CLOSED,
		}
	}
	for _, state := range states {
		if stateOf(newEntry(0, state, 0, 0)) == s {
			return state
		}
	}
	return first
}

// Timeout is how long a connection of a protocol may be idle in this state, where timeouts are set.
func (s ConnectionState) Timeout(protocol lb.Protocol, set lb.Timeouts) time.Duration {
	return time.Duration(timeoutOf(s.flowState(protocol), set.OrDefault())) << tickShift
}
