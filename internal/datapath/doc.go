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
// Create builds everything in a sibling directory, "<pin directory>.new", and renames it into place, so that the
// directory is either whole or absent; a leftover ".new" of a killed process is removed by the next Create. Open never
// creates, Create never overwrites, Close never removes. The schema number in the map "meta" says whether this binary
// understands the pins.
//
// # Lock
//
// A reader holds a shared, a writer an exclusive flock on the pin directory (on its parent while it is created). Who
// waits longer than [LockTimeout] gets a [LockedError] with the holder's process id, read from /proc/locks.
//
// # One write path
//
// [Change] takes the exclusive lock, repairs what a killed writer left, takes a snapshot, lets the caller edit it,
// computes lb.Diff and applies the plan. A configuration (services, lookup tables, backend_info) is immutable once packets see it. Apply
//
//  1. fills the words of new backends and egresses, which nothing refers to yet,
//  2. builds the lookup tables of changed services under unused table ids, and both families' services and the
//     backend_info of the other side; all map-in-map updates of this step run side by side, since each waits for a
//     grace period,
//  3. publishes: one 64-bit store of config.epoch; packets of every kind and family change over at once,
//  4. changes next hops of existing backends, one word each,
//  5. deletes the old side (which waits until no packet uses it),
//  6. retires removed backends: adds their counters to retired_counters, raises their generation so that their flows
//     are stale, clears in_use,
//  7. deletes unused lookup tables (which waits again, so that the ids may be given away).
//
// Whoever dies before step 3 has changed nothing that a packet or a reader sees; who dies after it has changed
// everything, and the next writer's repair does steps 5 to 7, which need nothing but the live side.
package datapath
