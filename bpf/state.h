/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What becomes of a flow with each packet. These are LVS's states of connections of which it sees
 * the client's half alone (tcp_states and sctp_states, "INPUT-ONLY", in the kernel's
 * ip_vs_proto_tcp.c and ip_vs_proto_sctp.c), as far as they are reached from a SYN and an INIT.
 *
 * Three things differ from LVS. A SYN or INIT on a flow that is over opens another flow, also
 * behind a FIN (LVS: conn_reuse_mode bits 1 and 2). A TCP packet without SYN, FIN, RST and ACK ends
 * nothing: it passes for an ACK, as a SYN with ACK does but for FTP's data. And a flow that is found
 * in its middle, because mh or a flood had left it unrecorded, has the state of a SYN (SCTP: NONE)
 * until the next packet.
 */
#ifndef XDPLB_STATE_H
#define XDPLB_STATE_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

#define GOES(from, to) ((__u64)(to) << 4 * (from))

/* By event, for each state four bits: the next state. 0: it stays. */
static const __u64 next_states[32] = {
	[FLOW_UDP] = GOES(FLOW_DATAGRAM, FLOW_UDP),
	[FLOW_ESTABLISHED] = GOES(FLOW_SYN, FLOW_ESTABLISHED),
	[FLOW_FIN] = GOES(FLOW_SYN, FLOW_TIME_WAIT) | GOES(FLOW_ESTABLISHED, FLOW_FIN),
	[FLOW_CLOSED] = GOES(FLOW_ESTABLISHED, FLOW_CLOSED) | GOES(FLOW_FIN, FLOW_CLOSED) |
			GOES(FLOW_TIME_WAIT, FLOW_CLOSED),
	[FLOW_INIT] = GOES(FLOW_SCTP_NONE, FLOW_INIT1) | GOES(FLOW_INIT1, FLOW_INIT),
	[FLOW_SCTP_ESTABLISHED] = GOES(FLOW_SCTP_NONE, FLOW_SCTP_ESTABLISHED),
	[FLOW_COOKIE_ECHOED] = GOES(FLOW_SCTP_NONE, FLOW_COOKIE_ECHOED) |
			       GOES(FLOW_INIT1, FLOW_COOKIE_ECHOED) |
			       GOES(FLOW_INIT, FLOW_COOKIE_ECHOED),
	[FLOW_SHUTDOWN_RECEIVED] = GOES(FLOW_SCTP_NONE, FLOW_SHUTDOWN_RECEIVED) |
				   GOES(FLOW_SCTP_ESTABLISHED, FLOW_SHUTDOWN_RECEIVED),
	[FLOW_SCTP_CLOSED] =
		GOES(FLOW_SCTP_NONE, FLOW_SCTP_CLOSED) | GOES(FLOW_INIT1, FLOW_SCTP_CLOSED) |
		GOES(FLOW_INIT, FLOW_SCTP_CLOSED) | GOES(FLOW_COOKIE_ECHOED, FLOW_SCTP_CLOSED) |
		GOES(FLOW_SCTP_ESTABLISHED, FLOW_SCTP_CLOSED) |
		GOES(FLOW_SHUTDOWN_RECEIVED, FLOW_SCTP_CLOSED),
	[EVENT_COOKIE_ECHO] = GOES(FLOW_SCTP_NONE, FLOW_SCTP_ESTABLISHED) |
			      GOES(FLOW_INIT1, FLOW_SCTP_ESTABLISHED) |
			      GOES(FLOW_INIT, FLOW_SCTP_ESTABLISHED),
	[EVENT_COOKIE_ACK] = GOES(FLOW_SCTP_NONE, FLOW_SCTP_ESTABLISHED) |
			     GOES(FLOW_COOKIE_ECHOED, FLOW_SCTP_ESTABLISHED),
	[EVENT_SHUTDOWN_ACK] = GOES(FLOW_SCTP_NONE, FLOW_SCTP_CLOSED) |
			       GOES(FLOW_INIT1, FLOW_INIT) |
			       GOES(FLOW_SCTP_ESTABLISHED, FLOW_SCTP_CLOSED),
	[EVENT_SHUTDOWN_COMPLETE] =
		GOES(FLOW_SCTP_NONE, FLOW_SCTP_CLOSED) | GOES(FLOW_INIT1, FLOW_SCTP_CLOSED) |
		GOES(FLOW_INIT, FLOW_SCTP_CLOSED) | GOES(FLOW_SHUTDOWN_RECEIVED, FLOW_SCTP_CLOSED),
};

/* What a flow in some state is after a packet. */
static __always_inline __u32 next_state(__u32 state, __u32 event)
{
	__u32 next;

	barrier_var(event); /* or the bound is left out that kernels before 6.8 must see here */
	next = next_states[event % 32] >> 4 * state & 15;
	return next ? next : state;
}

#define AMONG(state, states) ((states) >> (state) & 1)
#define BIT(state) (1U << (state))

/* Whether the packet may be a flow's first: a SYN, an INIT, a datagram. */
static __always_inline bool is_first(__u32 event)
{
	return event <= FLOW_INIT;
}

/* Whether it asks for a connection: a SYN or an INIT, in one comparison. */
static __always_inline bool is_opening(__u32 event)
{
	return event - FLOW_SYN <= FLOW_INIT - FLOW_SYN;
}

/* A state: what LVS calls an active connection. An event: a packet from a connection's middle. */
static __always_inline bool is_established(__u32 state)
{
	return state == FLOW_ESTABLISHED || state == FLOW_SCTP_ESTABLISHED;
}

static __always_inline bool is_datagram(__u32 state)
{
	return state <= FLOW_UDP;
}

#define TCP_EVENTS (BIT(FLOW_SYN) | BIT(FLOW_ESTABLISHED) | BIT(FLOW_FIN) | BIT(FLOW_CLOSED))

static __always_inline __u32 state_of(struct entry entry)
{
	return entry.status & STATUS_STATE;
}

/* Whether the connection has ended, as far as the client says. */
static __always_inline bool is_over(struct entry entry)
{
	return AMONG(state_of(entry), BIT(FLOW_FIN) | BIT(FLOW_TIME_WAIT) | BIT(FLOW_CLOSED) |
					      BIT(FLOW_SCTP_CLOSED));
}

/* Whether a first packet is all that was seen of it: anybody can send that in another's name. */
static __always_inline bool is_embryonic(struct entry entry)
{
	return AMONG(state_of(entry), BIT(FLOW_SYN) | BIT(FLOW_DATAGRAM) | BIT(FLOW_INIT1) |
					      BIT(FLOW_INIT) | BIT(FLOW_SCTP_NONE));
}

/*
 * What a flow is recorded as. opens: the packet may be a connection's first; one from the middle of
 * a connection that is not known is not believed before the next.
 */
static __always_inline __u32 first_state(__u32 event, bool opens)
{
	if (event == FLOW_UDP)
		return FLOW_DATAGRAM;
	if (AMONG(event, TCP_EVENTS))
		return opens ? event : FLOW_SYN;
	return opens ? next_state(FLOW_SCTP_NONE, event) : FLOW_SCTP_NONE;
}

#endif
