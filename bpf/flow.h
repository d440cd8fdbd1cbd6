/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flows: which backend a connection has. Nothing outside this file knows how they are kept.
 *
 * The table is an array of buckets of one cache line each. A flow's keyed hash selects its bucket
 * and gives a tag of 37 bits by which it is known there, so that a packet of a known flow reads one
 * line. Beyond the cache that is one miss, where the kernel's hash maps take three.
 *
 * All CPUs share the table. An entry is one word: a packet reads it whole and changes it by
 * compare-and-swap, and so can neither act on half an entry nor bring back one that was replaced
 * meanwhile. Only who adds a flow locks, and only that flow's bucket.
 *
 * A flow names a target: when its backend is removed every flow of it is stale at once, without a
 * sweep. Where removed backends keep their flows, packets notice nothing of a removal.
 */
#ifndef XDPLB_FLOW_H
#define XDPLB_FLOW_H

#include "balance.h"
#include "count.h"
#include "load.h"
#include "maps.h"
#include "parse.h"
#include "schedule.h"
#include "service.h"
#include "side.h"
#include "state.h"
#include "target.h"

#define LOCK_ATTEMPTS 256

/*
 * Embryonic flows may have this many of a bucket's ways, and one more while all of them are young:
 * what is answered is answered within two ticks, and must not be lost to the next SYN.
 */
#define EMBRYONIC_WAYS 3
#define YOUNG_WAYS 4
#define YOUNG_TICKS 2

const volatile __u32 flow_buckets;
const volatile __u32 spill_buckets;

/*
 * Whether the processor may show other CPUs stores and loads in another order than the program's
 * (arm64; x86 does not). Where it is false the verifier removes the code for it.
 */
const volatile bool weakly_ordered;

/*
 * Odd random numbers, drawn when the program is loaded: nobody outside can tell which tuples share
 * a bucket. The sum of products is Thorup's vector multiply-shift, which keeps any two tuples apart.
 * (A service's key has more bits than a word may have there; but two tuples that differ in nothing
 * else have different hashes all the same, since the factor is odd.) Addresses and ports that count
 * up may all come to lie in a few buckets: one key in forty lost flows of a half full table of 1,024.
 * The second product scatters those.
 */
const volatile __u64 hash_keys[HASH_KEYS];

union entry_word {
	struct entry entry;
	__u64 word;
};

/*
 * The upper half selects the flow's bucket, the lower half is the tag by which it is known there. Of
 * the upper half's lower bits, which hardly matter to the bucket, the entry's status holds some more.
 */
typedef __u64 flow_hash_t;

static __always_inline __u32 tag_of(flow_hash_t hash)
{
	return hash;
}

/* In its place in a status. */
static __always_inline __u32 check_of(flow_hash_t hash)
{
	return hash >> 32 & STATUS_CHECK;
}

/* Where a flow was found, and what its entry was then. */
struct flow {
	struct bucket *bucket; /* NULL: not found */
	__u32 way;
	union entry_word was;
};

/*
 * The last answer of the clock: the tick, and below it the jiffies at which it was asked. The clock
 * and jiffies advance together, and jiffies are one load where the clock is a call.
 */
__u64 last_clock;

static __always_inline __u32 now_ticks(void)
{
	__u64 known = *(volatile __u64 *)&last_clock;
	__u32 jiffies = bpf_jiffies64(), tick;

	if (likely(jiffies == (__u32)known))
		return known >> 32;
	tick = bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
	*(volatile __u64 *)&last_clock = (__u64)tick << 32 | jiffies;
	return tick;
}

#define SEEN_BITS (32 - STATUS_SEEN_SHIFT)

/*
 * Ticks since the one that a status, or a bucket's head, was last seen in, and one: another CPU may
 * have read the clock a tick later than we, and stored that before we look. Ages wrap after 52 days;
 * an idle flow that was not swept until then seems alive for its timeout once more.
 */
static __always_inline __u32 age_of(__u32 status, __u32 now)
{
	return (now - (status >> STATUS_SEEN_SHIFT) + 1) & ((1U << SEEN_BITS) - 1);
}

