/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The way out: TTL, VLAN, MAC addresses, and the interface. Nothing else of the frame changes, and
 * nothing at all of one that the director's own stack gets.
 */
#ifndef XDPLB_FORWARD_H
#define XDPLB_FORWARD_H

#include "count.h"
#include "maps.h"
#include "parse.h"
#include "target.h"

#define VLAN_ID_MASK 0x0fff
#define VLAN_TAG_BYTES ((int)sizeof(struct vlan_tag))

union egress_words {
	struct egress egress;
	__u64 word[2];
};

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return *(const __u16 *)a == *(const __u16 *)b &&
	       *(const __u16 *)(a + 2) == *(const __u16 *)(b + 2) &&
	       *(const __u16 *)(a + 4) == *(const __u16 *)(b + 4);
}

/*
 * Whether the frame was sent to the interface that it came in by. A switch that floods a frame
 * which we have sent to a real server brings it back to us: its IP destination is still the VIP,
 * and only its MAC says that it is not ours.
 */
static __always_inline bool is_addressed_to_us(const struct packet *p)
{
	__u32 ifindex = p->ctx->ingress_ifindex;

	for (__u32 n = 0; n < INTERFACE_PLACES; n++) {
		__u32 place = (ifindex + n) % INTERFACES;
		const struct interface *in = bpf_map_lookup_elem(&interfaces, &place);

		if (in && *(const volatile __u32 *)&in->ifindex == ifindex)
			return same_mac(p->eth->h_dest, in->mac);
	}
	return false;
}

/* One hop less, with the checksum adjusted for it (RFC 1141). */
static __always_inline bool spend_hop(struct packet *p, struct family family)
{
	__u32 check;

	if (family.is_ip6) {
		if (p->ip6->hop_limit <= 1)
			return false;
		p->ip6->hop_limit--;
		return true;
	}
	if (p->ip4->ttl <= 1)
		return false;
	p->ip4->ttl--;
	check = p->ip4->check + bpf_htons(0x0100);
	p->ip4->check = check + ((check + 1) >> 16); /* one more from 0xffff on */
	return true;
}

struct tagged_frame {
	struct ethhdr eth;
	struct vlan_tag tag;
} __attribute__((packed));

/*
 * Puts a tag into a frame that has none. Every pointer into the packet is void afterwards, but for
 * p->eth.
 */
static __always_inline bool push_tag(struct packet *p, __u16 vlan)
{
	struct tagged_frame *tagged;
	struct ethhdr untagged = *p->eth;
	void *data;

	if (bpf_xdp_adjust_head(p->ctx, -VLAN_TAG_BYTES))
		return false;
	data = frame_start(p->ctx);
	tagged = data;
	if (data + sizeof(*tagged) > frame_end(p->ctx))
		return false;
	tagged->tag.tci = bpf_htons(vlan);
	tagged->tag.protocol = untagged.h_proto;
	untagged.h_proto = bpf_htons(ETH_P_8021Q);
	tagged->eth = untagged;
	p->eth = &tagged->eth;
	return true;
}

static __always_inline bool set_vlan(struct packet *p, __u16 vlan)
{
	if (likely(!vlan))
		return true;
	if (!p->tag)
		return push_tag(p, vlan);
	p->tag->tci = (p->tag->tci & bpf_htons(~VLAN_ID_MASK & 0xffff)) | bpf_htons(vlan);
	return true;
}

/* Both addresses in two stores: a copy of six bytes takes the compiler six. */
static __always_inline void set_macs(struct ethhdr *eth, __u64 destination, __u64 source)
{
	*(__u64 *)eth = destination | source << 48;
	*(__u32 *)((void *)eth + sizeof(__u64)) = source >> 16;
}

/* Where no MAC address is known: the backend may be the director itself. */
static __always_inline enum reason keep(const struct packet *p, union next_hop_word to)
{
	if (!is_addressed_to_us(p))
		return REASON_OTHER_HOST;
	if (!is_known(to))
		return REASON_NO_NEIGHBOUR;
	count_packet(p->id, p->bytes);
	return REASON_LOCAL;
}

static __always_inline enum reason forward(struct packet *p, struct family family)
{
	__u32 in = p->ctx->ingress_ifindex;
	union egress_words out;
	union next_hop_word to;
	const struct egress *egress;
	__u32 index;

	to = load_hop(p->to);
	if (unlikely(!MAC_OF(to.word)))
		return keep(p, to);
	index = to.hop.egress;
	egress = bpf_map_lookup_elem(&egresses, &index);
	if (!egress)
		return stop(REASON_INTERNAL);
	out.word[0] = ((const volatile __u64 *)egress)[0];
	out.word[1] = ((const volatile __u64 *)egress)[1];

	/* out of the interface that it came in by, that interface's address is at hand */
	if (out.egress.ifindex == in ? MAC_OF(*(const __u64 *)p->eth ^ out.word[0]) != 0 :
				       !is_addressed_to_us(p))
		return stop(REASON_OTHER_HOST);
	if (unlikely(out.egress.ifindex != in)) {
		if (!out.egress.ifindex)
			return stop(REASON_INTERNAL);
		if (p->bytes > out.egress.mtu)
			return stop(REASON_TOO_BIG);
	}
	if (!spend_hop(p, family))
		return stop(REASON_TTL_EXCEEDED);
	if (!set_vlan(p, out.egress.vlan))
		return stop(REASON_NO_HEADROOM);
	set_macs(p->eth, MAC_OF(to.word), out.word[0]);

	count_packet(p->id, p->bytes);
	if (out.egress.ifindex == in)
		return REASON_TX;
	return bpf_redirect(out.egress.ifindex, 0) == XDP_REDIRECT ? REASON_REDIRECT :
								     REASON_INTERNAL;
}

#endif
