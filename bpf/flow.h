/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flows: which backend a connection has. Nothing outside this file knows how they are kept.
 *
 * The table is an array of buckets of one cache line each. A flow's keyed hash selects its bucket
 * and gives a tag of 40 bits by which it is known there, so that a packet of a known flow reads one
 * line. Beyond the cache that is one miss, where the kernel's hash maps take three.
 *
 * All CPUs share the table. An entry is one word: a packet reads it whole and changes it by
 * compare-and-swap, and so can neither act on half an entry nor bring back one that was replaced
 * meanwhile. Only who adds a flow locks, and only that flow's bucket.
 *
 * A flow names its backend together with the backend's generation. When a backend is removed its
 * generation rises and every flow of it is stale at once, without a sweep.
 */
#ifndef XDPLB_FLOW_H
#define XDPLB_FLOW_H

#include "maps.h"
#include "parse.h"

#define TARGET_ID_BITS 24
#define TARGET_ID 0xffffff

#define LOCK_ATTEMPTS 256

/*
 * SYNs may have this many of a bucket's ways, and beyond that free ones while they are young: what
 * is answered is answered within two ticks, and must not be lost to the next SYN.
 */
#define EMBRYONIC_WAYS 3
#define YOUNG_TICKS 2

const volatile __u32 flow_buckets;
const volatile __u32 spill_buckets;

/*
 * Odd random numbers, drawn when the program is loaded: nobody outside can tell which tuples share
 * a bucket. The sum of products is Thorup's vector multiply-shift, which is universal in its upper
 * 32 bits.
 */
const volatile __u64 hash_keys[HASH_KEYS];

union entry_word {
	struct entry entry;
	__u64 word;
};

struct flow_hash {
	__u32 bucket;
	__u32 tag;
	__u8 check;
};

/* Where a flow was found, and what its entry was then. */
struct flow {
	struct bucket *bucket; /* NULL: not found */
	__u32 way;
	union entry_word was;
};

static __always_inline __u32 now_ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

static __always_inline __u32 target_id(target_t target)
{
	return target & TARGET_ID;
}

static __always_inline target_t target_of(__u32 id, const struct backend *backend)
{
	return id | *(const volatile __u32 *)&backend->generation << TARGET_ID_BITS;
}

/* Whether the backend that the target names still lives the same life. */
static __always_inline bool is_current(target_t target)
{
	__u32 id = target_id(target);
	const struct backend *backend = bpf_map_lookup_elem(&backends, &id);

	return backend && target_of(id, backend) == target;
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
 * Ticks since then, and one: another CPU may have read the clock a tick later than we, and stored
 * that before we look. Ages wrap after 19 hours; an idle flow that was not swept until then seems
 * alive for its timeout once more.
 */
static __always_inline __u16 age_of(__u16 seen, __u32 now)
{
	return now - seen + 1;
}

static __always_inline bool is_expired(struct entry entry, __u32 now)
{
	return age_of(entry.seen, now) > timeout_of(entry.state) + 1;
}

static __always_inline bool is_over(struct entry entry)
{
	return entry.state == FLOW_FIN || entry.state == FLOW_CLOSED;
}

static __always_inline bool is_alive(struct entry entry, __u32 now)
{
	return is_current(entry.target) && !is_expired(entry, now) && !is_over(entry);
}

/*
 * Whether the packet goes where its flow's entry says. An opening packet or a datagram does not
 * follow an expired entry, and an opening packet not one whose connection has ended (LVS:
 * conn_reuse_mode=1). Any other TCP packet does: no better place for it is known.
 */
static __always_inline bool follows(const struct packet *p, struct entry entry, __u32 now)
{
	if (!is_current(entry.target))
		return false;
	if (is_opening(p))
		return !is_over(entry) && !is_expired(entry, now);
	return entry.state != FLOW_UDP || !is_expired(entry, now);
}

static __always_inline struct flow_hash finish_hash(__u64 sum)
{
	__u64 second = (sum ^ sum >> 32) * hash_keys[1];

	return (struct flow_hash){ .bucket = sum >> 32,
				   .tag = second >> 32,
				   .check = second >> 24 };
}

static __always_inline struct flow_hash hash_flow4(const struct flow_key4 *key)
{
	__u32 ports = *(const __u32 *)&key->client_port;

	return finish_hash(hash_keys[0] + key->client * hash_keys[2] + key->vip * hash_keys[3] +
			   ports * hash_keys[4] + key->protocol * hash_keys[5]);
}

static __always_inline struct flow_hash hash_flow6(const struct flow_key6 *key)
{
	const __u32 *word = (const __u32 *)key;
	__u64 sum = hash_keys[0];

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i] * hash_keys[2 + i];
	return finish_hash(sum);
}

