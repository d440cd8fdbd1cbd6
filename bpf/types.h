/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every struct and enum that the program shares with Go. bpf2go derives the Go types from here
 * (through BTF); none is written twice. Anything that changes a size, an offset or a meaning in
 * this file raises SCHEMA, from the first release on.
 *
 * Words: every field that changes while packets read it is part of one aligned 64-bit word, which
 * user space and the program store and load whole. Longer values are only ever published by a new
 * epoch (see struct config).
 */
#ifndef XDPLB_TYPES_H
#define XDPLB_TYPES_H

#include <linux/types.h>

/* Version of everything in this file and in maps.h; kept in the pinned map "meta". */
enum schema {
	SCHEMA = 1,
};

/*
 * Time on the packet path is counted in ticks of 2^30 ns (1.074 s) of CLOCK_MONOTONIC: a shift
 * where seconds would be a 64-bit division.
 */
#define TICK_SHIFT 30

/* How a service chooses the backend of a new flow, by LVS's names; the numbers are lb.Scheduler's. */
enum scheduler {
	SCHEDULER_RR = 1,
	SCHEDULER_WRR = 2,
	SCHEDULER_SH = 3,
	SCHEDULER_MH = 4,
	SCHEDULER_LC = 5,
	SCHEDULER_WLC = 6,
	SCHEDULER_LBLC = 7,
	SCHEDULER_LBLCR = 8,
	SCHEDULER_DH = 9,
	SCHEDULER_SED = 10,
	SCHEDULER_NQ = 11,
	SCHEDULER_FO = 12,
	SCHEDULER_OVF = 13,
	SCHEDULER_TWOS = 14,
};

/* The flags of a service's scheduler that the program looks at; the numbers are lb.SchedulerFlags'. */
enum scheduler_flag {
	FLAG_FALLBACK = 1, /* sh, mh: another backend where the hashed one has reached its limit */
	FLAG_KEEP_REMOVED = 0x20, /* user only: removed backends drain */
	FLAG_PEERS = 0x40,	/* the director is a backend, and so are others: see struct peer */
	FLAG_ONE_PACKET = 0x80, /* UDP: each datagram is scheduled by itself */
	FLAG_HASH_PORT = 2,	/* sh, mh: the client's port is part of what is hashed */
};

/*
 * What a flow has come to, as far as the client's half of the traffic shows it; LVS's name of a
 * state stands behind. Which one follows which is in state.h, which needs this order.
 */
enum flow_state {
	FLOW_DATAGRAM = 1,    /* UDP: one datagram and nothing after it */
	FLOW_UDP = 2,	      /* UDP */
	FLOW_SYN = 3,	      /* TCP, SYN_RECV: SYNs, or one packet from a connection's middle */
	FLOW_INIT = 4,	      /* SCTP, INIT: the client has sent INIT more than once */
	FLOW_ESTABLISHED = 5, /* TCP, ESTABLISHED */
	FLOW_SCTP_ESTABLISHED = 6,   /* SCTP, ESTABLISHED */
	FLOW_FIN = 7,		     /* TCP, FIN_WAIT: the client has sent FIN */
	FLOW_TIME_WAIT = 8,	     /* TCP, TIME_WAIT: FIN right behind the SYN */
	FLOW_CLOSED = 9,	     /* TCP, CLOSE: the client has sent RST */
	FLOW_SCTP_NONE = 10,	     /* SCTP, NONE: one packet from an association's middle */
	FLOW_INIT1 = 11,	     /* SCTP, INIT1: one INIT */
	FLOW_COOKIE_ECHOED = 12,     /* SCTP, C-ECHOED: the client answers an INIT */
	FLOW_SHUTDOWN_RECEIVED = 13, /* SCTP, S-RECEIVED: the client has sent SHUTDOWN */
	FLOW_SCTP_CLOSED = 14,	     /* SCTP, CLOSED */
	FLOW_FRAGMENT = 15,	     /* map fragments only */
};
#define FLOW_STATES 16

