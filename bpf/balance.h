/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The backend of a new flow where the scheduler looks at how many flows the backends have. As in
 * LVS, each new flow looks at all members, in their order, and the first of equals is taken; twos
 * looks at two.
 *
 * Loads are divided by weights without a division: a / v < b / w is a * w < b * v. Overheads are
 * below 2^33 for 33 million established connections, weights below 2^31, so that products fit.
 */
#ifndef XDPLB_BALANCE_H
#define XDPLB_BALANCE_H

#include "load.h"
#include "maps.h"
#include "schedule.h"

/* After so long without a new flow, or without a change, a set is forgotten, or shrinks: 24 h. */
#define SET_TICKS 80467

/* What a look at all members has found; the least is in proportion to the weight. */
struct scan {
	__u32 table;
	__u32 backend; /* 0: none */
	__u64 weight;
	__u64 overhead;
};

/* With this, any member of a weight above 0 has less overhead than nobody. */
#define NOBODY .overhead = 1

static __always_inline __u64 active_of(__u64 flows)
{
	return flows >> LOAD_ACTIVE_SHIFT;
}

static __always_inline __u64 overhead_of(__u64 flows)
{
	return flows << (64 - LOAD_ACTIVE_SHIFT) >> (64 - LOAD_ACTIVE_SHIFT);
}

/* Whether the overhead of one in proportion to its weight is less than the other's. */
static __always_inline bool is_less(__u64 overhead, __u64 weight, __u64 than, __u64 its_weight)
{
	return overhead * its_weight < than * weight;
}

static __always_inline __u64 flows_of(__u32 backend)
{
	const struct load *load = bpf_map_lookup_elem(&loads, &backend);

	return load ? *(const volatile __u64 *)&load->flows : 0;
}

/*
 * Looks at some members. Whom the scheduler takes without a look at the rest ends the scan. The
 * scheduler is a constant: each has a loop of its own, which is short.
 */
static __always_inline long scan_members(__u32 number, struct scan *scan, __u32 scheduler)
{
	const struct slots *slots = slots_of(scan->table, number);
	const struct member *members = (const struct member *)slots;
	__u64 overhead, flows;

	if (!slots)
		return 1;
#pragma unroll 4
	for (int i = 0; i < MEMBERS; i++) {
		__u32 id = members[i].backend, weight = members[i].weight;
		const struct load *load;

		if (!id)
			return 1;
		load = bpf_map_lookup_elem(&loads, &id);
		if (!load)
			return 1;
		flows = *(const volatile __u64 *)&load->flows;
		if ((scheduler == SCHEDULER_OVF && active_of(flows) <= weight) ||
		    (scheduler == SCHEDULER_NQ && !active_of(flows))) {
			scan->backend = id;
			return 1;
		}
		if (scheduler == SCHEDULER_OVF)
			continue;
		overhead = scheduler == SCHEDULER_WLC ? overhead_of(flows) : active_of(flows) + 1;
		if (is_less(overhead, weight, scan->overhead, scan->weight)) {
			scan->backend = id;
			scan->weight = weight;
			scan->overhead = overhead;
		}
	}
	return 0;
}

static long scan_least(__u32 number, struct scan *scan)
{
	return scan_members(number, scan, SCHEDULER_WLC);
}

static long scan_shortest(__u32 number, struct scan *scan)
{
	return scan_members(number, scan, SCHEDULER_SED);
}

static long scan_idle(__u32 number, struct scan *scan)
{
	return scan_members(number, scan, SCHEDULER_NQ);
}

static long scan_unfilled(__u32 number, struct scan *scan)
{
	return scan_members(number, scan, SCHEDULER_OVF);
}

/* A member, or one of a set. */
struct candidate {
	__u32 backend; /* 0: none */
	__u32 weight;
	__u64 overhead;
	__u64 active;
	__u64 joined;
};

/* lblc, lblcr: what a look at all members has found. */
struct set_scan {
	struct candidate best;
	struct candidate least; /* of the set */
	struct candidate most;
	__u64 oldest; /* who joined later than that is in the set */
	__u32 size;   /* of the set */
	__u32 spare;  /* whether any member has less than half of what its weight allows */
};

/* prog only: too large for the stack */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct set_scan);
} set_scans SEC(".maps");

static __always_inline struct set_scan *my_set_scan(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&set_scans, &zero);
}

/* Of equals in a set the last to join comes first, as in LVS. */
static __always_inline void scan_set(struct set_scan *scan, const struct candidate *one)
{
	const struct candidate *least = &scan->least, *most = &scan->most;
	bool newer = one->joined > least->joined;

	scan->size++;
	if (is_less(one->overhead, one->weight, least->overhead, least->weight) ||
	    (newer && !is_less(least->overhead, least->weight, one->overhead, one->weight)))
		scan->least = *one;
	newer = one->joined > most->joined;
	if (!most->backend || is_less(most->overhead, most->weight, one->overhead, one->weight) ||
	    (newer && !is_less(one->overhead, one->weight, most->overhead, most->weight)))
		scan->most = *one;
}

