/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A target names a backend together with its generation. When a backend is removed, or has drained
 * after that, its generation rises and every target that names it is stale at once.
 */
#ifndef XDPLB_TARGET_H
#define XDPLB_TARGET_H

#include "maps.h"
#include "side.h"

#define TARGET_ID_BITS 24
#define TARGET_ID 0xffffff

const volatile __u32 backends_per_side; /* of backend_info */

static __always_inline __u32 target_id(target_t target)
{
	return target & TARGET_ID;
}

static __always_inline target_t target_of(__u32 id, const struct backend *backend)
{
	return id | *(const volatile __u32 *)&backend->generation << TARGET_ID_BITS;
}

/* The backend that the target names, if it still lives the same life; NULL: it does not. */
static __always_inline const struct backend *backend_of(target_t target)
{
	__u32 id = target_id(target);
	const struct backend *backend = bpf_map_lookup_elem(&backends, &id);

	return backend && target_of(id, backend) == target ? backend : NULL;
}

union next_hop_word {
	struct next_hop hop;
	__u64 word;
};

/* A word whose first six bytes are a MAC address, without the two behind it. */
#define MAC_OF(word) ((word) & 0xffffffffffffULL)

static __always_inline union next_hop_word load_hop(const struct backend *backend)
{
	return (union next_hop_word){ .word = *(const volatile __u64 *)&backend->next_hop };
}

/* Whether packets can be sent there: a MAC address is known, or it is the director itself. */
static __always_inline bool is_known(union next_hop_word to)
{
	return MAC_OF(to.word) || to.hop.egress == EGRESS_LOCAL;
}

static __always_inline bool is_current(target_t target)
{
	return backend_of(target) != NULL;
}

/* The cold columns of a backend in the live configuration. */
static __always_inline const struct backend_columns *columns_of(__u32 id)
{
	__u32 side;

	if (!live_config(&side))
		return NULL;
	id += side * backends_per_side;
	return bpf_map_lookup_elem(&backend_info, &id);
}

/*
 * Whether a backend takes no new flows because the operator wants it so: its weight is 0, or it was
 * removed and has its flows at most. A function of its own, since few packets need it.
 */
__attribute__((noinline)) bool is_quiescent(__u32 id)
{
	const struct backend_columns *columns = columns_of(id);

	return columns && (!columns->weight || columns->draining);
}

#endif
