// SPDX-License-Identifier: GPL-2.0-only
/*
 * What every measurement is compared with. The floor is the least that a program can do which sends a frame to another
 * host of the segment: no parsing, no lookup.
 */
#include "driver.h"

__u8 floor_macs[2 * ETH_ALEN] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2 };

/* Rewrites both MACs and transmits. */
SEC("xdp.frags")
int floor_program(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (data + sizeof(struct ethhdr) > end)
		return XDP_DROP;
	__builtin_memcpy(data, floor_macs, sizeof(floor_macs));
	return XDP_TX;
}

/* What BPF_PROG_TEST_RUN itself costs. */
SEC("xdp.frags")
int empty_program(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_DROP;
}

/* What the driver costs. */
SEC("xdp.frags")
int driver_alone(struct xdp_md *ctx)
{
	if (!set_frame(ctx))
		return XDP_ABORTED;
	return judge(XDP_TX);
}

char _license[] SEC("license") = "GPL";