/* lblc, lblcr: one member. */
static long scan_cached(__u32 number, const __u32 *table)
{
	const struct slots *slots = slots_of(*table, number / MEMBERS);
	const struct member *members = (const struct member *)slots;
	struct set_scan *scan = my_set_scan();
	struct candidate one;
	const struct load *load;
	__u64 flows;

	if (!slots || !scan)
		return 1;
	one.backend = members[number % MEMBERS].backend;
	one.weight = members[number % MEMBERS].weight;
	load = bpf_map_lookup_elem(&loads, &one.backend);
	if (!load)
		return 1;
	flows = *(const volatile __u64 *)&load->flows;
	one.joined = *(const volatile __u64 *)&load->joined;
	one.overhead = overhead_of(flows);
	one.active = active_of(flows);
	if (one.active * 2 < one.weight)
		scan->spare = 1;
	if (is_less(one.overhead, one.weight, scan->best.overhead, scan->best.weight))
		scan->best = one;
	if (one.joined >= scan->oldest)
		scan_set(scan, &one);
	return 0;
}

static __always_inline void store_joined(__u32 backend, __u64 joined)
{
	struct load *load = bpf_map_lookup_elem(&loads, &backend);

	if (load)
		*(volatile __u64 *)&load->joined = joined;
}

/*
 * lblc and lblcr keep a destination with its backend, or with its set of backends, until that has
 * more active connections than its weight while another has less than half of its own: then lblc
 * moves it to the least loaded backend, and lblcr adds that to the set. A service has one
 * destination, and so one set; lblc's has one member.
 */
static __always_inline __u32 choose_cached(const struct service *service, struct cursor *cursor,
					   __u32 now)
{
	bool known = cursor->era == service->era && now - cursor->used <= SET_TICKS;
	bool grows = service->scheduler == SCHEDULER_LBLCR;
	struct set_scan *scan = my_set_scan();
	__u32 table = service->members;
	__u64 joined;

	if (!scan)
		return 0;
	*scan = (struct set_scan){ .oldest = known ? cursor->oldest : ~0ULL,
				   .best = { NOBODY },
				   .least = { NOBODY } };
	bpf_loop(service->member_count, scan_cached, &table, 0);
	cursor->used = now;
	cursor->era = service->era;
	if (grows && scan->size > 1 && now - cursor->changed > SET_TICKS) {
		store_joined(scan->most.backend, 0);
		cursor->changed = now;
		if (scan->best.backend == scan->most.backend)
			scan->best.joined = 0;
	}
	if (scan->least.backend && !(scan->least.active > scan->least.weight && scan->spare))
		return scan->least.backend;
	if (grows && scan->best.joined >= scan->oldest)
		return scan->best.backend;
	joined = __sync_fetch_and_add(&cursor->joins, 1) + 1;
	store_joined(scan->best.backend, joined);
	if (!known || !grows)
		cursor->oldest = joined;
	cursor->changed = now;
	return scan->best.backend;
}

/* The pair of a drawn number; weights have made pairs more or fewer. */
static __always_inline struct member draw(const struct service *service, __u32 random)
{
	__u32 number = (__u64)random * service->member_count >> 32;
	const struct slots *slots = slots_of(service->members, number / MEMBERS);

	return slots ? ((const struct member *)slots)[number % MEMBERS] : (struct member){};
}

/*
 * twos: the less loaded of two that are drawn in proportion to their weights. The flow's hash, which
 * nobody outside can tell, and the turn are random enough.
 */
static __always_inline __u32 choose_of_two(const struct service *service, __u64 turn, __u32 tag)
{
	__u64 random = mix(turn << 32 ^ tag);
	struct member first = draw(service, random), second = draw(service, random >> 32);

	if (is_less(overhead_of(flows_of(second.backend)), second.weight,
		    overhead_of(flows_of(first.backend)), first.weight))
		return second.backend;
	return first.backend;
}

/* The backend that the scheduler takes; 0: none. */
static __always_inline __u32 choose_by_load(const struct service *service, struct cursor *cursor,
					    __u64 turn, __u32 tag, __u32 now)
{
	struct scan scan = { .table = service->members, NOBODY };
	__u32 numbers = (service->member_count + MEMBERS - 1) / MEMBERS;

	switch (service->scheduler) {
	case SCHEDULER_LBLC:
	case SCHEDULER_LBLCR:
		return choose_cached(service, cursor, now);
	case SCHEDULER_TWOS:
		return choose_of_two(service, turn, tag);
	case SCHEDULER_SED:
		bpf_loop(numbers, scan_shortest, &scan, 0);
		break;
	case SCHEDULER_NQ:
		bpf_loop(numbers, scan_idle, &scan, 0);
		break;
	case SCHEDULER_OVF:
		bpf_loop(numbers, scan_unfilled, &scan, 0);
		break;
	default: /* lc, wlc */
		bpf_loop(numbers, scan_least, &scan, 0);
	}
	return scan.backend;
}

/* The backend of a new flow of a service that does not place flows by a hash. */
static __always_inline enum reason choose(const struct service *service, struct cursor *cursor,
					  __u64 turn, __u32 tag, __u32 now, target_t *target)
{
	__u32 id;

	if (!service->members)
		return aim(slot_of(service->table, turn % service->slots), target);
	id = choose_by_load(service, cursor, turn, tag, now);
	return id ? aim(id, target) : REASON_NO_BACKEND;
}

#endif
