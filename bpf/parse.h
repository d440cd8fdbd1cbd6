/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From the frame's bytes to a struct packet: whose flow it belongs to, and where its headers are.
 *
 * Each parser takes a reader (a position in the packet) and returns REASON_TX ("go on") or the
 * reason to stop. Lengths are checked twice, against the frame's end (the verifier asks for that)
 * and against the IP header's total length, because short frames are padded and because a lying
 * length must not reach a real server.
 */
#ifndef XDPLB_PARSE_H
#define XDPLB_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "branch.h"
#include "types.h"

#define MAX_TAGS 2
#define MAX_EXTENSION_HEADERS 8

#define IP4_MORE_FRAGMENTS 0x2000
#define IP4_FRAGMENT_OFFSET 0x1fff
#define IP6_MORE_FRAGMENTS 0x0001
#define IP6_FRAGMENT_OFFSET 0xfff8

#define TCP_FLAGS_OFFSET 13
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define FTP_DATA_PORT 20

/* RFC 9260 3.1 and 3.2; linux/sctp.h is not for user space. */
struct sctp_header {
	__be16 source;
	__be16 destination;
	__be32 tag;
	__le32 checksum;
};

struct sctp_chunk {
	__u8 type; /* enum chunk */
	__u8 flags;
	__be16 length; /* with this header, without padding */
};

enum chunk {
	CHUNK_INIT = 1,
	CHUNK_INIT_ACK = 2,
	CHUNK_ABORT = 6,
	CHUNK_SHUTDOWN = 7,
	CHUNK_SHUTDOWN_ACK = 8,
	CHUNK_COOKIE_ECHO = 10,
	CHUNK_COOKIE_ACK = 11,
	CHUNK_SHUTDOWN_COMPLETE = 14,
};

/* ICMP and ICMPv6 (RFC 792, RFC 4443) alike; linux/icmp.h would need libc's headers. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest;
};

enum icmp4_error {
	ICMP4_DESTINATION_UNREACHABLE = 3, /* with "fragmentation needed" */
	ICMP4_TIME_EXCEEDED = 11,
	ICMP4_PARAMETER_PROBLEM = 12,
};

enum icmp6_error {
	ICMP6_DESTINATION_UNREACHABLE = 1,
	ICMP6_PACKET_TOO_BIG = 2,
	ICMP6_TIME_EXCEEDED = 3,
	ICMP6_PARAMETER_PROBLEM = 4,
};

/* What a packet's place depends on. */
enum kind {
	KIND_FLOW,	     /* its own addresses and ports */
	KIND_QUOTED,	     /* an ICMP error: the addresses and ports that it quotes */
	KIND_LATER_FRAGMENT, /* the first fragment's place */
};

struct packet {
	struct xdp_md *ctx;
	struct ethhdr *eth;
	struct vlan_tag *tag; /* the outer one, NULL: none */
	union {
		struct iphdr *ip4;
		struct ipv6hdr *ip6;
	};
	const struct backend *to; /* where it goes, */
	__u32 id;		  /* and the id of that: set by whoever places it */
	__u32 bytes;		  /* of IP */
	enum kind kind;
	__u32 event;	       /* what it says of its flow: enum event */
	const __be32 *numbers; /* TCP's, SCTP's: two, which differ from one packet to the next */
	bool first_fragment;   /* more will follow */
	union {		       /* seen from the client, also when quoted */
		struct flow_key4 key4;
		struct flow_key6 key6;
	};
};

/*
 * What parsers set only in some packets. The rest of a packet is set by who says its kind, but for
 * where it goes.
 */
static __always_inline void start_packet(struct packet *p, struct xdp_md *ctx)
{
	p->ctx = ctx;
	p->tag = NULL;
	p->kind = KIND_FLOW;
	p->event = 0;
	p->numbers = NULL;
	p->first_fragment = false;
}

