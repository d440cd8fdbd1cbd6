// SPDX-License-Identifier: Apache-2.0

// Package bench measures what a packet costs xdplb, as a ratio to the floor: an XDP program that only rewrites both MAC
// addresses and transmits. Absolute nanoseconds drift by a third from one minute to the next on a shared machine; only
// ratios of one run, its cases interleaved in random order, hold.
//
// [Measure] knows nothing of xdplb. It runs a [Case], a program with a frame, by BPF_PROG_TEST_RUN in batches of some
// ten milliseconds, each case once per round, and fails if a single verdict is wrong. Four things would make it lie:
//
//   - The kernel puts a program into the XDP dispatcher for each repeated run and takes it out again, which costs 10 to
//     40 ms of grace periods per call. So [KeepAttached] holds every measured program on an idle interface.
//   - The kernel's own figure is in whole nanoseconds per run. So the thread's own time is read around a long batch. (By
//     the wall clock, two other busy processes double the median; by the thread's, they add a tenth.)
//   - A signal interrupts the system call, which then begins anew. The Go runtime sends such signals itself, to preempt:
//     run with GODEBUG=asyncpreemptoff=1. A batch that was interrupted all the same is thrown away and repeated.
//   - The frame is not reset between the runs of a batch. So a driver (bpf/bench/driver.h) restores it before each
//     run, gives it its tuple, and judges the verdict; what the driver costs is measured in the same round.
//
// [Director] is xdplb as an operator would set it up, through internal/datapath, and [Director.Cases] the list of what
// is measured on it. [MeasureLive] sends real frames through the attached program instead.
//
// It imports cilium/ebpf beside internal/datapath because it loads programs that are not the product.
package bench
