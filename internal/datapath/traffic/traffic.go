// SPDX-License-Identifier: Apache-2.0

// Package traffic is the BPF programs of bpf/bench/stream.c, with which tests send live packets of very many flows and
// see where each arrives. Only tests use it.
package traffic

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -Wall -Wextra -Werror -mcpu=v3 -I../../../bpf -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" -type life Stream ../../../bpf/bench/stream.c
