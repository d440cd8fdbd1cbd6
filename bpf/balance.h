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

#include "limit.h"
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

/* A search for a backend, with limits or without. */
struct search {
	__u32 table;
	__u32 count;  /* of slots in it */
	__u64 first;  /* the number of the one at which it begins; twos: what was drawn */
	__u64 weight; /* twos: of all that take new flows */
	__u32 scheduler;
	__u32 skipped; /* how many were looked at in vain */
	struct scan scan;
	struct member member; /* of backend 0: none */
};

/* prog only: too large for the stack */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct search);
} searches SEC(".maps");

static __always_inline struct search *my_search(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&searches, &zero);
}

/* With this, any member of a weight above 0 has less overhead than nobody. */
#define NOBODY .overhead = 1

/* Whether the overhead of one in proportion to its weight is less than the other's. */
static __always_inline bool is_less(__u64 overhead, __u64 weight, __u64 than, __u64 its_weight)
{
	return overhead * its_weight < than * weight;
}

/*
 * Looks at one member, which has so many flows. Returns whether the scheduler takes it without a look
 * at the rest.
 */
static __always_inline bool consider(struct scan *scan, const struct member *one, __u64 flows,
				     __u32 scheduler)
{
	__u64 overhead;

	if (scheduler == SCHEDULER_OVF ? active_of(flows) <= one->weight :
					 scheduler == SCHEDULER_NQ && !active_of(flows)) {
		scan->backend = one->backend;
		return true;
	}
	if (scheduler == SCHEDULER_OVF)
		return false;
	overhead = scheduler == SCHEDULER_SED || scheduler == SCHEDULER_NQ ? active_of(flows) + 1 :
									     overhead_of(flows);
	if (is_less(overhead, one->weight, scan->overhead, scan->weight)) {
		scan->backend = one->backend;
		scan->weight = one->weight;
		scan->overhead = overhead;
	}
	return false;
}

/*
 * Looks at some members. The scheduler is a constant: each has a loop of its own, which is short.
 */
static __always_inline long scan_members(__u32 number, struct scan *scan, __u32 scheduler)
{
	const struct slots *slots = slots_of(scan->table, number);
	const struct member *members = (const struct member *)slots;

	if (!slots)
		return 1;
#pragma unroll 4
	for (int i = 0; i < MEMBERS; i++) {
		__u32 id = members[i].backend;
		const struct load *load;

		if (!id)
			return 1;
		load = bpf_map_lookup_elem(&loads, &id);
		if (!load ||
		    consider(scan, &members[i], *(const volatile __u64 *)&load->flows, scheduler))
			return 1;
	}
	return 0;
}

static long scan_least(__u32 number, struct scan **scan)
{
	return scan_members(number, *scan, SCHEDULER_WLC);
}

static long scan_shortest(__u32 number, struct scan **scan)
{
	return scan_members(number, *scan, SCHEDULER_SED);
}

static long scan_idle(__u32 number, struct scan **scan)
{
	return scan_members(number, *scan, SCHEDULER_NQ);
}