static __always_inline __u32 home_of(struct flow_hash hash)
{
	return (__u64)hash.bucket * flow_buckets >> 32;
}

/* The bucket in the table's second part. Taken from the tag, so that one bucket's flows scatter. */
static __always_inline __u32 spill_of(struct flow_hash hash)
{
	return flow_buckets + ((__u64)hash.tag * spill_buckets >> 32);
}

static __always_inline __u64 load_word(const struct entry *entry)
{
	return *(const volatile __u64 *)entry;
}

/* The way that holds the flow, or WAYS. */
static __always_inline __u32 way_of(const struct bucket *bucket, struct flow_hash hash,
				    union entry_word *was)
{
#pragma unroll
	for (int way = 0; way < WAYS; way++) {
		const volatile __u32 *tag = &bucket->tag[way];

		if (*tag != hash.tag)
			continue;
		was->word = load_word(&bucket->entry[way]);
		/* tag, entry, tag again: the entry is this tag's, or the tag has changed */
		if (was->word && was->entry.check == hash.check && *tag == hash.tag)
			return way;
	}
	return WAYS;
}

static __always_inline bool has_spilled(const struct bucket *bucket, __u32 now)
{
	__u32 head = *(const volatile __u32 *)&bucket->head;

	return head & HEAD_SPILLED && age_of(head, now) <= TIMEOUT_ESTABLISHED + 1;
}

/* A packet of a spilled flow keeps its home bucket's note alive. */
static __always_inline void note_spilled(struct bucket *bucket, __u32 now)
{
	__u32 head = *(volatile __u32 *)&bucket->head;
	__u32 want = (head & HEAD_LOCKED) | HEAD_SPILLED | (now & HEAD_TICK);

	if (head != want)
		__sync_val_compare_and_swap(&bucket->head, head, want);
}

static __always_inline struct flow find_flow(struct flow_hash hash, __u32 now)
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
	if (!has_spilled(home, now))
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
 * clean.
 */