/*
 * What a packet by itself says of its flow. Most are numbered as the state that they leave as it
 * is: FLOW_UDP is a datagram, FLOW_SYN a SYN, FLOW_ESTABLISHED an ACK, FLOW_FIN a FIN, FLOW_CLOSED an
 * RST; and of an SCTP packet's first chunk, FLOW_INIT an INIT, FLOW_COOKIE_ECHOED an INIT ACK,
 * FLOW_SHUTDOWN_RECEIVED a SHUTDOWN, FLOW_SCTP_CLOSED an ABORT, FLOW_SCTP_ESTABLISHED any other one
 * (DATA, SACK, HEARTBEAT, ERROR, ...).
 */
enum event {
	EVENT_COOKIE_ECHO = 16,
	EVENT_COOKIE_ACK = 17,
	EVENT_SHUTDOWN_ACK = 18,
	EVENT_SHUTDOWN_COMPLETE = 19,
};

/*
 * How long a flow may be idle, in ticks, rounded up. The seconds are LVS's (tcp_timeouts,
 * udp_timeouts, sctp_timeouts): after it a new SYN, INIT or datagram is scheduled afresh. Any other
 * packet still follows its entry, as long as that is there: the timeout exists to free memory, not
 * to break a connection whose real server is known.
 *
 * The operator may set those of FLOW_ESTABLISHED, FLOW_FIN and of both of UDP's: see struct timeouts.
 */
enum timeout {
	TIMEOUT_SYN = 56,	   /* 60 s */
	TIMEOUT_ESTABLISHED = 839, /* 900 s, of SCTP too */
	TIMEOUT_FIN = 112,	   /* 120 s */
	TIMEOUT_TIME_WAIT = 112,   /* 120 s */
	TIMEOUT_CLOSED = 10,	   /* 10 s */
	TIMEOUT_UDP = 280,	   /* 300 s */
	TIMEOUT_INIT1 = 4,	   /* SCTP: 4 s */
	TIMEOUT_SCTP = 57,	   /* SCTP: 61 s, the longest time between two attempts, and one */
	TIMEOUT_FRAGMENT = 28,	   /* 30 s (net.ipv4.ipfrag_time) */
};

/* The timeouts of a configuration. */
struct timeouts {
	__u32 ticks[FLOW_STATES]; /* by enum flow_state; at 0 the longest of all */
	/* user only: those that can be set, in seconds */
	__u32 tcp;
	__u32 tcp_fin;
	__u32 udp;
	__u32 zero;
};

/*
 * Why a packet met the verdict that it met; index of the map "reasons". Every packet that the
 * program sees counts exactly one. The verdict of each reason stands in count.h.
 */
enum reason {
	REASON_TX,	 /* sent to its backend out of the interface that it came in by */
	REASON_REDIRECT, /* sent to its backend out of another interface */
	REASON_LOCAL,	 /* passed to the director's own stack, which is its backend */
	/* passed to the director's own stack */
	REASON_NOT_IP,		   /* ARP, LLDP, more than two VLAN tags, ... */
	REASON_OTHER_PROTOCOL,	   /* IP, but no TCP, UDP, SCTP or ICMP error: ping, ND, ... */
	REASON_NO_SERVICE,	   /* (address, port, protocol) is no service */
	REASON_OTHER_HOST,	   /* for a service, but sent to another MAC address */
	REASON_MALFORMED,	   /* lengths or offsets that do not fit together */
	REASON_NO_BACKEND,	   /* the service has no backend that takes new flows */
	REASON_NO_CONNECTION,	   /* no SYN or INIT, of no known flow; rr and wrr */
	REASON_ICMP_UNMATCHED,	   /* an ICMP error that quotes no known flow */
	REASON_FRAGMENT_UNMATCHED, /* a later fragment whose first one was not seen */
	/* dropped */
	REASON_TTL_EXCEEDED,	/* TTL or hop limit used up: the guard against loops */
	REASON_NO_NEIGHBOUR,	/* the backend's MAC address is not known */
	REASON_FLOW_TABLE_FULL, /* other CPUs held the new flow's bucket for too long */
	REASON_TOO_BIG,		/* larger than the MTU of the interface towards the backend */
	REASON_NO_HEADROOM,	/* no room in front of the frame for a VLAN tag */
	REASON_INTERNAL,	/* what must exist does not: a bug */
	REASON_COUNT,
};

