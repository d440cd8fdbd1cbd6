// SPDX-License-Identifier: Apache-2.0

// The tools that are run through `go tool -modfile=scripts/tools.mod`, apart from go.mod, which holds only what the
// product needs. Another version: `go get -tool -modfile=scripts/tools.mod PACKAGE@VERSION`. bpf2go is that of go.mod's
// cilium/ebpf; `make lint` compares the two.
module xdplb

go 1.26.8

tool (
	github.com/cilium/ebpf/cmd/bpf2go
	honnef.co/go/tools/cmd/staticcheck
)

require (
	github.com/BurntSushi/toml v1.6.0 // indirect
	github.com/cilium/ebpf v0.22.0 // indirect
	golang.org/x/exp/typeparams v0.0.0-20260209203927-2842357ff358 // indirect
	golang.org/x/mod v0.41.0 // indirect
	golang.org/x/sync v0.23.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/tools v0.51.0 // indirect
	honnef.co/go/tools v0.8.2 // indirect
)