/*
 * prog only: the name of the fragment that this CPU is about. Few packets are fragments, and all
 * would have its room on their stack.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fragment_key);
} fragment_names SEC(".maps");

static __always_inline struct fragment_key *fragment_name(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fragment_names, &zero);
}

/*
 * The frame's first buffer. Volatile, for the context's fields have 32 bits and what they give has 64: the
 * compiler might keep the half of a pointer, which the verifier forbids.
 */
static __always_inline void *frame_start(const struct xdp_md *ctx)
{
	return (void *)(long)*(const volatile __u32 *)&ctx->data;
}

static __always_inline void *frame_end(const struct xdp_md *ctx)
{
	return (void *)(long)*(const volatile __u32 *)&ctx->data_end;
}

struct reader {
	void *pos;
	void *end;  /* of the frame's first buffer */
	__u32 left; /* bytes of the IP packet from pos on */
};

struct vlan_tag {
	__be16 tci; /* priority 3 bits, drop eligible 1, id 12 (IEEE 802.1Q) */
	__be16 protocol;
};

/* The first 8 bytes of any IPv6 extension header that is skipped here (RFC 8200). */
struct extension_header {
	__u8 next;
	__u8 length; /* in 8 bytes, the first not counted; reserved in a fragment header */
	union {
		struct { /* routing header */
			__u8 routing_type;
			__u8 segments_left;
		};
		__be16 fragment_offset; /* 13 bits, in 8 bytes; 2 reserved; 1 more */
	};
	__be32 fragment_id;
};

struct ports {
	__be16 source;
	__be16 destination;
};

/* The next bytes of the frame, before the IP packet begins; NULL: it has no more. */
static __always_inline void *take_of_frame(struct reader *at, __u32 size)
{
	void *start = at->pos;

	if (unlikely(start + size > at->end))
		return NULL;
	at->pos = start + size;
	return start;
}

/* The same, of the IP packet. */
static __always_inline void *take(struct reader *at, __u32 size)
{
	if (unlikely(size > at->left))
		return NULL;
	at->left -= size;
	return take_of_frame(at, size);
}

static __always_inline enum reason parse_ethernet(struct packet *p, struct reader *at,
						  __be16 *protocol)
{
	struct ethhdr *eth = take_of_frame(at, sizeof(*eth));

	if (!eth)
		return stop(REASON_NOT_IP);
	p->eth = eth;
	/* struct ethhdr is packed, and the compiler would go byte by byte */
	*protocol = *(__be16 *)((void *)eth + offsetof(struct ethhdr, h_proto));

#pragma unroll
	for (int i = 0; i < MAX_TAGS; i++) {
		struct vlan_tag *tag;

		if (likely(*protocol != bpf_htons(ETH_P_8021Q) &&
			   *protocol != bpf_htons(ETH_P_8021AD)))
			break;
		tag = take_of_frame(at, sizeof(*tag));
		if (!tag)
			return stop(REASON_NOT_IP);
		if (!p->tag)
			p->tag = tag;
		*protocol = tag->protocol;
	}
	return REASON_TX;
}

/* Whether the frame holds all of the packet at ip; a jumbo frame's end may lie in another buffer. */
static __always_inline bool frame_holds(const struct packet *p, const struct reader *at, void *ip)
{
	return likely((__u64)(at->end - ip) >= p->bytes) ||
	       bpf_xdp_get_buff_len(p->ctx) >= (__u64)(ip - frame_start(p->ctx)) + p->bytes;
}

/* IPv4's header with its options; leaves the reader behind it. */
static __always_inline struct iphdr *take_ip4(struct reader *at)
{
	struct iphdr *ip = take(at, sizeof(*ip));
	__u32 header;

	if (unlikely(!ip || ip->version != 4))
		return NULL;
	header = ip->ihl * 4;
	barrier_var(header); /* or the verifier does not see that the check is of what is taken */
	if (header < sizeof(*ip) || bpf_ntohs(ip->tot_len) < header)
		return NULL;
	if (!take(at, header - sizeof(*ip)))
		return NULL;
	return ip;
}

