# SPDX-License-Identifier: Apache-2.0

# sudo's PATH often lacks Go's folder.
export PATH := $(PATH):$(shell scripts/setup --go):/usr/sbin:/sbin
# git and Go's own version stamp fail when root builds a user's clone.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
VERSION := $(shell git -c safe.directory='*' describe --always --dirty --tags 2>/dev/null)

.PHONY: help build demo test lint generate bench bench-live bench-grow bench-icount test-kernels clean

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s%s\n", $$1, $$2 }' Makefile

build: ## build the static binaries into build/; needs only Go
	scripts/setup
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o build/ ./cmd/...

# Set up first: on a bare system it is the set-up that brings the certificates with which Go fetches modules.
demo: ## raise the reference cluster, walk through it, take it down (root)
	scripts/setup demo
	$(MAKE) --no-print-directory build
	build/xdplb-lab demo

test: ## run all tests; those of the kernel need root. TESTFLAGS="-race -v" adds flags
	scripts/setup test
	go vet ./...
	go test -count=1 $(TESTFLAGS) ./...

lint: ## check formats, vet, staticcheck, ShellCheck, licences
	scripts/setup dev
	scripts/lint

generate: ## build the committed BPF objects again, with clang 19
	scripts/setup dev
	go generate ./...

bench: build ## measure nanoseconds per packet, beside the floor (root)
	build/xdplb-bench

bench-live: build ## measure packets per second through a veth, beside the floor (root)
	build/xdplb-bench --live

bench-grow: build ## measure how costs grow with flows, services and backends (root, 3 minutes)
	build/xdplb-bench --grow

bench-icount: ## count instructions per packet in qemu, beside LVS (root); ICOUNTFLAGS=--update stores them
	scripts/setup demo test kernels
	$(MAKE) --no-print-directory build
	scripts/icount/run $(ICOUNTFLAGS)

test-kernels: ## run the kernel's tests on Debian's kernels 6.1 and 6.12 in qemu too (root)
	scripts/setup test kernels
	scripts/kernels/run

clean: ## remove what was built
	rm -rf build