static __always_inline void touch_flow(struct flow *flow, __u32 state, __u32 now)
{
	union entry_word next = flow->was;

	next.entry.seen = now;
	/* a connection only moves on: SYN, established, FIN, closed */
	if (state > next.entry.state)
		next.entry.state = state;
	if (next.word != flow->was.word && flow->way < WAYS)
		__sync_val_compare_and_swap((__u64 *)&flow->bucket->entry[flow->way],
					    flow->was.word, next.word);
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

static __always_inline void unlock_bucket(struct bucket *bucket)
{
	__sync_fetch_and_and(&bucket->head, ~HEAD_LOCKED);
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
 * The way that a new flow may have: free, else expired or stale, else a SYN's. WAYS: all are live
 * and established.
 */
static __always_inline __u32 choose_way(const struct bucket *bucket, __u32 state, __u32 now)
{
	__u32 free = WAYS, expired = WAYS, embryonic = WAYS, oldest = 0, embryos = 0;

#pragma unroll
	for (int way = 0; way < WAYS; way++) {
		union entry_word there = { .word = load_word(&bucket->entry[way]) };
		__u16 age = age_of(there.entry.seen, now);

		if (!there.word) {
			free = way;
		} else if (is_expired(there.entry, now)) {
			expired = way;
		} else if (there.entry.state == FLOW_SYN) {
			embryos++;
			if (age >= oldest) {
				oldest = age;
				embryonic = way;
			}
		}
	}
	if (state == FLOW_SYN && embryos >= EMBRYONIC_WAYS && oldest > YOUNG_TICKS) {
		count_eviction(EVICTION_EMBRYONIC);
		return embryonic;
	}
	if (free < WAYS)
		return free;
	if (expired == WAYS)
		expired = stale_way(bucket);
	if (expired < WAYS) {
		count_eviction(EVICTION_EXPIRED);
		return expired;
	}
	if (embryonic < WAYS)
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
		__u16 age = age_of(there.entry.seen, now);

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
static __always_inline void expect_flow(struct flow_hash hash)
{
	__u32 index = home_of(hash);
	struct origins *origins = bpf_map_lookup_elem(&flow_origins, &index);

	if (origins)
		(void)*(volatile __u32 *)origins;
}

/*
 * Writes a flow into a way of a locked bucket. No packet takes the old flow's word for the new
 * flow's, or the reverse.
 */
static __always_inline void write_way(struct bucket *bucket, __u32 way, struct flow_hash hash,
				      union entry_word fresh)
{
	if (way >= WAYS)
		return;
	if (load_word(&bucket->entry[way]))
		__sync_lock_test_and_set((__u64 *)&bucket->entry[way], 0);
	*(volatile __u32 *)&bucket->tag[way] = hash.tag;
	__sync_lock_test_and_set((__u64 *)&bucket->entry[way], fresh.word);
}

/* What add_flow has done, in one word, since a global function returns no more. */
struct added {
	target_t target; /* 0: the bucket could not be locked */
	__u32 cell; /* bucket * CELLS + way of a new flow, or FOUND: another CPU has added it */
};

union added_word {
	struct added added;
	__u64 word;
};

#define FOUND (~0U)

/*
 * The target of a flow that is not in its home bucket, if it has spilled and is alive. A dead one
 * is freed, so that no flow is in the table twice.
 */
static __always_inline target_t take_spilled(const struct bucket *home, struct flow_hash hash,
					     __u32 now)
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
	__sync_val_compare_and_swap((__u64 *)&spill->entry[way], there.word, 0);
	return 0;
}

static __always_inline __u64 add_in_spill(struct bucket *home, struct flow_hash hash,
					  union entry_word fresh, __u32 now)
{
	union added_word result = { .added.target = fresh.entry.target };
	__u32 index = spill_of(hash), way;
	struct bucket *spill = bpf_map_lookup_elem(&flows, &index);

	if (!spill || !lock_bucket(spill))
		return 0;
	way = choose_way(spill, fresh.entry.state, now);
	if (way == WAYS) {
		way = oldest_way(spill, now);
		count_eviction(EVICTION_ESTABLISHED);
	}
	write_way(spill, way, hash, fresh);
	unlock_bucket(spill);
	count_eviction(EVICTION_SPILLED);
	note_spilled(home, now);
	result.added.cell = index * CELLS + way;
	return result.word;
}

/*
 * Adds a flow to the table. A function of its own, not inlined, so that the verifier looks at it
 * once and the code of packets of known flows stays small. word is the flow's entry. Returns an
 * added_word.
 *
 * The home bucket stays locked while the flow is looked for and added, wherever it is added: two
 * CPUs that add one flow meet here, and the second finds what the first has chosen.
 */
__attribute__((noinline)) __u64 add_flow(__u32 bucket, __u32 tag, __u64 word)
{
	union entry_word there, fresh = { .word = word };
	struct flow_hash hash = { .bucket = bucket, .tag = tag, .check = fresh.entry.check };
	union added_word result = { .added.target = fresh.entry.target };
	__u32 index = home_of(hash), now = fresh.entry.seen, way;
	struct bucket *home = bpf_map_lookup_elem(&flows, &index);
	target_t known;

	if (!home || !lock_bucket(home))
		return 0;
	way = way_of(home, hash, &there);
	if (way < WAYS)
		known = is_alive(there.entry, now) ? there.entry.target : 0;
	else
		known = take_spilled(home, hash, now);
	if (known) {
		result.added.target = known;
		result.added.cell = FOUND;
		unlock_bucket(home);
		return result.word;
	}
	if (way == WAYS)
		way = choose_way(home, fresh.entry.state, now);
	if (way < WAYS) {
		write_way(home, way, hash, fresh);
		result.added.cell = index * CELLS + way;
	} else {
		result.word = add_in_spill(home, hash, fresh, now);
	}
	unlock_bucket(home);
	return result.word;
}

/*
 * Records a newly scheduled flow. Where another CPU has just recorded the same flow, its choice
 * holds and *target becomes that: all packets of a connection reach one backend. Returns 1 if
 * *target is the caller's choice, 0 if it is the other CPU's, -1 if the bucket could not be locked.
 */
static __always_inline int record_flow(const struct packet *p, struct family family,
				       struct flow_hash hash, __u32 state, __u32 now,
				       target_t *target)
{
	union entry_word fresh = {
		.entry = { .target = *target, .state = state, .check = hash.check, .seen = now }
	};
	union added_word result = { .word = add_flow(hash.bucket, hash.tag, fresh.word) };

	*target = result.added.target;
	if (!*target)
		return -1;
	if (result.added.cell == FOUND)
		return 0;
	describe_flow(p, family, result.added.cell);
	return 1;
}

static __always_inline void record_fragment(const struct packet *p, target_t target)
{
	struct entry first = { .target = target, .state = FLOW_FRAGMENT, .seen = now_ticks() };

	bpf_map_update_elem(&fragments, &p->fragment, &first, BPF_ANY);
}

#endif