/*
 * What stands behind IPv6's extension headers, in one word, since a global function returns no
 * more.
 */
struct skipped {
	__u8 next;	/* protocol */
	__u8 reason;	/* enum reason; REASON_TX: the rest holds */
	__u16 position; /* of that protocol's header, from the frame's start */
	__u16 fragment; /* of the last fragment header, 0: none */
	__u16 zero;
};

union skipped_word {
	struct skipped skipped;
	__u64 word;
};

#define MAX_POSITION 0x3fff /* as far as the verifier lets a variable offset reach into a packet */

/*
 * Skips IPv6 extension headers (RFC 8200) from position on. A later fragment has nothing to parse
 * behind its fragment header, so the walk ends there. A function of its own, not inlined, because
 * the verifier would otherwise follow each combination of headers through all the code behind it.
 */
__attribute__((noinline)) __u64 skip_extensions(struct xdp_md *ctx, __u32 position, __u32 next)
{
	union skipped_word result = {};

	for (int i = 0; i <= MAX_EXTENSION_HEADERS; i++) {
		struct extension_header header;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_DSTOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_FRAGMENT)
			goto found;
		if (position > MAX_POSITION ||
		    bpf_xdp_load_bytes(ctx, position, &header, sizeof(header))) {
			result.skipped.reason = REASON_MALFORMED;
			return result.word;
		}
		if (next == IPPROTO_ROUTING && header.segments_left)
			break; /* the VIP is not where it ends */
		if (next == IPPROTO_FRAGMENT) {
			result.skipped.fragment = position;
			position += sizeof(header);
			next = header.next;
			if (header.fragment_offset & bpf_htons(IP6_FRAGMENT_OFFSET))
				goto found;
			continue;
		}
		position += (header.length + 1) * 8;
		next = header.next;
	}
	result.skipped.reason = REASON_OTHER_PROTOCOL;
	return result.word;
found:
	result.skipped.reason = position > MAX_POSITION ? REASON_MALFORMED : REASON_TX;
	result.skipped.next = next;
	result.skipped.position = position;
	return result.word;
}

/*
 * Moves the reader behind the extension headers; *next becomes the protocol behind them, *fragment
 * the fragment header if there is one.
 */
static __always_inline enum reason parse_extensions(struct packet *p, struct reader *at, __u8 *next,
						    struct extension_header **fragment)
{
	void *data = frame_start(p->ctx);
	__u32 position = at->pos - data;
	union skipped_word result;

	if (likely(*next == IPPROTO_TCP || *next == IPPROTO_UDP || *next == IPPROTO_ICMPV6 ||
		   *next == IPPROTO_SCTP))
		return REASON_TX;
	result.word = skip_extensions(p->ctx, position, *next);
	if (result.skipped.reason)
		return result.skipped.reason;
	if (result.skipped.position - position > at->left)
		return REASON_MALFORMED;
	at->left -= result.skipped.position - position;
	at->pos = data + (result.skipped.position & MAX_POSITION);
	*next = result.skipped.next;
	if (result.skipped.fragment) {
		*fragment = data + (result.skipped.fragment & MAX_POSITION);
		if ((void *)(*fragment + 1) > at->end)
			return REASON_MALFORMED;
	}
	return REASON_TX;
}

/*
 * In active FTP it is the server that opens a data connection, from port 20, and the client's answer
 * is the first that we see of it. No other client sends a SYN with an ACK.
 */
static __always_inline __u32 tcp_event(__u8 flags, __be16 destination)
{
	if (likely(!(flags & (TCP_RST | TCP_SYN | TCP_FIN))))
		return FLOW_ESTABLISHED;
	if (flags & TCP_RST)
		return FLOW_CLOSED;
	if (flags & TCP_SYN && (!(flags & TCP_ACK) || destination == bpf_htons(FTP_DATA_PORT)))
		return FLOW_SYN;
	return flags & TCP_FIN ? FLOW_FIN : FLOW_ESTABLISHED;
}