static __always_inline __u32 status_of(__u32 state, __u32 kept, __u32 now)
{
	return state | kept | now << STATUS_SEEN_SHIFT;
}

static __always_inline const struct timeouts *live_timeouts(void)
{
	__u32 side;

	return live_config(&side) ? bpf_map_lookup_elem(&timeouts, &side) : NULL;
}

/* No timeout is shorter: what is not older needs no look at them. */
#define SHORTEST_AGE 2

#define LONGEST 0 /* in the place of a state: the longest timeout of all */

static __always_inline bool is_longer(__u32 age, const struct timeouts *timeouts, __u32 state)
{
	barrier_var(
		state); /* clang may know its range and leave the mask out, the verifier does not */
	return !timeouts || age > timeouts->ticks[state % FLOW_STATES] + 1;
}

static __always_inline bool is_expired(struct entry entry, __u32 now)
{
	__u32 age = age_of(entry.status, now);

	return age > SHORTEST_AGE && is_longer(age, live_timeouts(), state_of(entry));
}

/* Whether a SYN or INIT goes where the tuple's entry says: it may be the same connection's again. */
static __always_inline bool is_joined(struct entry entry, __u32 now)
{
	return !is_over(entry) && !is_expired(entry, now) && !is_quiescent(target_id(entry.target));
}

static __always_inline bool is_alive(struct entry entry, __u32 now)
{
	return is_current(entry.target) && is_joined(entry, now);
}

/*
 * Whether the packet goes where its flow's entry says. An opening packet or a datagram does not
 * follow an expired entry, and an opening packet not one whose connection has ended, or whose backend
 * is quiesced (LVS: conn_reuse_mode, expire_nodest_conn). Any other packet does: no better place for
 * it is known. *to becomes the entry's backend, if that is there.
 */
static __always_inline bool follows(__u32 event, struct entry entry, __u32 now,
				    const struct backend **to)
{
	*to = backend_of(entry.target);
	if (!*to)
		return false;
	if (is_opening(event))
		return is_joined(entry, now);
	return !is_datagram(state_of(entry)) || !is_expired(entry, now);
}

static __always_inline flow_hash_t finish_hash(__u64 sum)
{
	return (sum ^ sum >> 32) * hash_keys[1];
}

/* Address, port and protocol are one word: the key of a service that has that port, and at hand. */
static __always_inline flow_hash_t hash_flow4(const struct flow_key4 *key)
{
	return finish_hash(hash_keys[0] + key->client * hash_keys[2] +
			   key->client_port * hash_keys[3] +
			   service_key4(key, key->vip_port) * hash_keys[4]);
}

static __always_inline flow_hash_t hash_flow6(const struct flow_key6 *key)
{
	const __u32 *word = (const __u32 *)key;
	__u64 sum = hash_keys[0];

#pragma unroll
	for (int i = 0; i < 9; i++)
		sum += word[i] * hash_keys[2 + i];
	return finish_hash(sum + key->protocol * hash_keys[11]);
}

static __always_inline __u32 home_of(flow_hash_t hash)
{
	return (hash >> 32) * flow_buckets >> 32;
}

/*
 * The bucket in the table's second part. The tag lets one bucket's flows scatter, and with the home
 * bucket in it flows of one tag are told apart there too.
 */
static __always_inline __u32 spill_of(flow_hash_t hash)
{
	return flow_buckets + ((__u64)tag_of(hash ^ hash >> 32) * spill_buckets >> 32);
}

static __always_inline __u64 load_word(const struct entry *entry)
{
	return *(const volatile __u64 *)entry;
}

/* Stores it before whatever is stored later, and after whatever was stored before. */
static __always_inline void store_word(struct entry *entry, __u64 word)
{
	if (weakly_ordered)
		__sync_lock_test_and_set((__u64 *)entry, word);
	else
		*(volatile __u64 *)entry = word;
}

/* Loads it after whatever is loaded before, and before whatever is loaded later. */
static __always_inline __u64 load_between(struct entry *entry)
{
	return weakly_ordered ? __sync_fetch_and_add((__u64 *)entry, 0) : load_word(entry);
}

