/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The backend of a new flow: one slot of the service's lookup table, which user space has built
 * (internal/schedule). rr and wrr take the slots by turns, all CPUs from one counter, so that
 * shares are exact; sh and mh take the slot that the client hashes to. fo and dh have one slot:
 * which backend it is depends on nothing that a packet says. Those that look at how many flows the
 * backends have are in balance.h.
 */
#ifndef XDPLB_SCHEDULE_H
#define XDPLB_SCHEDULE_H

#include "maps.h"
#include "parse.h"
#include "state.h"
#include "target.h"

/* Odd constants of a good avalanche (the 64-bit finalizer family of Stafford's mix13). */
#define MIX_1 0xbf58476d1ce4e5b9ULL
#define MIX_2 0x94d049bb133111ebULL
#define MIX_3 0x9e3779b97f4a7c15ULL /* 2^64 over the golden ratio */

static __always_inline __u64 mix(__u64 x)
{
	x ^= x >> 30;
	x *= MIX_1;
	x ^= x >> 27;
	x *= MIX_2;
	return x ^ x >> 31;
}

/*
 * Hash of the client's address, as LVS's sh and mh take it, without the port unless a flag says so.
 * It has no secret: every director must find the same backend for the same client.
 */
static __always_inline __u32 hash_client(const struct packet *p, struct family family,
					 const struct service *service)
{
	const __be32 *client = (const __be32 *)p->key6.client;
	__u64 port = family.is_ip6 ? p->key6.client_port : p->key4.client_port;

	port = service->flags & FLAG_HASH_PORT ? port << 32 : 0;
	if (!family.is_ip6)
		return mix(port | p->key4.client);
	return mix(port ^ ((__u64)client[0] << 32 | client[1]) ^
		   mix((__u64)client[2] << 32 | client[3]));
}

/* Whether flows are placed by a hash that any director finds again. */
static __always_inline bool is_hashing(const struct service *service)
{
	const __u32 hashing = 1 << SCHEDULER_SH | 1 << SCHEDULER_MH | 1 << SCHEDULER_DH;

	return hashing >> (service->scheduler & 31) & 1;
}

/* Some slots of a table that begins with a struct slots, by their number; NULL: there are none. */
static __always_inline const struct slots *slots_of(__u32 table, __u32 number)
{
	__u32 at = table / SLOTS + number, index = at / PART;
	void *part = bpf_map_lookup_elem(&tables, &index);

	at %= PART;
	return part ? bpf_map_lookup_elem(part, &at) : NULL;
}

/* The backend id in a slot of a lookup table, with SLOT_UNSETTLED; 0: no such slot. */
static __always_inline __u32 slot_of(__u32 table, __u32 slot)
{
	__u32 at = table + slot;
	const struct slots *slots = slots_of(at, 0);

	return slots ? slots->backend[at % SLOTS] : 0;
}

static __always_inline enum reason aim(__u32 id, target_t *target)
{
	const struct backend *backend;

	if (id == SLOT_UNSETTLED)
		return REASON_NO_BACKEND;
	id &= ~SLOT_UNSETTLED;
	backend = bpf_map_lookup_elem(&backends, &id);
	if (!id || !backend)
		return REASON_INTERNAL;
	*target = target_of(id, backend);
	return REASON_TX;
}

static __always_inline __u32 client_slot(const struct packet *p, struct family family,
					 const struct service *service)
{
	return (__u64)hash_client(p, family, service) * service->slots >> 32;
}

/*
 * Flood mode: a service that gets more new TCP flows in a tick than the table bears places SYNs by
 * the hash of their tuple and does not record them. The client's next packet has the same hash,
 * reaches the same backend, and is recorded.
 */
const volatile __u32 flood_rate; /* new flows per tick and service */

#define FLOOD_TICKS 4 /* it lasts for so long after the last tick that was over the rate */

static __always_inline bool is_flooded(const struct cursor *cursor, __u32 now)
{
	return (__s32)(cursor->flood_until - now) > 0;
}

/* For so many ticks into a flood, SYNs from before it may be sent again (RFC 6298: after 1, 3, 7 s). */
#define RETRY_TICKS 8

/* Whether a SYN may have an entry from before the flood, which it follows. */
static __always_inline bool is_recorded_before(const struct cursor *cursor, __u32 now)
{
	return now - cursor->flood_since <= RETRY_TICKS;
}

/* Whether a packet may still come whose SYN was placed in flood mode. */
static __always_inline bool was_flooded(const struct cursor *cursor, __u32 now)
{
	return cursor->floods && (__s32)(cursor->flood_until + TIMEOUT_SYN - now) > 0;
}

