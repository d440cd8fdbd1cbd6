/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which of a map's two sides is live. A packet asks once for what must fit together.
 */
#ifndef XDPLB_SIDE_H
#define XDPLB_SIDE_H

#include "maps.h"

/* The configuration, and its live side; NULL, which never happens, for the verifier's sake. */
static __always_inline const struct config *live_config(__u32 *side)
{
	__u32 zero = 0;
	const struct config *live = bpf_map_lookup_elem(&config, &zero);

	if (live)
		*side = *(const volatile __u64 *)&live->epoch & 1;
	return live;
}

#endif
