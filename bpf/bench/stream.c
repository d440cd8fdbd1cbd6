// SPDX-License-Identifier: GPL-2.0-only
/*
 * Live traffic of which every packet is accounted for. "stream" makes the packets of numbered
 * flows: ACKs where the flow has a connection, else a handshake, a SYN or the ACK after it. "watch"
 * stands where the network does, takes what the program under test sends back, and knows of each
 * flow the backend that its connection has. An ACK carries that, as a sequence number: packets may
 * overtake each other, and a flow may begin anew meanwhile.
 *
 * The frame is Ethernet, IPv4 and TCP without options. A backend is known by its MAC address:
 * 02:00, and its number.
 */
#include "driver.h"
#include <linux/ip.h>
#include <linux/tcp.h>

const volatile __u32 first_client; /* address of flow 0, host byte order */

enum handshake {
	HANDSHAKE_NONE, /* flows without a connection send nothing */
	HANDSHAKE_SYN,
	HANDSHAKE_ACK,
};

/* set by user space: what flows without a connection send */
enum handshake step = HANDSHAKE_NONE;

/* What is known of a flow. Both CPUs write to it. */
struct track {
	__u32 first; /* backend that the SYN reached */
	__u32 home;  /* backend of the connection, once an ACK has arrived */
	__u32 sent;  /* packets of connections */
	__u32 arrived;
	__u32 strayed; /* of these, that reached another backend, although theirs was not removed */
	__u32 moves;   /* connections that it opened because it had lost one */
};

/* written by the programs, read by user space: keyed by flow */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct track);
} tracks SEC(".maps");

enum life {
	LIFE_KEPT,
	LIFE_REMOVING, /* from before its removal on: its connections are lost */
	LIFE_GONE,     /* and no packet to it is under way any more */
};

/* written by user space: keyed by backend */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, enum life);
} lives SEC(".maps");

/* What has arrived. */
struct watched {
	__u64 packets;
	__u64 strayed; /* of all flows */
	__u64 late;    /* that reached a backend which was gone */
	__u64 torn;    /* ACKs of handshakes that reached another backend than the SYN */
	__u64 moves;   /* of all flows */
};

struct watched watched = {};

struct frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

static __always_inline struct frame *frame_of(struct xdp_md *ctx)
{
	struct frame *frame = (void *)(long)ctx->data;

	return (void *)(frame + 1) > (void *)(long)ctx->data_end ? NULL : frame;
}

/*
 * The number that set_frame has given the tuple: 16 flows of each address, whose ports are
 * scattered by an odd factor.
 */
static __always_inline __u32 flow_of(const struct frame *frame)
{
	__u32 client = bpf_ntohl(frame->ip.saddr) - first_client;

	if (client >> 28)
		return ~0U;
	/* 7 is the inverse of 40503 modulo 16 */
	return client << 4 | ((frame->tcp.source - 1024) * 7 & 15);
}

static __always_inline enum life life_of(__u32 backend)
{
	const enum life *life = bpf_map_lookup_elem(&lives, &backend);

	return life ? *(const volatile enum life *)life : LIFE_GONE;
}

/* The backend unless it is being removed; 0: none. */
static __always_inline __u32 if_kept(const __u32 *backend)
{
	__u32 number = *(const volatile __u32 *)backend;

	return number && life_of(number) == LIFE_KEPT ? number : 0;
}

/* Says in the frame what it is. Returns false if nothing shall be sent. */
static __always_inline bool set_flags(struct frame *frame, struct track *track)
{
	__u32 home = track ? if_kept(&track->home) : 0;
	__u32 first = track ? if_kept(&track->first) : 0;

	if (home)
		__sync_fetch_and_add(&track->sent, 1);
	else if (step == HANDSHAKE_NONE || (step == HANDSHAKE_ACK && !first))
		return false;
	frame->tcp.syn = !home && step == HANDSHAKE_SYN;
	frame->tcp.ack = !frame->tcp.syn;
	frame->tcp.seq = home;
	frame->tcp.ack_seq = first;
	return true;
}

SEC("xdp.frags")
int stream(struct xdp_md *ctx)
{
	struct frame *frame;
	__u32 flow;

	if (!set_frame(ctx))
		return XDP_ABORTED;
	frame = frame_of(ctx);
	if (!frame)
		return XDP_ABORTED;
	flow = flow_of(frame);
	if (!set_flags(frame, bpf_map_lookup_elem(&tracks, &flow)))
		return XDP_DROP;
	return judge(XDP_TX);
}

/* A packet of a connection. When its backend is being removed it may go anywhere. */
static __always_inline void follow(struct track *track, __u32 home, __u32 reached)
{
	__sync_fetch_and_add(&track->arrived, 1);
	if (reached == home || life_of(home) != LIFE_KEPT)
		return;
	__sync_fetch_and_add(&track->strayed, 1);
	__sync_fetch_and_add(&watched.strayed, 1);
}

/* The ACK of a handshake whose SYN has reached a backend. */
static __always_inline void connect(struct track *track, __u32 first, __u32 reached)
{
	__u32 home = *(volatile __u32 *)&track->home;

	if (life_of(first) != LIFE_KEPT)
		return;
	if (reached != first)
		__sync_fetch_and_add(&watched.torn, 1);
	else if (!if_kept(&track->home) &&
		 __sync_val_compare_and_swap(&track->home, home, reached) == home && home) {
		__sync_fetch_and_add(&track->moves, 1);
		__sync_fetch_and_add(&watched.moves, 1);
	}
}

SEC("xdp.frags")
int watch(struct xdp_md *ctx)
{
	struct frame *frame = frame_of(ctx);
	struct track *track;
	__u32 flow, reached;

	if (!frame || frame->eth.h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	__sync_fetch_and_add(&watched.packets, 1);
	flow = flow_of(frame);
	track = bpf_map_lookup_elem(&tracks, &flow);
	if (!track)
		return XDP_DROP;
	reached = bpf_ntohl(*(__be32 *)(frame->eth.h_dest + 2));
	if (life_of(reached) == LIFE_GONE)
		__sync_fetch_and_add(&watched.late, 1);
	if (frame->tcp.seq)
		follow(track, frame->tcp.seq, reached);
	else if (frame->tcp.ack)
		connect(track, frame->tcp.ack_seq, reached);
	else
		*(volatile __u32 *)&track->first = reached;
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
