/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Connection thresholds. A backend that has as many flows as its upper one takes no new ones until it
 * has fewer than its lower one. LVS notes both when a connection is bound to a real server and when
 * one leaves it. Here who looks at a backend notes both: flows become more only by those who look.
 * What is more, a place is taken before a flow is recorded, so that two CPUs do not both take the last
 * one. Flows of persistent services are counted when they are recorded: their clients follow their
 * templates beyond the limit, as in LVS, and two new ones may take the last place.
 */
#ifndef XDPLB_LIMIT_H
#define XDPLB_LIMIT_H

#include "load.h"
#include "maps.h"

union limit_word {
	struct limit limit;
	__u64 word;
};

static __always_inline __u64 active_of(__u64 flows)
{
	return flows >> LOAD_ACTIVE_SHIFT;
}

static __always_inline __u64 overhead_of(__u64 flows)
{
	return flows << (64 - LOAD_ACTIVE_SHIFT) >> (64 - LOAD_ACTIVE_SHIFT);
}

/* Active and inactive ones. */
static __always_inline __u64 total_of(__u64 flows)
{
	return overhead_of(flows) - 255 * active_of(flows);
}

static __always_inline __u64 flows_of(__u32 backend)
{
	const struct load *load = bpf_map_lookup_elem(&loads, &backend);

	return load ? *(const volatile __u64 *)&load->flows : 0;
}

/* Whether a backend that has so many flows takes no more. */
static __always_inline bool is_full(__u32 backend, __u64 flows)
{
	struct limit *place = bpf_map_lookup_elem(&limits, &backend);
	__u64 total = total_of(flows), upper;
	union limit_word was, now;

	if (!place)
		return false;
	was.word = *(volatile __u64 *)place;
	upper = was.limit.upper & ~LIMIT_REACHED;
	if (!upper)
		return false;
	now = was;
	if (total >= upper)
		now.limit.upper |= LIMIT_REACHED;
	else if (was.limit.lower ? total < was.limit.lower : total * 4 < upper * 3)
		now.limit.upper = upper;
	/* who fails has been overtaken by one who has looked later */
	if (now.word != was.word)
		__sync_val_compare_and_swap((__u64 *)place, was.word, now.word);
	return now.limit.upper & LIMIT_REACHED;
}

/* Takes a place for a flow that will be recorded in this state. false: there is none. */
__attribute__((noinline)) bool reserve(__u32 backend, __u32 state)
{
	struct load *load = bpf_map_lookup_elem(&loads, &backend);
	__u64 before;

	if (!load)
		return false;
	before = __sync_fetch_and_add(&load->flows, load_of(state));
	if (is_full(backend, before)) {
		__sync_fetch_and_add(&load->flows, -load_of(state));
		return false;
	}
	is_full(backend, before + load_of(state));
	return true;
}

/*
 * Notes what a flow has done that was recorded without asking for a place, since a template or a hash
 * had told its backend.
 */
__attribute__((noinline)) int note_place(__u32 backend)
{
	__u64 flows = flows_of(backend);

	is_full(backend, flows - LOAD_INACTIVE);
	return is_full(backend, flows);
}

#endif