/* ---- Configuration: built beside the live one, published whole by one store of the epoch ---- */

/*
 * The maps services, service_buckets, backend_info and timeouts have two sides each, one behind the other.
 * Packets use side (epoch & 1). Between changes the other side is its copy; user space changes that,
 * stores epoch + 1, and makes the two equal again. A service keeps its index while it lives.
 */
struct config {
	__u64 epoch;
	__u64 multiplier[2]; /* odd, of each side: see struct service_bucket */
	/*
	 * user only: epoch + 1 if nothing is left over and both sides are equal, ~epoch if removed
	 * backends are accounted for and not yet free
	 */
	__u64 tidy;
	/*
	 * of each side: how many services have port 0, which is all ports (lower half), and how many
	 * ranges there are (upper half)
	 */
	__u64 all_ports[2];
	__u64 locked[2]; /* user only: home and spill bucket that it has locked, plus 1; 0: none */
};

/*
 * Services are found by a key of 64 bits: address, port and protocol of IPv4, a hash of them of
 * IPv6. The bucket is the upper half of key times the side's multiplier, scaled to the number of
 * buckets; user space draws a multiplier for which no bucket overflows. Key 0 is free.
 */
#define SERVICE_WAYS 5
struct service_bucket {
	__u64 key[SERVICE_WAYS];
	__u32 service[SERVICE_WAYS]; /* index of services */
	__u32 zero;
};

/*
 * Ports of services that have several: sorted by key and port, none overlaps another. The key is
 * that of a service with port 0.
 */
struct port_range {
	__u64 key;
	__u16 first; /* both included, in the order of the host's bytes */
	__u16 last;
	__u32 service; /* index of services */
};

/* Bits of a service's key beside address (0..31) and port (32..47, as on the wire). */
#define SERVICE_KEY_PROTOCOL_SHIFT 48
#define SERVICE_KEY_IP4 (1ULL << 62)
#define SERVICE_KEY_IP6 (1ULL << 63)

struct service {
	__u32 id;	/* index of cursors; stays with the service for its life. 0: none */
	__u32 table;	/* where its lookup table begins: a slot of tables, 0: none */
	__u32 slots;	/* of that table, 0: no backend takes new flows */
	__u8 scheduler; /* enum scheduler */
	/*
	 * rr, wrr: behind the slots, of which they take turns, follow 2^flood_bits of a Maglev table, for
	 * floods. Else 0: floods are placed by the slots.
	 */
	__u8 flood_bits;
	__u8 zero[2];
	/* mh: where the backends begin that unsettled slots had before, as many; 0: no slot had one */
	__u32 previous;
	__u32 settles;	  /* user only; mh: tick from which on unsettled slots may settle */
	__u8 address[16]; /* IPv4 in the first four bytes */
	__be16 port;	  /* 0: all that no other service of the address has */
	__u8 protocol;	  /* IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP */
	__u8 family;	  /* 4 or 6 */
	/*
	 * Where the table begins of those who are chosen from by load, as pairs (struct member): the
	 * first slot of a struct slots. 0: neither does the scheduler look at loads, nor is there a
	 * limit. Such a service's flows are counted; where the scheduler looks at loads, its slots
	 * are a Maglev table, for floods.
	 */
	__u32 members;
	__u32 member_count; /* pairs in that table */
	__u32 era; /* another one when the scheduler changes, so that nothing is kept from before */
	__u8 flags;   /* enum scheduler_flag, and what only user space knows */
	__u8 limited; /* a backend has a limit: see struct limit */
	__u8 prefix;  /* persistent: leading bits of an address that make a client */
	__u8 settled; /* mh with slots, neither limited nor persistent: flows need no looking up */
	__u32 persistence; /* enum persistence; 0: the service is not persistent */
};