static long scan_unfilled(__u32 number, struct scan **scan)
{
	return scan_members(number, *scan, SCHEDULER_OVF);
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
	struct candidate one; /* at which it looks */
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
static __always_inline void scan_set(struct set_scan *scan, const struct candidate *one, bool full)
{
	const struct candidate *least = &scan->least, *most = &scan->most;
	bool newer = one->joined > least->joined;

	scan->size++;
	if (!full &&
	    (is_less(one->overhead, one->weight, least->overhead, least->weight) ||
	     (newer && !is_less(least->overhead, least->weight, one->overhead, one->weight))))
		scan->least = *one;
	newer = one->joined > most->joined;
	if (!most->backend || is_less(most->overhead, most->weight, one->overhead, one->weight) ||
	    (newer && !is_less(one->overhead, one->weight, most->overhead, most->weight)))
		scan->most = *one;
}

struct cached_members {
	__u32 table;
	bool limited;
};

/* lblc, lblcr: one member. */
static long scan_cached(__u32 number, const struct cached_members *of)
{
	const struct slots *slots = slots_of(of->table, number / MEMBERS);
	const struct member *members = (const struct member *)slots;
	struct set_scan *scan = my_set_scan();
	struct candidate *one;
	const struct load *load;
	bool full;
	__u64 flows;

	if (!slots || !scan)
		return 1;
	one = &scan->one;
	one->backend = members[number % MEMBERS].backend;
	one->weight = members[number % MEMBERS].weight;
	load = bpf_map_lookup_elem(&loads, &one->backend);
	if (!load)
		return 1;
	flows = *(const volatile __u64 *)&load->flows;
	one->joined = *(const volatile __u64 *)&load->joined;
	one->overhead = overhead_of(flows);
	one->active = active_of(flows);
	if (one->active * 2 < one->weight)
		scan->spare = 1;
	full = of->limited && is_full(one->backend, flows);
	if (!full && is_less(one->overhead, one->weight, scan->best.overhead, scan->best.weight))
		scan->best = *one;
	if (one->joined >= scan->oldest)
		scan_set(scan, one, full);
	return 0;
}

static __always_inline void store_joined(__u32 backend, __u64 joined)
{
	struct load *load = bpf_map_lookup_elem(&loads, &backend);

	if (load)
		*(volatile __u64 *)&load->joined = joined;
}

static __always_inline bool is_caching(const struct service *service)
{
	return service->scheduler == SCHEDULER_LBLC || service->scheduler == SCHEDULER_LBLCR;
}

/*
 * lblc and lblcr keep a destination with its backend, or with its set of backends, until that has
 * more active connections than its weight while another has less than half of its own: then lblc
 * moves it to the least loaded backend, and lblcr adds that to the set. A service has one
 * destination, and so one set; lblc's has one member. Here, unlike in LVS, one that has reached its
 * limit is left by lblc too. A function of its own, for the stack's sake.
 */
__attribute__((noinline)) __u32 choose_cached(const struct service *service, struct cursor *cursor,
					      __u32 now)
{
	struct cached_members members;
	struct set_scan *scan = my_set_scan();
	bool known, grows;
	__u64 joined;

	if (!scan || !service || !cursor)
		return 0;
	known = cursor->era == service->era && now - cursor->used <= SET_TICKS;
	grows = service->scheduler == SCHEDULER_LBLCR;
	members = (struct cached_members){ service->members, service->limited };
	*scan = (struct set_scan){ .oldest = known ? cursor->oldest : ~0ULL,
				   .best = { NOBODY },
				   .least = { NOBODY } };
	bpf_loop(service->member_count, scan_cached, &members, 0);
	if (!known && !scan->best.backend)
		return 0;
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
	if (!scan->best.backend || (grows && scan->best.joined >= scan->oldest))
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

/* The less loaded of two; the first of equals. */
static __always_inline __u32 lesser(struct member first, struct member second)
{
	if (is_less(overhead_of(flows_of(second.backend)), second.weight,
		    overhead_of(flows_of(first.backend)), first.weight))
		return second.backend;
	return first.backend;
}

/*
 * twos: the less loaded of two that are drawn in proportion to their weights. The flow's hash, which
 * nobody outside can tell, and the turn are random enough. A function of its own, for the stack's sake.
 */
__attribute__((noinline)) __u32 choose_of_two(const struct service *service, __u64 turn, __u32 tag)
{
	__u64 random = mix(turn << 32 ^ tag);

	if (!service)
		return 0;

	return lesser(draw(service, random), draw(service, random >> 32));
}

/*
 * The backend that the scheduler takes, if it keeps no set; 0: none. A function of its own, not
 * inlined, so that the verifier goes through its loops once, wherever it is called from.
 */
__attribute__((noinline)) __u32 choose_by_load(const struct service *service, __u64 turn, __u32 tag)
{
	struct search *search = my_search();
	struct scan *scan;
	__u32 numbers;

	if (!search || !service)
		return 0;
	numbers = (service->member_count + MEMBERS - 1) / MEMBERS;
	scan = &search->scan;
	*scan = (struct scan){ .table = service->members, NOBODY };
	switch (service->scheduler) {
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
	return scan->backend;
}

static long search_slot(__u32 number, struct search **at)
{
	struct search *search = *at;
	__u32 id;

	id = slot_of(search->table, (search->first + number) % search->count) & ~SLOT_UNSETTLED;
	if (!id || is_full(id, flows_of(id)))
		return 0;
	search->member.backend = id;
	search->skipped = number;
	return 1;
}

static __always_inline const struct member *searched_member(const struct search *search,
							    __u32 number)
{
	const struct slots *slots = slots_of(search->table, number / MEMBERS);

	return slots ? (const struct member *)slots + number % MEMBERS : NULL;
}

static long search_member(__u32 number, struct search **at)
{
	struct search *search = *at;
	const struct member *one = searched_member(search, number);
	__u64 flows;

	if (!one)
		return 1;
	flows = flows_of(one->backend);
	if (is_full(one->backend, flows))
		return 0;
	switch (search->scheduler) {
	case SCHEDULER_SED:
		return consider(&search->scan, one, flows, SCHEDULER_SED);
	case SCHEDULER_NQ:
		return consider(&search->scan, one, flows, SCHEDULER_NQ);
	case SCHEDULER_OVF:
		return consider(&search->scan, one, flows, SCHEDULER_OVF);
	case SCHEDULER_LC:
	case SCHEDULER_WLC:
		return consider(&search->scan, one, flows, SCHEDULER_WLC);
	default: /* the first that there is */
		search->scan.backend = one->backend;
		return 1;
	}
}

/* twos: adds up the weights of who takes new flows. */
static long search_weight(__u32 number, struct search **at)
{
	const struct member *one = searched_member(*at, number);

	if (!one)
		return 1;
	if (!is_full(one->backend, flows_of(one->backend)))
		(*at)->weight += one->weight;
	return 0;
}

/* twos: whose weight, of those that take new flows one behind the other, reaches beyond first. */
static long search_drawn(__u32 number, struct search **at)
{
	struct search *search = *at;
	const struct member *one = searched_member(search, number);

	if (!one)
		return 1;
	if (is_full(one->backend, flows_of(one->backend)))
		return 0;
	search->member = *one;
	if (search->first < one->weight)
		return 1;
	search->first -= one->weight;
	return 0;
}

/* A look at all members, as far as the scheduler wants. */
static __always_inline __u32 search_members(const struct service *service, struct search *search)
{
	*search = (struct search){ .table = service->members,
				   .scheduler = service->scheduler,
				   .scan = { NOBODY } };
	bpf_loop(service->member_count, search_member, &search, 0);
	return search->scan.backend;
}

/* After so many slots the members are gone through, so that the effort has a bound. */
#define SLOT_SEARCH 256

/* The backend of the first slot from a place on that takes new flows. */
static __always_inline __u32 search_slots(const struct service *service, struct search *search,
					  __u64 first)
{
	__u32 count = service->slots;

	*search = (struct search){ .table = service->table, .count = count, .first = first };
	bpf_loop(count < SLOT_SEARCH ? count : SLOT_SEARCH, search_slot, &search, 0);
	if (search->member.backend || count <= SLOT_SEARCH)
		return search->member.backend;
	return search_members(service, search);
}

/* rr, wrr: who is full loses its turn, and a turn that nobody can take is given back. */
static __always_inline __u32 pick_in_turn(const struct service *service, struct cursor *cursor,
					  struct search *search, __u64 turn)
{
	__u32 id = search_slots(service, search, turn);
	__u64 lost = id ? search->skipped : -1ULL;

	if (service->persistence) {
		__sync_fetch_and_add(&cursor->chosen, lost);
	} else if (lost) {
		__sync_fetch_and_add(&cursor->next, lost);
		__sync_fetch_and_add(&cursor->first, lost);
	}
	return id;
}

/*
 * sh, mh, dh: without fallback there is nobody else. The search begins at a slot that a hash of the
 * slot's number tells, as LVS hashes again: one backend's clients do not all come to the next one.
 */
static __always_inline __u32 pick_hashed(const struct service *service, struct search *search,
					 __u32 slot)
{
	__u32 id = slot_of(service->table, slot) & ~SLOT_UNSETTLED;

	if (!id || !is_full(id, flows_of(id)))
		return id;
	if (service->scheduler == SCHEDULER_DH || !(service->flags & FLAG_FALLBACK))
		return 0;
	return search_slots(service, search, mix(slot));
}

/* twos: whom a random number draws, as LVS does. */
static __always_inline struct member draw_limited(const struct service *service,
						  struct search *search, __u64 random)
{
	search->first = random % search->weight;
	bpf_loop(service->member_count, search_drawn, &search, 0);
	return search->member;
}

static __always_inline __u32 pick_of_two(const struct service *service, struct search *search,
					 __u64 turn, __u32 tag)
{
	__u64 random = mix(turn << 32 ^ tag);
	struct member first;

	*search = (struct search){ .table = service->members };
	bpf_loop(service->member_count, search_weight, &search, 0);
	if (!search->weight)
		return 0;
	first = draw_limited(service, search, random);
	return lesser(first, draw_limited(service, search, mix(random)));
}

/*
 * The backend that the scheduler takes, of those below their limits; 0: none. place: the client's
 * slot where flows are placed by a hash, else the flow's tag. A function of its own, since few
 * services need it.
 */
__attribute__((noinline)) __u32 pick_limited(const struct service *service, struct cursor *cursor,
					     __u64 turn, __u32 place)
{
	struct search *search = my_search();

	if (!service || !cursor || !search)
		return 0;
	switch (service->scheduler) {
	case SCHEDULER_RR:
	case SCHEDULER_WRR:
		return pick_in_turn(service, cursor, search, turn);
	case SCHEDULER_SH:
	case SCHEDULER_MH:
	case SCHEDULER_DH:
		return pick_hashed(service, search, place);
	case SCHEDULER_TWOS:
		return pick_of_two(service, search, turn, place);
	default:
		return search_members(service, search);
	}
}

/* Somebody else may take the place that was seen. */
#define CHOICES 4

/* The same as choose, where backends have limits; the flow is counted already. */
static __always_inline enum reason choose_limited(const struct service *service,
						  struct cursor *cursor, __u64 turn, __u32 place,
						  __u32 now, struct entry *fresh)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < CHOICES; i++) {
		__u32 id = is_caching(service) ? choose_cached(service, cursor, now) :
						 pick_limited(service, cursor, turn, place);

		if (!id)
			break;
		if (reserve(id, state_of(*fresh)))
			return aim(id, &fresh->target);
	}
	return REASON_NO_BACKEND;
}

/*
 * The backend of a new flow of a service that does not place flows by a hash, or that limits what
 * its backends get: then the target of such a flow is the client's slot before.
 */
static __always_inline enum reason choose(const struct service *service, struct cursor *cursor,
					  __u64 turn, __u32 tag, __u32 now, struct entry *fresh)
{
	__u32 id;

	if (service->limited)
		return choose_limited(service, cursor, turn,
				      is_hashing(service) ? fresh->target : tag, now, fresh);
	if (!service->members)
		return aim(slot_of(service->table, turn % service->slots), &fresh->target);
	if (is_caching(service))
		id = choose_cached(service, cursor, now);
	else
		id = choose_by_load(service, turn, tag);
	return id ? aim(id, &fresh->target) : REASON_NO_BACKEND;
}

union chosen_word {
	struct {
		target_t target;
		__u32 reason; /* enum reason */
	};
	__u64 word;
};

/*
 * The backend of one datagram of a service that schedules each by itself: for its limit's sake it is a
 * flow that comes and goes at once, as in LVS. Returns a chosen_word. A function of its own, for the
 * verifier's sake. place: as for pick_limited.
 */
__attribute__((noinline)) __u64 choose_once(const struct service *service, struct cursor *cursor,
					    __u32 place, __u32 now)
{
	struct entry fresh = { .target = place, .status = FLOW_DATAGRAM };
	union chosen_word chosen = { .reason = REASON_INTERNAL };
	__u64 turn;

	if (!service || !cursor)
		return chosen.word;
	if (is_hashing(service) && !service->limited) {
		chosen.reason = aim(slot_of(service->table, place), &chosen.target);
		return chosen.word;
	}
	turn = __sync_fetch_and_add(&cursor->next, 1);
	chosen.reason = choose(service, cursor, turn, place, now, &fresh);
	chosen.target = fresh.target;
	if (service->limited && !chosen.reason)
		add_load(fresh.target, -load_of(FLOW_DATAGRAM));
	return chosen.word;
}

#endif