/* Whether an SCTP packet goes on with an ABORT at a position, of whose packet so much is left. */
static __always_inline bool is_abort(struct xdp_md *ctx, __u32 position, __s32 left)
{
	struct sctp_chunk chunk;

	return left >= (__s32)sizeof(chunk) &&
	       !bpf_xdp_load_bytes(ctx, position, &chunk, sizeof(chunk)) &&
	       chunk.type == CHUNK_ABORT;
}

/*
 * What an SCTP packet says, whose first chunk stands at a position; left: bytes of IP from there.
 * 0: there is none. The first chunk tells, but a COOKIE ECHO or COOKIE ACK may be followed by an
 * ABORT, which counts. A function of its own, not inlined, because few packets need it.
 */
__attribute__((noinline)) __u32 sctp_event(struct xdp_md *ctx, __u32 position, __u32 left)
{
	struct sctp_chunk chunk;
	__u32 length;

	if (left < sizeof(chunk) || bpf_xdp_load_bytes(ctx, position, &chunk, sizeof(chunk)))
		return 0;
	length = (bpf_ntohs(chunk.length) + 3) & ~3U;
	switch (chunk.type) {
	case CHUNK_INIT:
		return FLOW_INIT;
	case CHUNK_INIT_ACK:
		return FLOW_COOKIE_ECHOED;
	case CHUNK_ABORT:
		return FLOW_SCTP_CLOSED;
	case CHUNK_SHUTDOWN:
		return FLOW_SHUTDOWN_RECEIVED;
	case CHUNK_SHUTDOWN_ACK:
		return EVENT_SHUTDOWN_ACK;
	case CHUNK_SHUTDOWN_COMPLETE:
		return EVENT_SHUTDOWN_COMPLETE;
	case CHUNK_COOKIE_ECHO:
	case CHUNK_COOKIE_ACK:
		if (length >= sizeof(chunk) && is_abort(ctx, position + length, left - length))
			return FLOW_SCTP_CLOSED;
		return chunk.type == CHUNK_COOKIE_ECHO ? EVENT_COOKIE_ECHO : EVENT_COOKIE_ACK;
	default:
		return FLOW_SCTP_ESTABLISHED;
	}
}

static __always_inline enum reason parse_sctp(struct packet *p, struct reader *at,
					      struct ports *ports)
{
	struct sctp_header *sctp = take(at, sizeof(*sctp));

	if (!sctp)
		return stop(REASON_MALFORMED);
	p->numbers = &sctp->tag;
	ports->source = sctp->source;
	ports->destination = sctp->destination;
	p->event = sctp_event(p->ctx, at->pos - frame_start(p->ctx), at->left);
	return p->event ? REASON_TX : REASON_MALFORMED;
}

/* Ports of a packet that a client sent, and what it says of its flow. */
static __always_inline enum reason parse_transport(struct packet *p, struct reader *at,
						   __u8 protocol, struct ports *ports)
{
	struct tcphdr *tcp;
	struct udphdr *udp;

	switch (protocol) {
	case IPPROTO_TCP:
		tcp = take(at, sizeof(*tcp));
		if (!tcp)
			return stop(REASON_MALFORMED);
		p->event = tcp_event(((__u8 *)tcp)[TCP_FLAGS_OFFSET], tcp->dest);
		p->numbers = &tcp->seq;
		ports->source = tcp->source;
		ports->destination = tcp->dest;
		return REASON_TX;
	case IPPROTO_UDP:
		udp = take(at, sizeof(*udp));
		if (!udp)
			return stop(REASON_MALFORMED);
		p->event = FLOW_UDP;
		ports->source = udp->source;
		ports->destination = udp->dest;
		return REASON_TX;
	case IPPROTO_SCTP:
		return parse_sctp(p, at, ports);
	default:
		return stop(REASON_OTHER_PROTOCOL);
	}
}

/*
 * Ports of a packet that an ICMP error quotes: the real server's, seen from the other end, so that
 * source and destination change places. Only its first 8 bytes are sure to be there (RFC 792).
 */
