// SPDX-License-Identifier: Apache-2.0

// Package datapath is the control side of the XDP program in bpf/: it loads and pins it, attaches it, reads its state
// as an [lb.State], and applies a plan to it. It is the only package that imports cilium/ebpf.
//
// # Pins
//
// The pinned maps are the state; there is no other. Under the pin directory (mode 0750, default
// /sys/fs/bpf/xdplb):
//
//	program        the XDP program, which holds the constants that it was given before it was loaded (struct meta)
//	<map name>     every map of bpf/maps.h
//	links/<index>  the XDP link of the interface with that index (bpffs refuses names with dots)
//
// The first attach builds everything in a sibling directory, "<pin directory>-new" (bpffs takes no dots), and renames it
// into place; the last detach moves it to "<pin directory>-old" before it is removed. So the directory is either whole
// or absent, and siblings left by a killed process are removed by the next attach or detach. Open never creates, create
// never overwrites, Close never removes. The schema number in the map "meta" says whether this binary understands the
// pins.
//
// # Lock
//
// A reader holds a shared, a writer an exclusive flock on the pin directory (on its parent while it is created or
// moved). Who waits longer than [LockTimeout] gets a [LockedError] with the holder's process id, read from /proc/locks.
//
// # One write path
//
// [Change] takes the exclusive lock, repairs what a killed writer left, takes a snapshot, lets the caller edit it, lays
// the result out in ids (layout.go), and applies that. [ChangeService] does the same, but takes a snapshot of one service
// only. A configuration (services, service_buckets, backend_info, and the lookup tables) does not change once packets see
// it. The first three are flat arrays with two sides each, of which packets use one, and the other one is a copy but
// during a change; the lookup tables lie one behind the other in a row of slots. There are twice as many ids of
// services and backends as the capacity says, so that any configuration can replace any other in one change. The steps
// (apply.go, then cleanup.go) are
//
//  1. announce: config.tidy says from now on that something may be left over,
//  2. fill the words of new backends and egresses, which nothing refers to yet, and zero their counters,
//  3. write what differs to the other side, which nobody reads, and the lookup tables of changed services where no live
//     service has one, all in the maps' memory; where the row of slots has no part yet, make it,
//  4. change next hops of existing backends, one word each, and add peers (peers.go), of which step 7 removes the others,
//  5. publish: one 64-bit store of config.epoch; packets of every kind and family change over at once,
//  6. forget next hops that are not known any more, after the last packet that may choose them,
//
// and, unless nothing is left over, once no packet of the old side is under way:
//
//  7. change the words of limits that differ, and retire removed backends: raise their generation, so that their flows are stale,
//  8. take those parts of the row of slots out in which no live service has a table, and wait again,
//  9. add the retired backends' counters to retired_counters, note that in config.tidy, and clear in_use,
//  10. make the old side, whose cold columns step 9 needs, a copy of the live one, free egresses, and note in config.tidy
//     that nothing is left.
//
// Between 5 and 7 lies a grace period because a packet may have read the old epoch just before the store: it must
// still find its side, and must not record a flow with a generation that was raised already. The cheapest call that
// always waits for one is to put a part of the row of slots where it is already (settle).
//
// Whoever dies before step 5 has changed no configuration that a packet or a reader sees; who dies after it has
// changed all of it, and the next writer, who sees it by config.tidy, does steps 7 to 10, which need nothing but the live
// side. Next hops are words of their own: each is the old or the new one. Which backends a side's tables list is kept in
// backend_info, so that a writer that died between a next hop and its table is noticed.
//
// [Zero] goes the same way: what has been counted so far becomes the base, in backend_info, that readers subtract, and
// retired_counters begins anew. Packets go on counting meanwhile, and nothing that they count is lost.
//
// A change of known next hops alone publishes nothing: it stores words, and waits for nobody.
//
// # Lookup tables
//
// The slots of all lookup tables are one row of 2^32, of which the map of maps "tables" has those parts of 1 MiB that are
// in use; a process maps them side by side (parts.go). A service says where its tables begin. What is free is nowhere
// written down: it is what no live service has, once the change before was cleaned up (space.go). So a killed writer leaves
// nothing that has to be put right but parts that nobody needs, which the next one takes out.
//
// One row costs packets one memory access, as a flat array would: the list of parts and their headers stay in the cache,
// and since all parts have one size the kernel puts both accesses in line. A flat array would have to be made for the
// largest tables that might ever be wanted: 64 MiB for the 65,536 backends of the default capacity.
//
// # Adopted connections
//
// [TakeOver] writes connections of another load balancer into the flow table, between steps 4 and 5, when their backends
// have ids and no packet finds the services yet. For each it takes the program's lock of the bucket, after config.home or,
// in the second part of the table, config.spill has said which (words 6 and 7). Packets meanwhile read the bucket, and
// record no flow there. Who is killed leaves it locked; the next exclusive lock on the pins opens it (locked.go). The way
// that was written is free, or whole: its entry is the last word.
//
// # Generations
//
// A flow names its backend by 24 bits of id and 8 bits of the id's generation. Were one id given to 256 backends one
// after the other while a flow of the first is remembered, that flow would be taken for one of the last. Ids are
// therefore given away in the order of their generations, and there are at least 4,095: a flow's mark returns after a
// million removals at the earliest, which at 20 ms each takes five hours. [Datapath.Sweep] forgets flows of removed
// backends at once, whatever the timeouts are. Without it, a timeout of 15 minutes would allow a thousand removals a second, and
// one of 31 days one in three seconds.
//
// # Draining backends
//
// A service may keep the connections of backends that are removed. That such a backend drains is one of its cold columns, and so
// begins and ends as any other change does: it is in use, and neither retired nor freed, until its columns are gone. Who takes
// them out, and when, is told in draining.go.
//
// # Unsettled slots
//
// Packets of an mh service do not look at the flow table where the lookup table alone can say where they go. What a
// change does to that is told in succession.go.
package datapath
