/* SPDX-License-Identifier: GPL-2.0-only */
/* What the compiler is told of which way most packets go. */
#ifndef XDPLB_BRANCH_H
#define XDPLB_BRANCH_H

#include <bpf/bpf_helpers.h>

#include "types.h"

/* So that what a packet of a known flow runs through lies in one piece. */
#define likely(condition) __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/*
 * The reason for which a packet goes no further, where most go on. The empty statement keeps the
 * compiler from setting it ahead of the look that decides, for every packet.
 */
static __always_inline enum reason stop(enum reason reason)
{
	asm volatile("");
	return reason;
}

#endif