static __always_inline enum reason parse_quoted_ports(struct reader *at, __u8 protocol,
						      struct ports *ports)
{
	struct ports *quoted;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != IPPROTO_SCTP)
		return REASON_OTHER_PROTOCOL;
	quoted = take(at, sizeof(*quoted));
	if (!quoted)
		return REASON_MALFORMED;
	ports->source = quoted->destination;
	ports->destination = quoted->source;
	return REASON_TX;
}

static __always_inline bool is_error4(__u8 type)
{
	return type == ICMP4_DESTINATION_UNREACHABLE || type == ICMP4_TIME_EXCEEDED ||
	       type == ICMP4_PARAMETER_PROBLEM;
}

static __always_inline bool is_error6(__u8 type)
{
	return type == ICMP6_DESTINATION_UNREACHABLE || type == ICMP6_PACKET_TOO_BIG ||
	       type == ICMP6_TIME_EXCEEDED || type == ICMP6_PARAMETER_PROBLEM;
}

static __always_inline enum reason parse_error4(struct packet *p, struct reader *at)
{
	struct icmp_header *icmp = take(at, sizeof(*icmp));
	struct iphdr *quoted;
	struct ports ports;
	enum reason reason;

	if (!icmp)
		return REASON_MALFORMED;
	if (!is_error4(icmp->type))
		return REASON_OTHER_PROTOCOL;
	quoted = take_ip4(at);
	if (!quoted)
		return REASON_MALFORMED;
	if (quoted->saddr != p->ip4->daddr || quoted->frag_off & bpf_htons(IP4_FRAGMENT_OFFSET))
		return REASON_ICMP_UNMATCHED;
	reason = parse_quoted_ports(at, quoted->protocol, &ports);
	if (reason)
		return reason;
	p->kind = KIND_QUOTED;
	p->key4.client = quoted->daddr;
	p->key4.vip = quoted->saddr;
	p->key4.client_port = ports.source;
	p->key4.vip_port = ports.destination;
	p->key4.protocol = quoted->protocol;
	return REASON_TX;
}

static __always_inline bool same_ip6(const struct in6_addr *a, const struct in6_addr *b)
{
	return a->s6_addr32[0] == b->s6_addr32[0] && a->s6_addr32[1] == b->s6_addr32[1] &&
	       a->s6_addr32[2] == b->s6_addr32[2] && a->s6_addr32[3] == b->s6_addr32[3];
}

static __always_inline enum reason parse_error6(struct packet *p, struct reader *at)
{
	struct icmp_header *icmp = take(at, sizeof(*icmp));
	struct extension_header *fragment = NULL;
	struct ipv6hdr *quoted;
	struct ports ports;
	enum reason reason;
	__u8 protocol;

	if (!icmp)
		return REASON_MALFORMED;
	if (!is_error6(icmp->type))
		return REASON_OTHER_PROTOCOL;
	quoted = take(at, sizeof(*quoted));
	if (!quoted || quoted->version != 6)
		return REASON_MALFORMED;
	if (!same_ip6(&quoted->saddr, &p->ip6->daddr))
		return REASON_ICMP_UNMATCHED;
	protocol = quoted->nexthdr;
	reason = parse_extensions(p, at, &protocol, &fragment);
	if (reason)
		return reason;
	if (fragment && fragment->fragment_offset & bpf_htons(IP6_FRAGMENT_OFFSET))
		return REASON_ICMP_UNMATCHED;
	reason = parse_quoted_ports(at, protocol, &ports);
	if (reason)
		return reason;
	p->kind = KIND_QUOTED;
	__builtin_memcpy(p->key6.client, &quoted->daddr, sizeof(p->key6.client));
	__builtin_memcpy(p->key6.vip, &quoted->saddr, sizeof(p->key6.vip));
	p->key6.client_port = ports.source;
	p->key6.vip_port = ports.destination;
	p->key6.protocol = protocol;
	return REASON_TX;
}

