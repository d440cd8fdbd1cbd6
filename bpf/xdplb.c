// SPDX-License-Identifier: GPL-2.0-only
/*
 * xdplb: a layer-4 load balancer in direct-routing mode. The program reads top to bottom as a
 * packet's walk:
 *
 * parse     whose flow is it?                          parse.h find      where do its packets go
 * already?           flow.h schedule  a new flow: which backend?                 schedule.h forward
 * next hop's MAC, one hop less, and out      forward.h count     every packet under exactly one
 * reason      count.h
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"
#include "maps.h"
#include "parse.h"
#include "flow.h"
#include "schedule.h"
#include "count.h"
#include "forward.h"

static __always_inline const struct service *find_service(struct family family, const void *key)
{
	const struct config *live;
	__u32 zero = 0, side;
	void *services;

	live = bpf_map_lookup_elem(&config, &zero);
	if (!live)
		return NULL;
	side = *(const volatile __u64 *)&live->epoch & 1;
	services = bpf_map_lookup_elem(family.services, &side);
	if (!services)
		return NULL;
	return bpf_map_lookup_elem(services, key);
}

/*
 * A TCP packet that no flow knows: a SYN seen before, or the end of a handshake. Sets target on
 * success.
 */
static __always_inline bool find_syn(const struct packet *p, struct family family, const void *key,
				     __u32 now, union target_word *target, bool *stale)
{
	struct flow *syn = bpf_map_lookup_elem(family.syns, key);
	__u32 state = state_of(p, IPPROTO_TCP);

	if (!syn)
		return false;
	if (!follows(p, syn, now)) {
		*stale = true;
		return false;
	}
	*target = load_target(syn);
	if (is_opening(p)) {
		touch(syn, state, now);
		return true;
	}
	if (record(family.flows, key, target, state, now) >= 0)
		bpf_map_delete_elem(family.syns, key);
	return true;
}

/* Schedules a new flow and records it. */
static __always_inline enum reason open_flow(const struct packet *p, struct family family,
					     const struct service *service, const void *key,
					     __u8 protocol, __u32 now, union target_word *target)
{
	enum reason reason = schedule(p, family, service, target);
	__u32 state = state_of(p, protocol);
	int ours;

	if (reason)
		return reason;
	if (state == FLOW_SYN) {
		bpf_map_delete_elem(family.flows, key); /* of a connection that has ended */
		ours = record(family.syns, key, target, state, now);
	} else {
		ours = record(family.flows, key, target, state, now);
	}
	if (ours < 0)
		return REASON_FLOW_TABLE_FULL;
	if (ours)
		count_connection(target->target.backend);
	return REASON_TX;
}

static __always_inline enum reason place(const struct packet *p, struct family family,
					 const void *key, const void *service_key, __u8 protocol,
					 union target_word *target)
{
	struct flow *flow = bpf_map_lookup_elem(family.flows, key);
	bool stale = flow != NULL;
	const struct service *service;
	__u32 now = now_ticks();

	if (flow && follows(p, flow, now)) {
		*target = load_target(flow);
		touch(flow, state_of(p, protocol), now);
		return REASON_TX;
	}
	service = find_service(family, service_key);
	if (!service)
		return REASON_NO_SERVICE;
	if (!is_addressed_to_us(p))
		return REASON_OTHER_HOST;
	if (protocol == IPPROTO_TCP) {
		if (find_syn(p, family, key, now, target, &stale))
			return REASON_TX;
		/*
		 * A hash finds the backend that another director chose; a turn would be a wrong
		 * guess.
		 */
		if (!is_opening(p) && !stale && !is_hashing(service))
			return REASON_NO_CONNECTION;
	}
	return open_flow(p, family, service, key, protocol, now, target);
}

static __always_inline enum reason place_own(const struct packet *p, struct family family,
					     union target_word *target)
{
	struct service_key4 key4 = {
		.address = p->key4.vip,
		.port = p->key4.vip_port,
		.protocol = p->key4.protocol,
	};
	struct service_key6 key6 = {
		.port = p->key6.vip_port,
		.protocol = p->key6.protocol,
	};

	if (!family.is_ip6)
		return place(p, family, &p->key4, &key4, p->key4.protocol, target);
	__builtin_memcpy(key6.address, p->key6.vip, sizeof(key6.address));
	return place(p, family, &p->key6, &key6, p->key6.protocol, target);
}

/* An ICMP error goes where the flow goes that it quotes. It is no sign of life of that flow. */
static __always_inline enum reason place_quoted(const struct packet *p, struct family family,
						union target_word *target)
{
	const void *key = family.is_ip6 ? (const void *)&p->key6 : &p->key4;
	const struct flow *flow = bpf_map_lookup_elem(family.flows, key);

	if (!flow)
		flow = bpf_map_lookup_elem(family.syns, key);
	if (!flow)
		return REASON_ICMP_UNMATCHED;
	*target = load_target(flow);
	return is_current(target->target) ? REASON_TX : REASON_ICMP_UNMATCHED;
}

static __always_inline enum reason place_fragment(const struct packet *p, union target_word *target)
{
	const struct flow *first = bpf_map_lookup_elem(&fragments, &p->fragment);

	if (!first || is_expired(first, now_ticks()))
		return REASON_FRAGMENT_UNMATCHED;
	*target = load_target(first);
	return is_current(target->target) ? REASON_TX : REASON_FRAGMENT_UNMATCHED;
}

static __always_inline enum reason deliver(struct packet *p, struct family family)
{
	union target_word target = {};
	enum reason reason;

	switch (p->kind) {
	case KIND_FLOW:
		reason = place_own(p, family, &target);
		break;
	case KIND_QUOTED:
		reason = place_quoted(p, family, &target);
		break;
	default:
		reason = place_fragment(p, &target);
	}
	if (reason)
		return reason;
	if (p->first_fragment)
		record_fragment(p, target);
	return forward(p, family, target.target.backend);
}

static __always_inline enum reason walk(struct xdp_md *ctx)
{
	const struct family ip4 = { false, &services4, &flows4, &syns4 };
	const struct family ip6 = { true, &services6, &flows6, &syns6 };
	struct reader at = {
		.pos = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.left = ~0U,
	};
	struct packet packet = { .ctx = ctx };
	enum reason reason;
	__be16 protocol;

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