enum persistence {
	PERSISTENCE_SECONDS = 0xffffff,		   /* how long a client stays with its backend */
	PERSISTENCE_EXPIRES_QUIESCENT = 0x1000000, /* not with one of weight 0 (LVS's sysctl) */
};

/*
 * Another backend of a service that has the director among its backends: it may be a director too,
 * which has scheduled the packets that it sends here.
 */
struct peer {
	__u8 mac[6];
	__u8 zero[2];
	__u32 service; /* service id */
};

/*
 * mh: flows of this slot may have another backend, which the flow table knows, or service.previous.
 * User space clears the bit, in place, when the last of them is gone. The bit alone: no backend
 * takes the slot's new flows.
 */
enum slot {
	SLOT_UNSETTLED = 0x80000000,
};

/*
 * Slots of lookup tables, of which many lie one behind the other: slot i of a service's is slot
 * service.table + i of all, which is backend[% SLOTS] of the value number / SLOTS.
 */
#define SLOTS 64
struct slots {
	__u32 backend[SLOTS];
};

/* Two slots of a table of members, which begins with a struct slots. Backend 0: the end. */
struct member {
	__u32 backend;
	__u32 weight; /* as far as the scheduler looks at it: 1 for lc */
};
#define MEMBERS (SLOTS / 2)

/* bytes are IP bytes, as LVS counts them: no Ethernet header. */
struct counters {
	__u64 connections;
	__u64 packets;
	__u64 bytes;
};

/* What the path of known flows does not read of a backend; key: backend id. */
struct backend_columns {
	__u8 address[16]; /* IPv4 in the first four bytes */
	__u32 service;	  /* service id */
	__u32 weight;	  /* 0..2147483647 */
	__u32 upper;	  /* of struct limit */
	__u32 lower;
	__u8 family;	 /* 4 or 6 */
	__u8 static_hop; /* the next hop was given by the operator */
	__u8 listed;	 /* it is in the lookup table of this side */
	/*
	 * It was removed and keeps its connections: it is none of the service's backends any more, but
	 * its id and generation stay until no connection is left.
	 */
	__u8 draining;
	__u8 zero[4];
	struct counters base; /* what it had counted when its counters were last zeroed */
};

/* ---- Live words: changed in place, one 64-bit word at a time ---- */

/* Where a backend's frames go: one word. */
struct next_hop {
	__u8 mac[6];  /* all zero: not known, or none */
	__u16 egress; /* index of egresses, 0: none, EGRESS_LOCAL */
} __attribute__((aligned(8)));

/* Indexes of egresses that are none. */
enum egress_index {
	EGRESS_LOCAL = 0xffff, /* the director's own stack */
};

/*
 * A backend is one real server of one service. Its generation is raised when it is removed, or has
 * drained after that, and then every flow that points to it is stale at once, also when the id is
 * given to another backend later.
 */
struct backend {
	struct next_hop next_hop; /* word 0 */
	__u32 generation;	  /* word 1 */
	__u32 in_use;		  /* word 1; 1: a configuration has it, or had it at a crash */
};

/* A way out: an attached interface, and the VLAN on it. Index 0 is none. */
struct egress {
	__u8 mac[6];   /* word 0: the interface's own address, which becomes the frame's source */
	__u16 vlan;    /* word 0: 0: tags stay as they are; 1..4094: id that the outer tag gets */
	__u32 ifindex; /* word 1; 0: free */
	__u32 mtu;     /* word 1: bytes of IP */
};

/* An interface that carries the program. */
struct interface {
	__u8 mac[6]; /* word 0 */
	__u8 zero[2];
	__u32 ifindex; /* word 1; 0: free */
	__u32 zero1;
} __attribute__((aligned(8)));

