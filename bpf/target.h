/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A target names a backend together with its generation. When a backend is removed its generation
 * rises and every target that names it is stale at once.
 */
#ifndef XDPLB_TARGET_H
#define XDPLB_TARGET_H

#include "maps.h"

#define TARGET_ID_BITS 24
#define TARGET_ID 0xffffff

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

static __always_inline bool is_current(target_t target)
{
	return backend_of(target) != NULL;
}

#endif
