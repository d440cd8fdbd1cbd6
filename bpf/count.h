/* SPDX-License-Identifier: GPL-2.0-only */
/* The verdict of each reason, and the counters. */
#ifndef XDPLB_COUNT_H
#define XDPLB_COUNT_H

#include "maps.h"

/*
 * What becomes of a packet for which there is a reason not to forward it: it goes to the director's
 * own stack wherever that can do something sensible with it (answer a ping, refuse a connection,
 * complain), and is dropped only where the stack would do harm: answer in the real server's name,
 * or send it round in circles.
 */
static __always_inline int verdict(enum reason reason)
{
	switch (__builtin_expect(reason, REASON_TX)) {
	case REASON_TX:
		return XDP_TX;
	case REASON_REDIRECT:
		return XDP_REDIRECT;
	case REASON_LOCAL:
	case REASON_NOT_IP:
	case REASON_OTHER_PROTOCOL:
	case REASON_NO_SERVICE:
	case REASON_OTHER_HOST:
	case REASON_MALFORMED:
	case REASON_NO_BACKEND:
	case REASON_NO_CONNECTION:
	case REASON_ICMP_UNMATCHED:
	case REASON_FRAGMENT_UNMATCHED:
		return XDP_PASS;
	default:
		return XDP_DROP;
	}
}

static __always_inline void count_reason(enum reason reason)
{
	__u32 index = reason;
	__u64 *packets = bpf_map_lookup_elem(&reasons, &index);

	if (packets)
		(*packets)++;
}

static __always_inline void count_packet(__u32 backend, __u32 bytes)
{
	struct counters *counters = bpf_map_lookup_elem(&backend_counters, &backend);

	if (!counters)
		return;
	counters->packets++;
	counters->bytes += bytes;
}

static __always_inline void count_connection(__u32 backend)
{
	struct counters *counters = bpf_map_lookup_elem(&backend_counters, &backend);

	if (counters)
		counters->connections++;
}

#endif