/* ---- Flows ---- */

struct flow_key4 {
	__be32 client;
	__be32 vip;
	__be16 client_port;
	__be16 vip_port;
	__u8 protocol;
	__u8 zero[3];
};

struct flow_key6 {
	__u8 client[16];
	__u8 vip[16];
	__be16 client_port;
	__be16 vip_port;
	__u8 protocol;
	__u8 zero[3];
} __attribute__((aligned(8)));

/*
 * Which backend, and which life of it: the backend's id in the lower 24 bits, the lower 8 bits of
 * its generation above them. 0: none, since no backend has id 0.
 */
typedef __u32 target_t;

/*
 * What the packet path knows of a flow: one word, so that no packet sees half of it. All zero:
 * free.
 */
struct entry {
	target_t target;
	__u32 status; /* enum status */
} __attribute__((aligned(8)));

enum status {
	STATUS_STATE = 0xf,    /* enum flow_state */
	STATUS_COUNTED = 0x10, /* the flow is counted in its backend's load */
	STATUS_CHECK = 0x3e0,  /* of the flow's hash, as a second tag */
	STATUS_SEEN_SHIFT =
		10, /* above: the tick of the last packet, as far as 22 bits go: 52 days */
};

/*
 * Flows whose hash selects the same bucket: one cache line. The tag is written before its entry and
 * under the lock; a packet that finds its flow needs no lock and usually writes nothing.
 */
#define WAYS 5
struct bucket {
	struct entry entry[WAYS];
	__u32 tag[WAYS];
	__u32 head; /* enum head */
};

enum head {
	HEAD_LOCKED = 1,
	HEAD_SPILLED = 2, /* a flow that belongs here is, or was, in the table's second part */
	HEAD_TICK_SHIFT =
		10, /* above: the tick in which one was last seen there, like an entry's */
};

/*
 * Where the flows of a bucket come from, for people: written once when a flow is recorded. VIP and
 * protocol are those of its backend's service.
 */
struct origin {
	__be32 client; /* IPv4 */
	__be16 client_port;
	__be16 vip_port;
};

struct origins {
	struct origin origin[WAYS];
	__u64 zero[3];
};

/* The client of an IPv6 flow. */
struct client6 {
	__u8 address[16];
} __attribute__((aligned(8)));

/* How room was made for a new flow; index of the map "evictions". */
enum eviction {
	EVICTION_EXPIRED,   /* a flow idle for longer than its timeout, or whose backend is gone */
	EVICTION_EMBRYONIC, /* one packet and nothing after it */
	EVICTION_SPILLED,   /* none: the new flow went to the second part of the table */
	EVICTION_ESTABLISHED, /* a live flow, because nothing else would do */
	EVICTION_TEMPLATE,    /* none: a persistence template was not kept, as there are too many */
	EVICTION_COUNT,
};

/* A client of a persistent service, as far as the service tells its clients apart. */
struct template_key {
	__u8 client[16]; /* the address's leading bits; IPv4 in the first four bytes */
	__u32 service;	 /* service id */
	__u8 prefix;	 /* how many bits those are */
	__u8 zero[3];
} __attribute__((aligned(8)));

/* Where a client's connections go: bpf/persist.h. */
struct template
{
	target_t target; /* word 0 */
	__u32 expires;	 /* word 0: tick; the template is not renewed after that */
	__u64 witness;	 /* the hash of the last connection that was opened */
	__u32 service;	 /* that of the key */
	__u8 zero[4];
};

/* The fragments of one datagram; IPv4 addresses in the first four bytes. */
struct fragment_key {
	__u8 source[16];
	__u8 destination[16];
	__u32 id; /* as on the wire; IPv4's 16 bits zero-extended */
	__u8 protocol;
	__u8 family; /* 4 or 6 */
	__u8 zero[2];
};

/* ---- Counters and state per service ---- */

/*
 * How many flows a backend has, of those whose entries say that they are counted, as LVS counts
 * them: active ones are established TCP connections.
 */
