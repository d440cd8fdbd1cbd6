// SPDX-License-Identifier: GPL-2.0-only
/*
 * A generator and a sink of live frames (BPF_F_TEST_XDP_LIVE_FRAMES, since Linux 5.18). The kernel gives the generator
 * recycled frames in batches and sends what it returns XDP_TX for out of the interface that its context names.
 */
#include "driver.h"

/* written by the sink: frames that came back */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} arrived SEC(".maps");

SEC("xdp.frags")
int generate(struct xdp_md *ctx)
{
	if (!set_frame(ctx))
		return XDP_ABORTED;
	return judge(XDP_TX);
}

SEC("xdp.frags")
int sink(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *frames = bpf_map_lookup_elem(&arrived, &zero);

	(void)ctx;
	if (frames)
		(*frames)++;
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
