// SPDX-License-Identifier: GPL-2.0-only
/*
 * xdplb: a layer-4 load balancer in direct-routing mode. The program reads top to bottom as a
 * packet's walk:
 *
 *   parse     whose flow is it?                          parse.h
 *   service   is it ours?                                service.h
 *   find      where do its packets go already?           flow.h
 *   schedule  a new flow: which backend?                 schedule.h, balance.h, persist.h
 *   forward   next hop's MAC, one hop less, and out      forward.h
 *   count     every packet under exactly one reason      count.h
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"
#include "maps.h"
#include "parse.h"
#include "flow.h"
#include "persist.h"
#include "schedule.h"
#include "service.h"
#include "count.h"
#include "forward.h"
#include "side.h"

/*
 * What tells the slot of a connection that flood mode leaves unrecorded: a hash of its flow, or of
 * its client.
 */
static __always_inline __u32 flood_tag(const struct packet *p, struct family family,
				       const struct service *service, flow_hash_t hash)
{
	return service->persistence ? number_client(p, family, service) : tag_of(hash);
}

/*
 * Schedules a packet that no flow knows, and records its flow. known: one did, but it is over or
 * its backend is gone. cursor: the service's, if it was looked up already.
 *
 * A connection whose backend the hash finds again and again is not recorded by a packet from its
 * middle: nobody can fill the table with those. Where the hash can tell, it tells also of one whose
 * entry is stale: that may be left from an earlier connection of the tuple, and the SYN of this one
 * was placed in flood mode.
 */
static __always_inline enum reason open_flow(const struct packet *p, struct family family,
					     const struct service *service, struct cursor *cursor,
					     flow_hash_t hash, bool known, __u32 event, __u32 now,
					     target_t *target)
{
	bool starts = is_first(event), opens = starts || known, reckoned;
	enum joining_mode mode = JOIN_FOLLOW;
	const struct service *by_turn = NULL;
	enum reason reason = REASON_TX;

	if (!is_addressed_to_us(p))
		return REASON_OTHER_HOST;
	if (!cursor)
		cursor = bpf_map_lookup_elem(&cursors, &service->id);
	if (!cursor)
		return REASON_INTERNAL;
	reckoned = !starts && is_reckoned(service, cursor, now);
	if (!opens && !reckoned)
		return REASON_NO_CONNECTION;
	if (!service->slots) {
		reason = REASON_NO_BACKEND;
	} else if (reckoned) {
		reason = reckon(p, family, service, flood_tag(p, family, service, hash), target);
	} else if (is_hashing(service) && !service->limited) {
		reason = aim(slot_of(service->table, client_slot(p, family, service)), target);
		mode = JOIN_TARGET;
	} else {
		by_turn = service;
		mode = JOIN_CHOOSE;
	}
	if (by_turn && is_hashing(service))
		*target = client_slot(p, family, service); /* see choose */
	if (service->persistence && (!reason || reason == REASON_NO_BACKEND)) {
		reason = persist(p, family, service, cursor, hash, reason ? JOIN_FOLLOW : mode,
				 target);
		by_turn = NULL;
	}
	if (reason || !(opens || (is_established(event) && is_moving(service, cursor, now))))
		return reason;
	reason = record_flow(p, family, by_turn, opens ? cursor : NULL, hash,
			     service->members ? STATUS_COUNTED : 0, first_state(event, opens), now,
			     target);
	if (service->limited && !by_turn && !reason)
		note_place(target_id(*target));
	return reason;
}

/*
 * The backend of a SYN that is placed by its hash alone, since the service is in flood mode; 0: of
 * one that is not.
 */
static __always_inline __u32 flood_backend(const struct packet *p, struct family family,
					   const struct service *service,
					   const struct cursor *cursor, flow_hash_t hash, __u32 now)
{
	__u32 id;

	if (!is_flooded(cursor, now) || !service->slots)
		return 0;
	id = hashed_slot(p, family, service, flood_tag(p, family, service, hash));
	/* what an unsettled slot has not recorded is taken for its previous backend's */
	if (id & SLOT_UNSETTLED || (service->limited && is_full(id, flows_of(id))))
		return 0;
	return id;
}