struct load {
	__u64 flows;  /* the sum of enum load_unit over the flows, in one word */
	__u64 joined; /* lblc, lblcr: the number with which it joined the service's set; 0: never */
};

/*
 * The lower 36 bits are what LVS calls the overhead, in which an active flow weighs as much as 256
 * inactive ones, so that a scheduler has it at hand; the upper 28 are the number of active flows.
 */
#define LOAD_ACTIVE_SHIFT 36
enum load_unit {
	LOAD_INACTIVE = 1,
	LOAD_ACTIVE = 1ULL << LOAD_ACTIVE_SHIFT | 256,
};

/*
 * How many flows a backend may have: one word. Who has reached upper takes no new flows until it
 * has fewer than lower.
 */
struct limit {
	__u32 upper; /* 0: any number. With LIMIT_REACHED */
	__u32 lower; /* 0: three quarters of upper */
} __attribute__((aligned(8)));

enum limit_bit {
	LIMIT_REACHED =
		0x80000000, /* upper was reached, and fewer than lower were not seen since */
};

/* What all CPUs share of a service; a cache line of its own. */
struct cursor {
	__u64 next;  /* turns taken: position of rr and wrr, and new flows of every scheduler */
	__u64 first; /* the turn with which the current tick began */
	__u32 tick;  /* that tick */
	__u32 flood_until; /* tick; until then the service is in flood mode */
	__u32 flood_since; /* tick in which it last entered flood mode */
	__u32 floods;	   /* times that it did */
	/* lblc, lblcr: the set of backends that the service's destination has */
	__u64 joins;   /* how often a backend has joined */
	__u64 oldest;  /* members of the set have joined with this number or a later one */
	__u32 era;     /* service.era, of which the set is */
	__u32 used;    /* tick of the last new flow */
	__u32 changed; /* tick when somebody last joined or left */
	__u32 chosen; /* persistent: turns of clients without a template, by which rr and wrr choose */
};

/* Says what the pins are, and what the program was given before it was loaded. */
#define HASH_KEYS 12
struct meta {
	enum schema schema; /* of the program that created them */
	__u32 flows;	    /* capacities */
	__u32 services;
	__u32 backends;
	__u32 flow_buckets;
	__u32 spill_buckets;
	__u32 service_buckets_per_side;
	__u32 flood_rate;
	__u64 hash_keys[HASH_KEYS];
};

#define ASSERT_SIZE(type, size) \
	_Static_assert(sizeof(type) == (size), #type " is not " #size " bytes")
ASSERT_SIZE(struct config, 64);
ASSERT_SIZE(struct service_bucket, 64);
ASSERT_SIZE(struct port_range, 16);
ASSERT_SIZE(struct service, 64);
ASSERT_SIZE(struct peer, 12);
ASSERT_SIZE(struct slots, 4 * SLOTS);
ASSERT_SIZE(struct member, 8);
ASSERT_SIZE(struct load, 16);
ASSERT_SIZE(struct timeouts, 80);
ASSERT_SIZE(struct backend_columns, 64);
ASSERT_SIZE(struct limit, 8);
ASSERT_SIZE(struct next_hop, 8);
ASSERT_SIZE(struct backend, 16);
ASSERT_SIZE(struct egress, 16);
ASSERT_SIZE(struct interface, 16);
ASSERT_SIZE(struct flow_key4, 16);
ASSERT_SIZE(struct flow_key6, 40);
ASSERT_SIZE(struct fragment_key, 40);
ASSERT_SIZE(struct template_key, 24);
ASSERT_SIZE(struct template, 24);
ASSERT_SIZE(struct entry, 8);
ASSERT_SIZE(struct bucket, 64);
ASSERT_SIZE(struct origins, 64);
ASSERT_SIZE(struct client6, 16);
ASSERT_SIZE(struct counters, 24);
ASSERT_SIZE(struct cursor, 64);
ASSERT_SIZE(struct meta, 128);

#endif