/* Takes the next turn, and notices when turns are taken faster than the flood rate. */
static __always_inline __u64 take_turn(struct cursor *cursor, __u32 now)
{
	__u64 turn = __sync_fetch_and_add(&cursor->next, 1);

	if (cursor->tick != now) {
		cursor->tick = now;
		cursor->first = turn;
	}
	if (turn - cursor->first == flood_rate) {
		if (!is_flooded(cursor, now)) {
			cursor->flood_since = now;
			__sync_fetch_and_add(&cursor->floods, 1);
		}
		cursor->flood_until = now + FLOOD_TICKS;
	}
	return turn;
}

/*
 * The slot that a hash tells. In a flood those of Maglev are asked that lie behind the slots that are
 * gone through in turn: of the handshakes that a change of backends meets, few go elsewhere. A
 * function of its own, for the stack's sake.
 */
__attribute__((noinline)) __u32 slot_of_hash(const struct service *service, __u32 hash)
{
	__u32 slot;

	if (!service)
		return 0;
	if (service->flood_bits)
		slot = service->slots + ((__u64)hash << service->flood_bits >> 32);
	else
		slot = (__u64)hash * service->slots >> 32;
	return slot_of(service->table, slot);
}

/*
 * The slot of a packet that goes by its hash alone, in flood mode, and after it: of its client's hash
 * where the scheduler has one, else of the flow's. tag: that.
 */
static __always_inline __u32 hashed_slot(const struct packet *p, struct family family,
					 const struct service *service, __u32 tag)
{
	return slot_of_hash(service, is_hashing(service) ? hash_client(p, family, service) : tag);
}

/*
 * mh: lets a packet of a connection that has been opened already go where its slot says, without a
 * look at its flow, if the slot alone tells that. All flows of a settled slot have its backend,
 * unless there are limits. Time alone does not settle a slot: a connection may last for days.
 */
static __always_inline bool follow_slot(struct packet *p, struct family family,
					const struct service *service)
{
	const struct backend *to;
	__u32 id;

	if (!service->settled)
		return false;
	id = slot_of(service->table, client_slot(p, family, service));
	if (!id || id & SLOT_UNSETTLED)
		return false;
	to = bpf_map_lookup_elem(&backends, &id);
	if (!to)
		return false;
	p->id = id;
	p->to = to;
	return true;
}

/* Whether a hash can tell the backend of a connection that no flow knows. */
static __always_inline bool is_reckoned(const struct service *service, const struct cursor *cursor,
					__u32 now)
{
	return is_hashing(service) || was_flooded(cursor, now);
}

/*
 * Whether the hash may soon tell another backend, so that the reckoned one must be kept in mind: an
 * mh slot that is not settled (a settled one is not asked), and what a flood has left unrecorded.
 */
static __always_inline bool is_moving(const struct service *service, const struct cursor *cursor,
				      __u32 now)
{
	return service->scheduler == SCHEDULER_MH || was_flooded(cursor, now);
}

/* The backend of a connection that no flow knows, by its hash. */
static __always_inline enum reason reckon(const struct packet *p, struct family family,
					  const struct service *service, __u32 tag,
					  target_t *target)
{
	__u32 id = hashed_slot(p, family, service, tag), before = 0;

	/* flows of an unsettled slot that have no entry are older than its change */
	if (id & SLOT_UNSETTLED && service->previous)
		before = slot_of(service->previous, client_slot(p, family, service));
	return aim(before ? before : id, target);
}

/*
 * mh: a packet of a settled slot does without its flow's entry, but what the entry says is wanted
 * too: for the listing, and for the day on which the slot changes. So the first packet after a SYN
 * looks the flow up all the same, FIN and RST and SCTP's control chunks do, and one in 2^SAMPLE_BITS
 * of the others. Any CPU sets and clears the marks; one that is lost delays an entry's next state, no
 * more.
 */
#define SAMPLE_BITS 6
#define MARKS 65536

__u8 marks[MARKS]; /* by the flow's hash: 1: a SYN came, and no packet after it */

static __always_inline void mark_opening(__u32 tag)
{
	marks[tag % MARKS] = 1;
}

/* Squared, or numbers that rise by equal steps may miss it for thousands of packets. */
static __always_inline bool is_sampled(__u64 numbers)
{
	return numbers * numbers * MIX_1 >> (64 - SAMPLE_BITS) == 1;
}

static __always_inline bool is_watched(const struct packet *p, __u32 tag)
{
	if (!is_established(p->event))
		return true;
	if (marks[tag % MARKS]) {
		marks[tag % MARKS] = 0;
		return true;
	}
	return p->numbers && is_sampled(p->numbers[0] ^ p->numbers[1]);
}

#endif