/* The way that holds the flow, or WAYS. */
static __always_inline __u32 way_of(struct bucket *bucket, flow_hash_t hash, union entry_word *was)
{
#pragma unroll
	for (int way = 0; way < WAYS; way++) {
		const volatile __u32 *tag = &bucket->tag[way];

		if (*tag != tag_of(hash))
			continue;
		was->word = load_between(&bucket->entry[way]);
		/* tag, entry, tag again: the entry is this tag's, or the tag has changed */
		if (was->word && (was->entry.status & STATUS_CHECK) == check_of(hash) &&
		    *tag == tag_of(hash))
			return way;
	}
	return WAYS;
}

static __always_inline bool has_spilled(const struct bucket *bucket, __u32 now)
{
	__u32 head = *(const volatile __u32 *)&bucket->head, age = age_of(head, now);

	if (!(head & HEAD_SPILLED))
		return false;
	return age <= SHORTEST_AGE || !is_longer(age, live_timeouts(), LONGEST);
}

/* A packet of a spilled flow keeps its home bucket's note alive. */
static __always_inline void note_spilled(struct bucket *bucket, __u32 now)
{
	__u32 head = *(volatile __u32 *)&bucket->head;
	__u32 want = (head & HEAD_LOCKED) | HEAD_SPILLED | now << HEAD_TICK_SHIFT;

	if (head != want)
		__sync_val_compare_and_swap(&bucket->head, head, want);
}

static __always_inline struct flow find_flow(flow_hash_t hash, __u32 now)
{
	struct flow flow = {};
	struct bucket *home;
	__u32 index = home_of(hash);

	home = bpf_map_lookup_elem(&flows, &index);
	if (!home)
		return flow;
	flow.way = way_of(home, hash, &flow.was);
	if (flow.way < WAYS) {
		flow.bucket = home;
		return flow;
	}
	if (likely(!has_spilled(home, now)))
		return flow;
	index = spill_of(hash);
	flow.bucket = bpf_map_lookup_elem(&flows, &index);
	if (!flow.bucket)
		return flow;
	flow.way = way_of(flow.bucket, hash, &flow.was);
	if (flow.way < WAYS)
		note_spilled(home, now);
	else
		flow.bucket = NULL;
	return flow;
}

/*
 * Keeps the entry alive. Writes only what changed: most packets of a flow leave its cache line
 * clean. Says whether this packet makes the flow more than its first one.
 */
static __always_inline bool touch_flow(struct flow *flow, __u32 event, __u32 now)
{
	struct entry was = flow->was.entry;
	union entry_word next = { .entry.target = was.target };
	__u32 state;

	/* what most packets find: nothing to write */
	if (likely(event == state_of(was) &&
		   !((was.status ^ now << STATUS_SEEN_SHIFT) >> STATUS_SEEN_SHIFT)))
		return false;
	state = next_state(state_of(was), event);
	next.entry.status = status_of(state, was.status & (STATUS_COUNTED | STATUS_CHECK), now);
	if (next.entry.status == was.status)
		return false;
	if (flow->way < WAYS &&
	    __sync_val_compare_and_swap((__u64 *)&flow->bucket->entry[flow->way], flow->was.word,
					next.word) == flow->was.word)
		count_move(was, state);
	return is_embryonic(was) && !is_embryonic(next.entry);
}

/*
 * Keeps the entry of a flow alive whose target is known without it, and says whether there is one,
 * whatever its target. A function of its own, since few packets need it.
 */
__attribute__((noinline)) int keep_flow(flow_hash_t hash, __u32 event, target_t target)
{
	__u32 now = now_ticks();
	struct flow flow = find_flow(hash, now);

	if (flow.bucket && flow.was.entry.target == target)
		touch_flow(&flow, event, now);
	return flow.bucket != NULL;
}

static __always_inline void count_eviction(enum eviction kind)
{
	__u32 index = kind;
	__u64 *count = bpf_map_lookup_elem(&evictions, &index);

	if (count)
		(*count)++;
}

