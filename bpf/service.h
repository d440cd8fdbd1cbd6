/* SPDX-License-Identifier: GPL-2.0-only */
/* Which service a packet is for: by address, port and protocol. */
#ifndef XDPLB_SERVICE_H
#define XDPLB_SERVICE_H

#include "maps.h"
#include "parse.h"
#include "schedule.h"
#include "side.h"

const volatile __u32 service_buckets_per_side;
const volatile __u32 port_ranges_per_side;

static __always_inline bool is_service6(const struct service *service, const struct flow_key6 *key)
{
	const __u64 *a = (const __u64 *)service->address, *b = (const __u64 *)key->vip;

	return a[0] == b[0] && a[1] == b[1] && service->protocol == key->protocol;
}

static __always_inline __u64 service_key4(const struct flow_key4 *key, __be16 port)
{
	return SERVICE_KEY_IP4 | (__u64)key->protocol << SERVICE_KEY_PROTOCOL_SHIFT |
	       (__u64)port << 32 | key->vip;
}

/* Three products that do not wait for each other: the bucket is scattered by the side's multiplier. */
static __always_inline __u64 service_key6(const struct flow_key6 *key, __be16 port)
{
	const __u64 *vip = (const __u64 *)key->vip;

	return SERVICE_KEY_IP6 |
	       (vip[0] * MIX_1 + vip[1] * MIX_2 + ((__u64)key->protocol << 16 | port) * MIX_3) >> 1;
}

static __always_inline __u64 service_key(const struct packet *p, struct family family, __be16 port)
{
	return family.is_ip6 ? service_key6(&p->key6, port) : service_key4(&p->key4, port);
}

#define NO_SERVICE (~0U)

/* Where the service stands that has a key. */
static __always_inline __u32 index_of(const struct config *live, __u32 side, __u64 key)
{
	__u32 buckets = service_buckets_per_side;
	__u32 index = side * buckets + ((key * live->multiplier[side] >> 32) * buckets >> 32);
	const struct service_bucket *bucket = bpf_map_lookup_elem(&service_buckets, &index);

	if (!bucket)
		return NO_SERVICE;
#pragma unroll
	for (int way = 0; way < SERVICE_WAYS; way++) {
		if (bucket->key[way] == key)
			return bucket->service[way];
	}
	return NO_SERVICE;
}

/* Looks for the first range that does not end before a port: it is from low to high. */
struct range_search {
	__u64 key;
	__u32 port;
	__u32 low;
	__u32 high; /* may be behind the last one */
};

static long halve_ranges(__u32 step __attribute__((unused)), struct range_search *search)
{
	__u32 middle = search->low + (search->high - search->low) / 2;
	const struct port_range *range = bpf_map_lookup_elem(&port_ranges, &middle);

	if (search->low >= search->high || !range)
		return 1;
	if (range->key < search->key || (range->key == search->key && range->last < search->port))
		search->low = middle + 1;
	else
		search->high = middle;
	return 0;
}

#define RANGE_STEPS 32 /* enough for any number of ranges */

/*
 * Where the service stands that has a port among others, or else all ports. any: the key of the
 * packet's address and protocol with port 0. A function of its own, since few packets need it: those
 * of services with one port have been found by then.
 */
__attribute__((noinline)) __u32 index_of_many(__u64 any, __u32 port, __u32 side)
{
	struct range_search search = { .key = any,
				       .port = port,
				       .low = side * port_ranges_per_side };
	const struct port_range *range;
	const struct config *live;
	__u32 zero = 0, end;

	live = bpf_map_lookup_elem(&config, &zero);
	if (!live || side >= SIDES)
		return NO_SERVICE;
	end = search.high = search.low + (live->all_ports[side] >> 32);
	bpf_loop(RANGE_STEPS, halve_ranges, &search, 0);
	range = bpf_map_lookup_elem(&port_ranges, &search.low);
	if (range && search.low < end && range->key == any && range->first <= port)
		return range->service;
	return (__u32)live->all_ports[side] ? index_of(live, side, any) : NO_SERVICE;
}

/* A port of one service comes before a list of ports, and that before all ports. */
static __always_inline const struct service *find_service(const struct packet *p,
							  struct family family)
{
	__be16 port = family.is_ip6 ? p->key6.vip_port : p->key4.vip_port;
	const struct service *service;
	const struct config *live;
	__u32 side, index;
	bool exact = true;

	live = live_config(&side);
	if (!live)
		return NULL;
	index = index_of(live, side, service_key(p, family, port));
	if (unlikely(index == NO_SERVICE)) {
		if (!live->all_ports[side])
			return NULL;
		exact = false;
		index = index_of_many(service_key(p, family, 0), bpf_ntohs(port), side);
	}
	service = bpf_map_lookup_elem(&services, &index);
	/* of IPv6, the hash of the key may be another's */
	if (service && family.is_ip6 &&
	    (!is_service6(service, &p->key6) || (exact && service->port != port)))
		return NULL;
	return service;
}

#endif
