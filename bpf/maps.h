/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every map: how it is keyed, who writes it ("user": the control plane, "prog": the program) and
 * who reads it. Sizes that say CAPACITY are set by user space before the program is loaded; the
 * figures here are the defaults.
 */
#ifndef XDPLB_MAPS_H
#define XDPLB_MAPS_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

#define SIDES 2
#define EGRESSES 1024
#define INTERFACES 256
#define INTERFACE_PLACES 4
#define FRAGMENTS 16384
#define PEERS 4096

/* user writes, user reads: what schema and which sizes these pins have */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct meta);
} meta SEC(".maps");

/* user writes (mmap), prog reads: which side is live */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

/* user writes (mmap), prog reads: where a service stands in services. Two sides. CAPACITY */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIDES * 8192);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct service_bucket);
} service_buckets SEC(".maps");

/* user writes (mmap), prog reads: the ports of services that have several. Two sides. CAPACITY */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIDES * 4 * 4096);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct port_range);
} port_ranges SEC(".maps");

/* user writes (mmap), prog reads: keyed by service_bucket.service. Two sides. CAPACITY */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIDES * 4096);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct service);
} services SEC(".maps");

/* user writes (mmap), prog reads: how long a flow may be idle. Two sides */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIDES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct timeouts);
} timeouts SEC(".maps");

/*
 * user writes (mmap), prog reads the weights of persistent services' backends: the cold columns of
 * the backends, keyed by side * capacity + backend id. Two sides. CAPACITY
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIDES * 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct backend_columns);
} backend_info SEC(".maps");

/*
 * user writes (mmap), prog reads: the slots of all lookup tables, one row of as many as 32 bits can
 * number, in parts of 1 MiB that come and go as they are needed. A part is keyed by the number of
 * its first struct slots / PART; the first one is always there. All parts have the same size, so
 * that the verifier puts the access in line. A table may cross from one part into the next.
 *
 * A table is never changed once live, but that SLOT_UNSETTLED may be cleared; a service that
 * changes gets another one, where nothing is that packets use. Which slots are in use, only the
 * live services say (service.table, previous, members). The first SLOTS belong to no table.
 */
#define PART 4096
#define PARTS 16384
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, PARTS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, PART);
		__uint(map_flags, BPF_F_MMAPABLE);
		__type(key, __u32);
		__type(value, struct slots);
	});
} tables SEC(".maps");

/*
 * user only (mmap, word by word): the kernel's id of each part of tables; 0: there is none. Kernels
 * before 6.8 wait for a grace period even when an element of tables is read. Written before the
 * part is put in, and zeroed after it was taken out, so that none is missed after a crash.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PARTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} table_ids SEC(".maps");

/* prog adds (atomically, all CPUs), user reads: keyed by service id. CAPACITY */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * 4096 + 1);
	__type(key, __u32);
	__type(value, struct cursor);
} cursors SEC(".maps");

/* user writes (mmap, word by word), prog reads: keyed by backend id; id 0 is none. CAPACITY */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/*
 * prog adds, user reads and zeroes when the id is given to a new backend: keyed by backend id.
 * CAPACITY
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct counters);
} backend_counters SEC(".maps");

/*
 * prog adds (atomically, all CPUs), user reads and corrects (mmap, word by word): keyed by backend id. CAPACITY
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct load);
} loads SEC(".maps");

/*
 * user writes (mmap, word by word), prog sets and clears LIMIT_REACHED: keyed by backend id. CAPACITY
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct limit);
} limits SEC(".maps");

/*
 * user only (mmap): what the removed backends of a service had counted since it was zeroed, keyed by
 * side * capacity + service id. A service's counters are these and its backends' summed. Two sides.
 * CAPACITY
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIDES * 4096);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct counters);
} retired_counters SEC(".maps");

/* user writes (mmap, word by word), prog reads: keyed by next_hop.egress; index 0 is none */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EGRESSES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct egress);
} egresses SEC(".maps");

/* user writes, prog reads: the id of the backend that is the director itself, for whom a peer sends */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PEERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct peer);
	__type(value, __u32);
} peers SEC(".maps");

/*
 * user writes at attach and detach (mmap, word by word), prog reads: interface i is at (i + n) %
 * INTERFACES with some n below INTERFACE_PLACES. (A hash map takes a call and 140 instructions, of
 * each new flow.)
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, INTERFACES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct interface);
} interfaces SEC(".maps");

/*
 * prog writes, user reads (mmap): the flow table. Its first FLOW_BUCKETS are where flows belong,
 * the SPILL_BUCKETS behind them take what does not fit. CAPACITY
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 209716 + 104858);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct bucket);
} flows SEC(".maps");

/*
 * prog writes, user reads (mmap): where the flows of a bucket come from, keyed like flows. CAPACITY
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 209716 + 104858);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct origins);
} flow_origins SEC(".maps");

/*
 * prog writes, user reads (mmap): the client of the IPv6 flow in way w of bucket b, at b * WAYS +
 * w. CAPACITY
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WAYS * (209716 + 104858));
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct client6);
} flow_clients6 SEC(".maps");

/* prog adds, user reads: by enum eviction */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EVICTION_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} evictions SEC(".maps");

/* prog writes and reads: where the first fragment of a datagram went */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAGMENTS);
	__type(key, struct fragment_key);
	__type(value, struct entry);
} fragments SEC(".maps");

/*
 * prog adds and changes, user reads, sweeps and adopts: persistence templates whose clients have
 * sent more than one packet. CAPACITY
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct template_key);
	__type(value, struct template);
} templates SEC(".maps");

/* prog adds and changes, user reads and sweeps: those of the other clients. CAPACITY */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct template_key);
	__type(value, struct template);
} new_templates SEC(".maps");

/* prog adds, user reads: packets by enum reason */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASON_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} reasons SEC(".maps");

/*
 * What differs between IPv4 and IPv6. Always a constant where it is used, so that it costs nothing.
 */
struct family {
	bool is_ip6;
};

/*
 * Clang describes a type in BTF only if something of that type exists; for the inner maps' keys and
 * values, and for the enums that only Go reads, this does. No loader looks at a section of this
 * name.
 */
const struct {
	struct slots slots;
	struct backend_columns backend_info;
	enum scheduler scheduler;
	enum flow_state flow_state;
	enum event event;
	enum timeout timeout;
	enum reason reason;
	enum eviction eviction;
	enum head head;
	enum slot slot;
	enum status status;
	enum load_unit load_unit;
	enum scheduler_flag scheduler_flag;
	enum egress_index egress_index;
	enum limit_bit limit_bit;
	enum persistence persistence;
	struct member member;
} described SEC(".described");

#endif
