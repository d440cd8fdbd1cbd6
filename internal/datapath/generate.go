// SPDX-License-Identifier: Apache-2.0

package datapath

// The object is made with clang 19, since others give other code, and committed, so that building needs only Go. The
// kernel's <asm/types.h> stands in a folder that is named after the machine; a folder that does not exist is ignored.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Wextra -Werror -mcpu=v3 -I../../bpf -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" -type schema -type service_bucket -type peer -type port_range -type service -type slots -type backend_columns -type next_hop -type egress -type entry -type origins -type counters -type scheduler -type flow_state -type timeout -type reason -type eviction -type head -type slot -type status -type member -type load_unit -type scheduler_flag -type limit_bit -type egress_index -type template_key -type template -type persistence xdplb ../../bpf/xdplb.c