static __always_inline bool lock_bucket(struct bucket *bucket)
{
	for (int i = 0; i < LOCK_ATTEMPTS; i++) {
		__u32 head = *(volatile __u32 *)&bucket->head & ~HEAD_LOCKED;

		if (__sync_val_compare_and_swap(&bucket->head, head, head | HEAD_LOCKED) == head)
			return true;
	}
	return false;
}

/*
 * A plain store: what it may undo is another CPU's note of a later tick, which the next packet
 * makes again.
 */
static __always_inline void unlock_bucket(struct bucket *bucket)
{
	volatile __u32 *head = &bucket->head;

	if (weakly_ordered)
		__sync_fetch_and_and(&bucket->head, ~HEAD_LOCKED);
	else
		*head &= ~HEAD_LOCKED;
}

/* A way whose backend is gone, or WAYS. */
static __always_inline __u32 stale_way(const struct bucket *bucket)
{
#pragma unroll
	for (int way = 0; way < WAYS; way++) {
		union entry_word there = { .word = load_word(&bucket->entry[way]) };

		if (!is_current(there.entry.target))
			return way;
	}
	return WAYS;
}

/*
 * The way that a new flow may have: free, else expired or stale, else an embryonic one's; that alone
 * if embryonic flows have what they may have, and the new flow is another. WAYS: all are live and
 * established, or young: a handshake under way goes on as long as there is room elsewhere (not
 * takes_young). A function of its own, not inlined, so that the verifier goes through its many ways
 * only once. word is the new flow's entry.
 */
__attribute__((noinline)) __u32 choose_way(const struct bucket *bucket, __u64 word, __u32 now,
					   bool takes_young)
{
	struct entry fresh = (union entry_word){ .word = word }.entry;
	const struct timeouts *timeouts = live_timeouts();
	__u32 free = WAYS, expired = WAYS, embryonic = WAYS, oldest = 0, embryos = 0;
	bool grown;

	if (!bucket)
		return WAYS;
	/* from the last one on, so that flows lie where way_of looks first */
#pragma unroll
	for (int way = WAYS - 1; way >= 0; way--) {
		union entry_word there = { .word = load_word(&bucket->entry[way]) };
		__u32 age = age_of(there.entry.status, now);

		if (!there.word) {
			free = way;
		} else if (is_longer(age, timeouts, state_of(there.entry))) {
			expired = way;
		} else if (is_embryonic(there.entry)) {
			embryos++;
			if (age >= oldest) {
				oldest = age;
				embryonic = way;
			}
		}
	}
	grown = oldest > YOUNG_TICKS;
	if (!is_embryonic(fresh) || embryos < (grown ? EMBRYONIC_WAYS : YOUNG_WAYS)) {
		if (free < WAYS)
			return free;
		if (expired == WAYS)
			expired = stale_way(bucket);
		if (expired < WAYS) {
			count_eviction(EVICTION_EXPIRED);
			return expired;
		}
	}
	if (embryonic == WAYS || !(grown || takes_young))
		return WAYS;
	count_eviction(EVICTION_EMBRYONIC);
	return embryonic;
}

/* The way whose flow has been silent for longest. */
static __always_inline __u32 oldest_way(const struct bucket *bucket, __u32 now)
{
	__u32 oldest = 0, found = 0;

#pragma unroll
	for (int way = 0; way < WAYS; way++) {
		union entry_word there = { .word = load_word(&bucket->entry[way]) };
		__u32 age = age_of(there.entry.status, now);

		if (age >= oldest) {
			oldest = age;
			found = way;
		}
	}
	return found;
}

#define CELLS 8 /* a power of two, so that the verifier sees that the way is inside the bucket */