static __always_inline void name_fragment4(const struct iphdr *ip)
{
	struct fragment_key *name = fragment_name();

	if (!name)
		return;
	*name = (struct fragment_key){
		.id = ip->id,
		.protocol = ip->protocol,
		.family = 4,
	};
	__builtin_memcpy(name->source, &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(name->destination, &ip->daddr, sizeof(ip->daddr));
}

static __always_inline enum reason parse_ip4(struct packet *p, struct reader *at)
{
	struct iphdr *ip = take_ip4(at);
	struct ports ports = {};
	enum reason reason;

	if (!ip)
		return stop(REASON_MALFORMED);
	p->ip4 = ip;
	p->bytes = bpf_ntohs(ip->tot_len);
	if (!frame_holds(p, at, ip))
		return stop(REASON_MALFORMED);
	at->left = p->bytes - ip->ihl * 4;

	if (unlikely(ip->frag_off & bpf_htons(IP4_MORE_FRAGMENTS | IP4_FRAGMENT_OFFSET))) {
		name_fragment4(ip);
		if (ip->frag_off & bpf_htons(IP4_FRAGMENT_OFFSET)) {
			p->kind = KIND_LATER_FRAGMENT;
			return REASON_TX;
		}
		p->first_fragment = true;
	}
	if (unlikely(ip->protocol == IPPROTO_ICMP))
		return parse_error4(p, at);
	reason = parse_transport(p, at, ip->protocol, &ports);
	if (reason)
		return reason;
	p->key4.client = ip->saddr;
	p->key4.vip = ip->daddr;
	p->key4.client_port = ports.source;
	p->key4.vip_port = ports.destination;
	p->key4.protocol = ip->protocol;
	return REASON_TX;
}

static __always_inline void name_fragment6(const struct ipv6hdr *ip,
					   const struct extension_header *header)
{
	struct fragment_key *name = fragment_name();

	if (!name)
		return;
	/*
	 * RFC 8200 4.5: only addresses and id name a datagram; the next header may differ between
	 * its fragments
	 */
	*name = (struct fragment_key){
		.id = header->fragment_id,
		.family = 6,
	};
	__builtin_memcpy(name->source, &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(name->destination, &ip->daddr, sizeof(ip->daddr));
}

static __always_inline enum reason parse_ip6(struct packet *p, struct reader *at)
{
	struct ipv6hdr *ip = take(at, sizeof(*ip));
	struct extension_header *fragment = NULL;
	struct ports ports = {};
	enum reason reason;
	__u8 protocol;

	if (!ip || ip->version != 6)
		return stop(REASON_MALFORMED);
	p->ip6 = ip;
	p->bytes = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (!frame_holds(p, at, ip))
		return stop(REASON_MALFORMED);
	at->left = bpf_ntohs(ip->payload_len);

	protocol = ip->nexthdr;
	reason = parse_extensions(p, at, &protocol, &fragment);
	if (reason)
		return reason;
	if (fragment &&
	    fragment->fragment_offset & bpf_htons(IP6_MORE_FRAGMENTS | IP6_FRAGMENT_OFFSET)) {
		name_fragment6(ip, fragment);
		if (fragment->fragment_offset & bpf_htons(IP6_FRAGMENT_OFFSET)) {
			p->kind = KIND_LATER_FRAGMENT;
			return REASON_TX;
		}
		p->first_fragment = true;
	}
	if (unlikely(protocol == IPPROTO_ICMPV6))
		return parse_error6(p, at);
	reason = parse_transport(p, at, protocol, &ports);
	if (reason)
		return reason;
	__builtin_memcpy(p->key6.client, &ip->saddr, sizeof(p->key6.client));
	__builtin_memcpy(p->key6.vip, &ip->daddr, sizeof(p->key6.vip));
	p->key6.client_port = ports.source;
	p->key6.vip_port = ports.destination;
	p->key6.protocol = protocol;
	return REASON_TX;
}

#endif
