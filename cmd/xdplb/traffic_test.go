// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

func TestTrafficPerSecond(t *testing.T) {
	t.Parallel()
	key := lb.ServiceKey{Addr: netip.MustParseAddrPort("172.10.0.9:80"), Protocol: lb.TCP}
	counted := func(service, old, added, again datapath.Counters) traffic {
		return traffic{key: {Counters: service, Backends: map[netip.Addr]datapath.BackendStats{
			netip.MustParseAddr("192.168.60.8"): {Counters: old},
			netip.MustParseAddr("192.168.60.9"): {Counters: added},
			netip.MustParseAddr("192.168.60.7"): {Counters: again},
		}}}
	}
	c := func(connections, packets, bytes uint64) datapath.Counters {
		return datapath.Counters{Connections: connections, Packets: packets, Bytes: bytes}
	}
	before := counted(c(10, 100, 1000), c(10, 100, 1000), c(0, 0, 0), c(50, 500, 5000))
	delete(before[key].Backends, netip.MustParseAddr("192.168.60.9"))
	now := counted(c(20, 300, 4000), c(14, 104, 1005), c(6, 196, 2995), c(2, 20, 200))
	want := counted(c(5, 100, 1500), c(2, 2, 3), c(3, 98, 1498), c(1, 10, 100))
	if diff := cmp.Diff(want, now.since(before, 2*time.Second), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 92379545: "88.1 MiB", 1 << 40: "1.0 TiB",
	} {
		if got := size(bytes); got != want {
			t.Errorf("size(%d) = %q, want %q", bytes, got, want)
		}
	}
}