static __always_inline void describe_flow(const struct packet *p, struct family family, __u32 cell)
{
	__u32 index = cell / CELLS, way = cell % CELLS;
	struct origins *origins = bpf_map_lookup_elem(&flow_origins, &index);
	struct client6 *client;

	if (!origins)
		return;
	if (!family.is_ip6) {
		origins->origin[way].client = p->key4.client;
		origins->origin[way].client_port = p->key4.client_port;
		origins->origin[way].vip_port = p->key4.vip_port;
		return;
	}
	origins->origin[way].client_port = p->key6.client_port;
	origins->origin[way].vip_port = p->key6.vip_port;
	cell = index * WAYS + way;
	client = bpf_map_lookup_elem(&flow_clients6, &cell);
	if (client)
		__builtin_memcpy(client->address, p->key6.client, sizeof(client->address));
}

/*
 * Asks for the line that describe_flow will write, so that it is on its way while the flow is still
 * being looked for: two cache misses at a time instead of one after the other.
 */
static __always_inline void expect_flow(flow_hash_t hash)
{
	__u32 index = home_of(hash);
	struct origins *origins = bpf_map_lookup_elem(&flow_origins, &index);

	if (origins)
		(void)*(volatile __u32 *)origins;
}

/*
 * Empties a way of a locked bucket. What is counted must be taken and not overwritten: a packet may
 * be changing its state.
 */
static __always_inline void clear_way(struct entry *entry)
{
	union entry_word old = { .word = load_word(entry) };

	if (!old.word)
		return;
	if (!is_counted(old.entry)) {
		store_word(entry, 0);
		return;
	}
	old.word = __sync_lock_test_and_set((__u64 *)entry, 0);
	count_out(old.entry);
}

/*
 * Writes a flow into a way of a locked bucket. No packet takes the old flow's word for the new
 * flow's, or the reverse. It has been counted, since any packet that finds it may change its state.
 */
static __always_inline void write_way(struct bucket *bucket, __u32 way, flow_hash_t hash,
				      union entry_word fresh)
{
	if (way >= WAYS)
		return;
	clear_way(&bucket->entry[way]);
	*(volatile __u32 *)&bucket->tag[way] = tag_of(hash);
	store_word(&bucket->entry[way], fresh.word);
}

/* What add_flow has done, in one word, since a global function returns no more. */
struct added {
	target_t target; /* 0: none, and cell is the enum reason */
	__u32 cell; /* bucket * CELLS + way of a new flow, or FOUND: another CPU has added it */
};

union added_word {
	struct added added;
	__u64 word;
};

#define FOUND (~0U)

static __always_inline __u64 not_added(enum reason reason)
{
	return (union added_word){ .added.cell = reason }.word;
}

/*
 * The target of a flow that is not in its home bucket, if it has spilled and is alive. A dead one
 * is freed, so that no flow is in the table twice.
 */
static __always_inline target_t take_spilled(struct bucket *home, flow_hash_t hash, __u32 now)
{
	__u32 index = spill_of(hash), way;
	struct bucket *spill;
	union entry_word there;

	if (!has_spilled(home, now))
		return 0;
	spill = bpf_map_lookup_elem(&flows, &index);
	if (!spill)
		return 0;
	way = way_of(spill, hash, &there);
	if (way >= WAYS)
		return 0;
	if (is_alive(there.entry, now))
		return there.entry.target;
	if (__sync_val_compare_and_swap((__u64 *)&spill->entry[way], there.word, 0) == there.word)
		count_out(there.entry);
	return 0;
}

/* A bucket that is locked, and the way in it that a new flow gets. bucket NULL: none could be locked. */
struct room {
	struct bucket *bucket;
	__u32 index;
	__u32 way;
};

/*
 * Room in the table's second part. Where all flows there are live and established, a young embryonic
 * one at home gives way after all, and only where there is none, the longest idle of the others.
 */
static __always_inline struct room room_in_spill(struct bucket *home, flow_hash_t hash,
						 union entry_word fresh, __u32 now)
{
	struct room room = { .index = spill_of(hash) };
	struct bucket *spill = bpf_map_lookup_elem(&flows, &room.index);

