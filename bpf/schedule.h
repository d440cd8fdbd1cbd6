/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The backend of a new flow: one slot of the service's lookup table, which user space has built
 * (internal/schedule). rr and wrr take the slots by turns, all CPUs from one counter, so that
 * shares are exact; sh and mh take the slot that the client hashes to.
 */
#ifndef XDPLB_SCHEDULE_H
#define XDPLB_SCHEDULE_H

#include "maps.h"
#include "parse.h"

/* Odd constants of a good avalanche (the 64-bit finalizer family of Stafford's mix13). */
#define MIX_1 0xbf58476d1ce4e5b9ULL
#define MIX_2 0x94d049bb133111ebULL

static __always_inline __u64 mix(__u64 x)
{
	x ^= x >> 30;
	x *= MIX_1;
	x ^= x >> 27;
	x *= MIX_2;
	return x ^ x >> 31;
}

/*
 * Hash of the client's address, as LVS's sh and mh take it (without the port). It has no secret:
 * every director must find the same backend for the same client.
 */
static __always_inline __u32 hash_client(const struct packet *p, struct family family)
{
	const __be32 *client = (const __be32 *)p->key6.client;

	if (!family.is_ip6)
		return mix(p->key4.client);
	return mix(((__u64)client[0] << 32 | client[1]) ^ mix((__u64)client[2] << 32 | client[3]));
}

static __always_inline bool is_hashing(const struct service *service)
{
	return service->scheduler >= SCHEDULER_SH;
}

static __always_inline enum reason schedule(const struct packet *p, struct family family,
					    const struct service *service,
					    union target_word *target)
{
	__u32 slot, pair, table_id = service->table, id = service->id;
	const struct backend *backend;
	const struct slots *slots;
	struct cursor *cursor;
	void *table;

	if (!service->slots)
		return REASON_NO_BACKEND;
	if (is_hashing(service)) {
		slot = (__u64)hash_client(p, family) * service->slots >> 32;
	} else {
		cursor = bpf_map_lookup_elem(&cursors, &id);
		if (!cursor)
			return REASON_INTERNAL;
		slot = __sync_fetch_and_add(&cursor->next, 1) % service->slots;
	}
	table = bpf_map_lookup_elem(&tables, &table_id);
	if (!table)
		return REASON_INTERNAL;
	pair = slot / 2;
	slots = bpf_map_lookup_elem(table, &pair);
	if (!slots)
		return REASON_INTERNAL;
	target->target.backend = slots->backend[slot & 1];
	backend = bpf_map_lookup_elem(&backends, &target->target.backend);
	if (!backend)
		return REASON_INTERNAL;
	target->target.generation = *(const volatile __u32 *)&backend->generation;
	return REASON_TX;
}

#endif
