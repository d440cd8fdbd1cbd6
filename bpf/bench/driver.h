/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The driver around a measured program: BPF_PROG_TEST_RUN repeats a program on one buffer, which the program has
 * rewritten, so each run first puts the frame back and gives it the tuple that it shall have, and afterwards judges the
 * verdict. What the driver itself costs is measured by "driver_alone" (floor.c) in the same round, and subtracted.
 */
#ifndef XDPLB_BENCH_DRIVER_H
#define XDPLB_BENCH_DRIVER_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define BENCH_FRAME_MASK 0x7f /* the offsets below are under 128; the verifier asks for a bound */
#define BENCH_HOP_LIMIT 64

/* Set by user space before a batch and read after it. Offsets are in bytes from the frame's start. */
struct knobs {
	__u64 random;	/* state of the generator of random flows, not 0 */
	__u64 sequence; /* number of the run */
	__u64 right;	/* runs whose verdict was the expected one */
	__u64 wrong;	/* and the others */
	__u64 macs_low; /* the frame's first 12 bytes, destination and source MAC */
	__u32 macs_high;
	__u32 expected;	   /* enum xdp_action */
	__u32 random_mask; /* flow = (random & random_mask) + (sequence & sequence_mask) */
	__u32 sequence_mask;
	__u32 client_base;   /* of the 32 bits at client_offset, host byte order */
	__u16 client_offset; /* the client's address, or the last 32 bits of it: base + flow / 16 */
	__u16 port_offset;   /* the client's port: one of 16 for each address */
	__u16 hop_limit_offset; /* TTL or hop limit */
	__u16 service_offset;	/* the service's port */
	__u16 number_offset;	/* TCP's sequence number, another one in each packet */
	__u16 zero;
	__u32 services; /* that the flows are spread over, on ports from 1 on; 0: the frame's own */
};

struct knobs driver = {};

/*
 * Gives the frame its MACs, hop limit and tuple. Each field is stored in the size in which a parser loads it, so that
 * the processor forwards the store; a header that comes from a network card costs no more to read than that.
 */
static __always_inline bool set_frame(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *client = data + (driver.client_offset & BENCH_FRAME_MASK);
	void *port = data + (driver.port_offset & BENCH_FRAME_MASK);
	void *hop_limit = data + (driver.hop_limit_offset & BENCH_FRAME_MASK);
	void *service = data + (driver.service_offset & BENCH_FRAME_MASK);
	void *number = data + (driver.number_offset & BENCH_FRAME_MASK);
	__u64 random = driver.random, sequence = driver.sequence;
	__u32 flow, scattered;

	if (data + sizeof(struct ethhdr) > end || client + sizeof(__be32) > end ||
	    port + sizeof(__be16) > end || hop_limit + sizeof(__u8) > end ||
	    service + sizeof(__be16) > end || number + sizeof(__be32) > end)
		return false;
	/* xorshift64 (Marsaglia, "Xorshift RNGs", 2003) */
	random ^= random << 13;
	random ^= random >> 7;
	random ^= random << 17;
	driver.random = random;
	driver.sequence = sequence + 1;
	flow = ((__u32)random & driver.random_mask) + ((__u32)sequence & driver.sequence_mask);

	*(__u64 *)data = driver.macs_low;
	*(__u32 *)(data + sizeof(__u64)) = driver.macs_high;
	*(__u8 *)hop_limit = BENCH_HOP_LIMIT;
	*(__be32 *)number = bpf_htonl((__u32)sequence * 1460);
	*(__be32 *)client = bpf_htonl(driver.client_base + (flow >> 4));
	/* odd factor: the 16 flows of an address get different ports, and 65,536 flows all numbers */
	scattered = flow * 40503 & 0xffff;
	*(__be16 *)port = scattered + 1024;
	if (driver.services)
		*(__be16 *)service = bpf_htons(1 + (scattered * driver.services >> 16));
	/* the measured program shall load what was stored, and the compiler not know it */
	asm volatile("" ::: "memory");
	return true;
}

static __always_inline int judge(int verdict)
{
	if (verdict == (int)driver.expected)
		driver.right++;
	else
		driver.wrong++;
	return verdict;
}

#endif