/* A datagram that belongs to no flow. */
static __always_inline enum reason place_once(const struct packet *p, struct family family,
					      const struct service *service, flow_hash_t hash,
					      target_t *target)
{
	struct cursor *cursor = bpf_map_lookup_elem(&cursors, &service->id);
	__u32 place = is_hashing(service) ? client_slot(p, family, service) : tag_of(hash);
	union chosen_word chosen;
	struct added joined;

	if (!is_addressed_to_us(p))
		return REASON_OTHER_HOST;
	if (!cursor)
		return REASON_INTERNAL;
	if (service->persistence) {
		joined = service->slots ?
				 join(p, family, service, cursor, hash, JOIN_CHOOSE, place) :
				 join(p, family, service, cursor, hash, JOIN_FOLLOW, 0);
		*target = joined.target;
		if (!*target)
			return joined.cell;
		if (joined.cell == FOUND) /* not the client's first datagram */
			confirm(p, family, service, hash, *target);
	} else if (!service->slots) {
		return REASON_NO_BACKEND;
	} else {
		chosen.word = choose_once(service, cursor, place, now_ticks());
		if (chosen.reason)
			return chosen.reason;
		*target = chosen.target;
	}
	count_connection(target_id(*target));
	return REASON_TX;
}

/* The backend that is the director itself, if the packet comes from a peer; 0: it does not. */
__attribute__((noinline)) __u32 find_self(__u64 source, __u32 service)
{
	struct peer peer = { .service = service };
	__u32 *self;

	__builtin_memcpy(peer.mac, &source, sizeof(peer.mac));
	self = bpf_map_lookup_elem(&peers, &peer);
	return self ? *self : 0;
}

/*
 * Two directors may be each other's real servers. What another backend of the service sends here, to
 * the VIP, it has scheduled: it is for the director itself. Were it scheduled again, it could go back
 * to where it came from, round and round until its TTL is used up.
 */
static __always_inline __u32 self_of_peer(const struct packet *p, const struct service *service)
{
	if (likely(!(service->flags & FLAG_PEERS)))
		return 0;
	/* and the two bytes behind it */
	return find_self(*(const __u64 *)p->eth->h_source, service->id);
}

/* Records a flow that a peer has scheduled. Where it is known as another backend's, the peer is right. */
static __always_inline enum reason place_own(const struct packet *p, struct family family,
					     const struct service *service, flow_hash_t hash,
					     __u32 event, __u32 self, target_t *target)
{
	enum reason reason = aim(self, target);

	if (reason)
		return reason;
	if (!is_addressed_to_us(p))
		return REASON_OTHER_HOST;
	if (service->flags & FLAG_ONE_PACKET) {
		count_connection(self);
		return REASON_TX;
	}
	if (keep_flow(hash, event, *target))
		return REASON_TX;
	return record_flow(p, family, NULL, NULL, hash, service->members ? STATUS_COUNTED : 0,
			   first_state(event, is_first(event)), now_ticks(), target);
}

/*
 * Places the packets of a service that are not scheduled here, or each by itself. Returns false for one
 * that goes the way of all others.
 */
static __always_inline bool place_apart(const struct packet *p, struct family family,
					const struct service *service, flow_hash_t hash,
					target_t *target, enum reason *reason)
{
	__u32 self = self_of_peer(p, service);

	if (self)
		*reason = place_own(p, family, service, hash, p->event, self, target);
	else if (service->flags & FLAG_ONE_PACKET)
		*reason = place_once(p, family, service, hash, target);
	else
		return false;
	return true;
}

/* Lets the packet go where its flow goes, if it may. known: there is a flow at all. */
static __always_inline bool follow_flow(struct packet *p, struct family family,
					const struct service *service, flow_hash_t hash,
					__u32 event, __u32 now, bool *known)
{
	struct flow flow = find_flow(hash, now);
	target_t target = flow.was.entry.target;
	const struct backend *to;

	*known = flow.bucket != NULL;
	if (unlikely(!flow.bucket || !follows(event, flow.was.entry, now, &to)))
		return false;
	p->to = to;
	p->id = target_id(target);
	if (touch_flow(&flow, event, now) && service->persistence)
		confirm(p, family, service, hash, target);
	return true;
}

/*
 * Places a SYN or INIT that comes again, or in a flood. Returns false for one of a new flow, which is
 * to be recorded, whether there was one before or not.
 */
static __always_inline bool place_opening(struct packet *p, struct family family,
					  const struct service *service, flow_hash_t hash,
					  __u32 event, __u32 now, struct cursor *cursor,
					  target_t *target, enum reason *reason)
{
	__u32 unrecorded;
	bool known;

	if (service->scheduler == SCHEDULER_MH)
		mark_opening(tag_of(hash));
	unrecorded = flood_backend(p, family, service, cursor, hash, now);
	*reason = REASON_TX;
	if (!unrecorded || is_recorded_before(cursor, now)) {
		expect_flow(hash);
		if (follow_flow(p, family, service, hash, event, now, &known)) {
			*target = target_of(p->id, p->to);
			return true;
		}
	}
	if (!unrecorded)
		return false;
	take_turn(cursor, now);
	*reason = aim(unrecorded, target);
	if (!*reason && service->persistence)
		*reason = persist(p, family, service, cursor, hash, JOIN_FOLLOW, target);
	return true;
}

