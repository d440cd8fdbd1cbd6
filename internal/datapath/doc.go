// SPDX-License-Identifier: Apache-2.0

// Package datapath is the control side of the XDP program in bpf/: it loads and pins it, attaches it, reads its state
// as an [lb.State], and applies a plan to it. It is the only package that imports cilium/ebpf.
//
// # Pins
//
// The pinned maps are the state; there is no other. Under the pin directory (mode 0750, default
// /sys/fs/bpf/xdplb):
//
//	program        the XDP program
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
// the result out in ids (layout.go), and applies that. A configuration (services, lookup tables, backend_info) is
// immutable once packets see it. There are twice as many ids of services, tables and backends as the capacity says, so
// that any configuration can replace any other in one change. The steps (apply.go, then cleanup.go) are
//
//  1. fill the words of new backends and egresses, which nothing refers to yet, and zero their counters,
//  2. build the lookup tables of changed services under unused ids, and both families' services and the backend_info of
//     the other side; all map-in-map updates of this step run side by side, since each waits for a grace period,
//  3. change next hops of existing backends, one word each,
//  4. publish: one 64-bit store of config.epoch; packets of every kind and family change over at once,
//  5. forget next hops that are not known any more, after the last packet that may choose them,
//
// and, unless only next hops changed, once no packet of the old side is under way:
//
//  6. retire removed backends: raise their generation, so that their flows are stale,
//  7. delete the old side's services and the tables that nobody uses (which waits until no packet uses them, so that the
//     ids may be given away),
//  8. add the retired backends' counters to retired_counters and clear in_use,
//  9. delete the old side's backend_info, which step 8 needs, and free egresses.
//
// Between 4 and 6 lies a grace period because a packet may have read the old epoch just before the store: it must
// still find its side, and must not record a flow with a generation that was raised already.
//
// Whoever dies before step 4 has changed no configuration that a packet or a reader sees; who dies after it has
// changed all of it, and the next writer does steps 6 to 9, which need nothing but the live side. Next hops are words
// of their own: each is the old or the new one. Which backends a side's tables list is kept in backend_info, so that a
// writer that died between a next hop and its table is noticed.
//
// A change of known next hops alone publishes nothing: it stores words, and waits for nobody.
package datapath
