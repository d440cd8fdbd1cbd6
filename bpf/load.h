/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How many flows each backend has, for schedulers that look at it. A flow's entry says whether it is
 * counted, so that what was added is subtracted again, whatever became of the service's scheduler
 * meanwhile: a backend's load is the number of its counted entries. Each change of an entry is one
 * compare-and-swap or exchange, and whoever makes it adds the difference. The sweep counts anew
 * (internal/datapath/load.go).
 */
#ifndef XDPLB_LOAD_H
#define XDPLB_LOAD_H

#include "maps.h"
#include "state.h"
#include "target.h"

static __always_inline bool is_counted(struct entry entry)
{
	return entry.status & STATUS_COUNTED;
}

/* What a flow of this state adds to the word of its backend's load. */
static __always_inline __u64 load_of(__u32 state)
{
	return is_established(state) ? LOAD_ACTIVE : LOAD_INACTIVE;
}

static __always_inline void add_load(target_t target, __u64 difference)
{
	__u32 id = target_id(target);
	struct load *load = bpf_map_lookup_elem(&loads, &id);

	if (load)
		__sync_fetch_and_add(&load->flows, difference);
}

static __always_inline void count_in(struct entry entry)
{
	if (is_counted(entry))
		add_load(entry.target, load_of(state_of(entry)));
}

/* The load of a backend that was removed is no more, and its id may be another one's. */
static __always_inline void count_out(struct entry entry)
{
	if (is_counted(entry) && is_current(entry.target))
		add_load(entry.target, -load_of(state_of(entry)));
}

/* was: what the entry was before it got the state. */
static __always_inline void count_move(struct entry was, __u32 state)
{
	if (is_counted(was) && load_of(state) != load_of(state_of(was)))
		add_load(was.target, load_of(state) - load_of(state_of(was)));
}

#endif
