/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flows: which backend a connection has. Nothing outside this file knows how they are kept.
 *
 * A TCP flow starts in a table of SYNs and moves to the table of flows with the client's first
 * packet that is no SYN, so that a flood of SYNs evicts only its own kind. UDP has no handshake and
 * starts in the table of flows.
 *
 * A flow names its backend together with the backend's generation. When a backend is removed its
 * generation rises and every flow of it is stale at once, without a sweep.
 */
#ifndef XDPLB_FLOW_H
#define XDPLB_FLOW_H

#include "maps.h"
#include "parse.h"

#define EEXIST 17

static __always_inline __u32 now_ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

/* A target is one word and changes under our eyes: load it once, whole. */
union target_word {
	struct target target;
	__u64 word;
};

static __always_inline union target_word load_target(const struct flow *flow)
{
	return (union target_word){ .word = *(const volatile __u64 *)&flow->target };
}

/* Whether the backend that the target names still lives the same life. */
static __always_inline bool is_current(struct target target)
{
	const struct backend *backend = bpf_map_lookup_elem(&backends, &target.backend);

	return backend && *(const volatile __u32 *)&backend->generation == target.generation;
}

static __always_inline bool is_opening(const struct packet *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

/* What this packet alone says of its flow. */
static __always_inline __u32 state_of(const struct packet *p, __u8 protocol)
{
	if (protocol == IPPROTO_UDP)
		return FLOW_UDP;
	if (p->tcp_flags & TCP_RST)
		return FLOW_CLOSED;
	if (is_opening(p))
		return FLOW_SYN;
	return p->tcp_flags & TCP_FIN ? FLOW_FIN : FLOW_ESTABLISHED;
}

static __always_inline __u32 timeout_of(__u32 state)
{
	switch (state) {
	case FLOW_SYN:
		return TIMEOUT_SYN;
	case FLOW_ESTABLISHED:
		return TIMEOUT_ESTABLISHED;
	case FLOW_FIN:
		return TIMEOUT_FIN;
	case FLOW_CLOSED:
		return TIMEOUT_CLOSED;
	case FLOW_UDP:
		return TIMEOUT_UDP;
	default:
		return TIMEOUT_FRAGMENT;
	}
}

/*
 * Signed: another CPU may have read the clock a tick later than we, and stored that before we look.
 */
static __always_inline bool is_expired(const struct flow *flow, __u32 now)
{
	return (__s32)(now - flow->seen) > (__s32)timeout_of(flow->state);
}

static __always_inline bool is_over(const struct flow *flow)
{
	return flow->state == FLOW_FIN || flow->state == FLOW_CLOSED;
}

/*
 * Whether the packet goes where its flow's entry says. An opening packet or a datagram does not
 * follow an expired entry, and an opening packet not one whose connection has ended (LVS:
 * conn_reuse_mode=1). Any other TCP packet does: no better place for it is known.
 */
static __always_inline bool follows(const struct packet *p, const struct flow *flow, __u32 now)
{
	if (!is_current(load_target(flow).target))
		return false;
	if (is_opening(p))
		return !is_over(flow) && !is_expired(flow, now);
	return flow->state != FLOW_UDP || !is_expired(flow, now);
}

/*
 * Keeps the entry alive. Writes only what changed: most packets of a flow leave its cache line
 * clean.
 */
static __always_inline void touch(struct flow *flow, __u32 state, __u32 now)
{
	if (flow->seen != now)
		flow->seen = now;
	if (state > flow->state) /* a connection only moves on: established, FIN, closed */
		flow->state = state;
}

/*
 * Stores a newly scheduled flow. Where another CPU has just stored the same flow, its choice holds
 * and target becomes that: all packets of a connection reach one backend. Returns whether target is
 * still the caller's choice, or a negative errno.
 */
static __always_inline int record(void *table, const void *key, union target_word *target,
				  __u32 state, __u32 now)
{
	struct flow fresh = { .target = target->target, .seen = now, .state = state };
	struct flow *flow;
	union target_word there;
	int err; /* not long: before Linux 6.4 the upper half of what the helper returns is not set */

	err = bpf_map_update_elem(table, key, &fresh, BPF_NOEXIST);
	if (!err)
		return true;
	if (err != -EEXIST)
		return err;
	flow = bpf_map_lookup_elem(table, key);
	if (!flow)
		return -EEXIST; /* evicted between the two calls */
	there = load_target(flow);
	if (!is_expired(flow, now) && !is_over(flow) && is_current(there.target)) {
		*target = there;
		return false;
	}
	/* left over from an earlier connection, or from a removed backend */
	if (__sync_val_compare_and_swap((__u64 *)&flow->target, there.word, target->word) !=
	    there.word) {
		*target = load_target(flow);
		return false;
	}
	flow->seen = now;
	flow->state = state;
	return true;
}

static __always_inline void record_fragment(const struct packet *p, union target_word target)
{
	struct flow first = { .target = target.target,
			      .seen = now_ticks(),
			      .state = FLOW_FRAGMENT };

	bpf_map_update_elem(&fragments, &p->fragment, &first, BPF_ANY);
}

#endif