	if (!spill || !lock_bucket(spill))
		return room;
	room.way = choose_way(spill, fresh.word, now, true);
	if (room.way == WAYS) {
		room.way = choose_way(home, fresh.word, now, true);
		if (room.way < WAYS) {
			unlock_bucket(spill);
			room.bucket = home;
			room.index = home_of(hash);
			return room;
		}
		room.way = oldest_way(spill, now);
		count_eviction(EVICTION_ESTABLISHED);
	}
	room.bucket = spill;
	count_eviction(EVICTION_SPILLED);
	note_spilled(home, now);
	return room;
}

/*
 * Adds a flow to the table. A function of its own, not inlined, so that the verifier looks at it
 * once and the code of packets of known flows stays small. word is the flow's entry; with a
 * service the flow gets the next of its targets (see choose). With a cursor, it takes a turn.
 * Returns an added_word.
 *
 * The home bucket stays locked while the flow is looked for and added, wherever it is added: two
 * CPUs that add one flow meet here, and the second finds what the first has chosen. A turn is taken
 * only when nothing can keep the flow from being added, so that turns give exact shares.
 */
__attribute__((noinline)) __u64 add_flow(flow_hash_t hash, __u64 word, __u32 now,
					 const struct service *service, struct cursor *cursor)
{
	union entry_word there, fresh = { .word = word };
	union added_word result = { .added.cell = FOUND };
	__u32 index = home_of(hash);
	struct bucket *home = bpf_map_lookup_elem(&flows, &index);
	struct room room = { .bucket = home, .index = index };
	enum reason reason = REASON_TX;
	__u64 turn = 0;

	if (!home || !lock_bucket(home))
		return not_added(REASON_FLOW_TABLE_FULL);
	room.way = way_of(home, hash, &there);
	if (room.way == WAYS)
		result.added.target = take_spilled(home, hash, now);
	else if (is_alive(there.entry, now))
		result.added.target = there.entry.target;
	if (result.added.target)
		goto unlock_home;

	result = (union added_word){ .added.cell = REASON_FLOW_TABLE_FULL };
	if (room.way == WAYS)
		room.way = choose_way(home, fresh.word, now, false);
	if (room.way == WAYS)
		room = room_in_spill(home, hash, fresh, now);
	if (!room.bucket)
		goto unlock_home;
	if (cursor)
		turn = take_turn(cursor, now);
	if (cursor && service)
		reason = choose(service, cursor, turn, tag_of(hash), now, &fresh.entry);
	if (reason) {
		result.word = not_added(reason);
	} else {
		if (!(cursor && service && service->limited))
			count_in(fresh.entry);
		write_way(room.bucket, room.way, hash, fresh);
		result.added.target = fresh.entry.target;
		result.added.cell = room.index * CELLS + room.way;
	}
	if (room.bucket != home)
		unlock_bucket(room.bucket);
unlock_home:
	unlock_bucket(home);
	return result.word;
}

/*
 * Records a new flow and counts it. Where another CPU has just recorded the same flow, its choice
 * holds and *target becomes that: all packets of a connection reach one backend. counted:
 * STATUS_COUNTED if the flow counts for its backend's load, else 0. by_turn, cursor: as for
 * add_flow, may be NULL.
 */
static __always_inline enum reason record_flow(const struct packet *p, struct family family,
					       const struct service *by_turn, struct cursor *cursor,
					       flow_hash_t hash, __u32 counted, __u32 state,
					       __u32 now, target_t *target)
{
	union entry_word fresh = { .entry = { .target = *target,
					      .status = status_of(state, check_of(hash) | counted,
								  now) } };
	union added_word result = { .word = add_flow(hash, fresh.word, now, by_turn, cursor) };

	*target = result.added.target;
	if (!*target)
		return result.added.cell;
	if (result.added.cell == FOUND)
		return REASON_TX;
	describe_flow(p, family, result.added.cell);
	count_connection(target_id(*target));
	return REASON_TX;
}

static __always_inline void record_fragment(target_t target)
{
	struct entry first = { .target = target,
			       .status = status_of(FLOW_FRAGMENT, 0, now_ticks()) };
	const struct fragment_key *name = fragment_name();

	if (name)
		bpf_map_update_elem(&fragments, name, &first, BPF_ANY);
}

#endif