/* Looks up where a packet goes that has not come upon it on its way. */
static __always_inline enum reason head_for(struct packet *p, target_t target)
{
	__u32 id = target_id(target);

	p->id = id;
	p->to = bpf_map_lookup_elem(&backends, &id);
	return p->to ? REASON_TX : REASON_INTERNAL;
}

static __always_inline enum reason place(struct packet *p, struct family family)
{
	const struct service *service = find_service(p, family);
	__u32 event = p->event, now;
	struct cursor *cursor = NULL;
	target_t target = 0;
	bool known = false;
	enum reason reason;
	flow_hash_t hash;

	if (!service)
		return stop(REASON_NO_SERVICE);
	hash = family.is_ip6 ? hash_flow6(&p->key6) : hash_flow4(&p->key4);
	if (unlikely(service->flags & (FLAG_PEERS | FLAG_ONE_PACKET)) &&
	    place_apart(p, family, service, hash, &target, &reason))
		goto placed;
	if (!is_first(event) && follow_slot(p, family, service)) {
		if (is_watched(p, tag_of(hash)))
			keep_flow(hash, event, target_of(p->id, p->to));
		return REASON_TX;
	}
	now = now_ticks();
	if (unlikely(is_opening(event))) {
		cursor = bpf_map_lookup_elem(&cursors, &service->id);
		if (!cursor)
			return stop(REASON_INTERNAL);
		if (place_opening(p, family, service, hash, event, now, cursor, &target, &reason))
			goto placed;
	} else if (follow_flow(p, family, service, hash, event, now, &known)) {
		return REASON_TX;
	}
	reason = open_flow(p, family, service, cursor, hash, known, event, now, &target);
placed:
	return reason ? reason : head_for(p, target);
}

/* An ICMP error goes where the flow goes that it quotes. It is no sign of life of that flow. */
static __always_inline enum reason place_quoted(struct packet *p, struct family family)
{
	const struct service *service = find_service(p, family);
	__u32 self = service ? self_of_peer(p, service) : 0;
	flow_hash_t hash;
	struct flow flow;

	if (self)
		return head_for(p, self);
	if (service && follow_slot(p, family, service))
		return REASON_TX;
	hash = family.is_ip6 ? hash_flow6(&p->key6) : hash_flow4(&p->key4);
	flow = find_flow(hash, now_ticks());
	if (!flow.bucket || !is_current(flow.was.entry.target))
		return REASON_ICMP_UNMATCHED;
	return head_for(p, flow.was.entry.target);
}

static __always_inline enum reason place_fragment(struct packet *p)
{
	const struct fragment_key *name = fragment_name();
	const struct entry *first;
	union entry_word was;

	if (!name)
		return REASON_INTERNAL;
	first = bpf_map_lookup_elem(&fragments, name);
	if (!first)
		return REASON_FRAGMENT_UNMATCHED;
	was.word = load_word(first);
	if (is_expired(was.entry, now_ticks()) || !is_current(was.entry.target))
		return REASON_FRAGMENT_UNMATCHED;
	return head_for(p, was.entry.target);
}

static __always_inline enum reason deliver(struct packet *p, struct family family)
{
	enum reason reason;

	switch (p->kind) {
	case KIND_FLOW:
		reason = place(p, family);
		break;
	case KIND_QUOTED:
		reason = place_quoted(p, family);
		break;
	default:
		reason = place_fragment(p);
	}
	if (reason)
		return reason;
	/* where the backend was removed just now, those that follow are lost, or its successor's */
	if (unlikely(p->first_fragment))
		record_fragment(target_of(p->id, p->to));
	return forward(p, family);
}

static __always_inline enum reason walk(struct xdp_md *ctx)
{
	const struct family ip4 = { .is_ip6 = false };
	const struct family ip6 = { .is_ip6 = true };
	struct reader at = {
		.pos = frame_start(ctx),
		.end = frame_end(ctx),
		.left = ~0U,
	};
	struct packet packet;
	enum reason reason;
	__be16 protocol;

	start_packet(&packet, ctx);
	reason = parse_ethernet(&packet, &at, &protocol);
	if (reason)
		return reason;
	switch (protocol) {
	case bpf_htons(ETH_P_IP):
		reason = parse_ip4(&packet, &at);
		return reason ? reason : deliver(&packet, ip4);
	case bpf_htons(ETH_P_IPV6):
		reason = parse_ip6(&packet, &at);
		return reason ? reason : deliver(&packet, ip6);
	default:
		return REASON_NOT_IP;
	}
}

/*
 * "frags": frames larger than a page, as jumbo MTUs bring them, are taken too (since Linux 5.18).
 */
SEC("xdp.frags")
int xdplb(struct xdp_md *ctx)
{
	enum reason reason = walk(ctx);

	count_reason(reason);
	return verdict(reason);
}

char _license[] SEC("license") = "GPL";
