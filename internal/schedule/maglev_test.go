// SPDX-License-Identifier: Apache-2.0

package schedule_test

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
	"testing"

	"xdplb/internal/schedule"
)

// addrs are consecutive addresses, as real servers have them: the hash must spread what differs in a few bits.
func addrs(n int) []netip.Addr {
	list := make([]netip.Addr, n)
	for i := range list {
		list[i] = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	return list
}

func maglev(t testing.TB, list []netip.Addr, weights []uint32) []int {
	t.Helper()
	table, err := schedule.Maglev(list, weights, schedule.MaglevSlots(len(list)))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func equal(n int) []uint32 { return slices.Repeat([]uint32{1}, n) }

// Tables are part of the protocol between directors: one that differs breaks connections when another takes over.
// Change the numbers only together with the schema.
func TestMaglevGolden(t *testing.T) {
	t.Parallel()
	v6 := []netip.Addr{netip.MustParseAddr("2001:db8::8"), netip.MustParseAddr("2001:db8::9"), netip.MustParseAddr("2001:db8::a")}
	for _, tt := range []struct {
		name  string
		table []int
		want  uint64
	}{
		{"100 equal", maglev(t, addrs(100), equal(100)), 0xc5ceca64b1c513d5},
		{"weighted", maglev(t, addrs(4), []uint32{1, 2, 0, 300}), 0x3918ccff399b5135},
		{"IPv6", maglev(t, v6, []uint32{3, 2, 1}), 0x20db1d21412596ef},
	} {
		digest := fnv.New64a()
		for _, i := range tt.table {
			digest.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
		}
		if got := digest.Sum64(); got != tt.want {
			t.Errorf("%s: the table's digest is %#x, want %#x", tt.name, got, tt.want)
		}
	}
}

func TestMaglevBalance(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 3, 100, 1000} {
		shares := counts(maglev(t, addrs(n), equal(n)), n)
		if low, high := slices.Min(shares), slices.Max(shares); high-low > 1 {
			t.Errorf("%d equal backends have from %d to %d slots", n, low, high)
		}
	}
	weights := []uint32{10, 20, 0, 30, 40}
	checkNear(t, counts(maglev(t, addrs(5), weights), 5), weights, 2)
	ramp := make([]uint32, 100)
	for i := range ramp {
		ramp[i] = uint32(i + 1)
	}
	checkNear(t, counts(maglev(t, addrs(100), ramp), 100), ramp, 2)
}

// checkNear wants shares of all slots that are at most so many slots off.
func checkNear(t testing.TB, shares []int, weights []uint32, slots float64) {
	t.Helper()
	sum, all := 0.0, 0.0
	for i, w := range weights {
		sum, all = sum+float64(w), all+float64(shares[i])
	}
	for i, n := range shares {
		want := float64(weights[i]) / sum * all
		if off := float64(n) - want; off > slots || off < -slots || (n == 0) != (weights[i] == 0) {
			t.Errorf("backend %d of weight %d has %d slots, want %.1f", i, weights[i], n, want)
		}
	}
}

func TestMaglevStarvesNone(t *testing.T) {
	t.Parallel()
	weights := equal(1000)
	weights[500] = 1<<31 - 1
	shares := counts(maglev(t, addrs(1000), weights), 1000)
	if low := slices.Min(shares); low != 1 {
		t.Errorf("a backend of weight 1 has %d slots", low)
	}
	if got, want := shares[500], schedule.MaglevSlots(1000)-999; got != want {
		t.Errorf("the backend of the largest weight has %d slots, want %d", got, want)
	}
}

func TestMaglevNoBackend(t *testing.T) {
	t.Parallel()
	for _, weights := range [][]uint32{nil, {0}, {0, 0}} {
		if got := maglev(t, addrs(len(weights)), weights); len(got) != 0 {
			t.Errorf("%v: %d slots, want none", weights, len(got))
		}
	}
}

// textbook is Maglev as the paper's listing has it, over given permutations, for equal weights.
func textbook(permutation [][]int) []int {
	table := slices.Repeat([]int{-1}, schedule.MaglevSlots(len(permutation)))
	next := make([]int, len(permutation))
	for filled := 0; ; {
		for i := range permutation {
			for table[permutation[i][next[i]]] >= 0 {
				next[i]++
			}
			table[permutation[i][next[i]]] = i
			if filled++; filled == len(table) {
				return table
			}
		}
	}
}

func TestMaglevIsTheTextbooks(t *testing.T) {
	t.Parallel()
	const n = 7
	permutations := make([][]int, n)
	list := addrs(n)
	for i := range permutations {
		permutations[i] = schedule.Permutation(list[i])
	}
	got := maglev(t, list, equal(n))
	if want := textbook(permutations); !slices.Equal(want, got) {
		t.Error("the table differs from the textbook's")
	}
	for i, permutation := range permutations {
		sorted := slices.Sorted(slices.Values(permutation))
		for slot := range sorted {
			if sorted[slot] != slot {
				t.Fatalf("backend %d: the preferences do not visit slot %d once", i, slot)
			}
		}
	}
}

// moved counts the slots that changed hands between two backends which are in both tables.
func moved(before, after []int, beforeAddrs, afterAddrs []netip.Addr) (n int) {
	for slot := range before {
		was, is := beforeAddrs[before[slot]], afterAddrs[after[slot]]
		if was != is && slices.Contains(afterAddrs, was) && slices.Contains(beforeAddrs, is) {
			n++
		}
	}
	return n
}

func TestMaglevDisruption(t *testing.T) {
	t.Parallel()
	ramp := make([]uint32, 100)
	for i := range ramp {
		ramp[i] = uint32(i%10 + 1)
	}
	for _, tt := range []struct {
		name    string
		weights []uint32
	}{{"equal", equal(100)}, {"weighted", ramp}} {
		list := addrs(100)
		all := maglev(t, list, tt.weights)
		for _, gone := range []int{0, 42, 99} {
			fewer := slices.Delete(slices.Clone(list), gone, gone+1)
			after := maglev(t, fewer, slices.Delete(slices.Clone(tt.weights), gone, gone+1))
			n := moved(all, after, list, fewer)
			t.Logf("%s: without backend %d, %d slots of others moved (%.2f %%)", tt.name, gone, n, 100*float64(n)/float64(len(all)))
			if n > len(all)*3/100 {
				t.Errorf("%s: without backend %d, %d slots of others moved: more than 3 %%", tt.name, gone, n)
			}
		}
	}
}

func TestMaglevQuiescedIsRemoved(t *testing.T) {
	t.Parallel()
	list := addrs(10)
	weights := equal(10)
	weights[3] = 0
	quiesced := maglev(t, list, weights)
	fewer := slices.Delete(slices.Clone(list), 3, 4)
	removed := maglev(t, fewer, equal(9))
	for slot := range quiesced {
		if list[quiesced[slot]] != fewer[removed[slot]] {
			t.Fatalf("slot %d: weight 0 gives another table than no backend", slot)
		}
	}
}

func TestFloodSlots(t *testing.T) {
	t.Parallel()
	for backends, want := range map[int]int{0: 64, 8: 64, 9: 128, 100: 1024, 8192: 65536, 1 << 20: 65536} {
		if got := schedule.FloodSlots(backends); got != want {
			t.Errorf("%d backends: %d slots, want %d", backends, got, want)
		}
	}
}

func TestMaglevSlots(t *testing.T) {
	t.Parallel()
	for backends, want := range map[int]int{
		0: 4096, 64: 4096, 65: 8192, 128: 8192, 129: 16384, 256: 16384, 257: 32768, 512: 32768, 513: 65536, 1 << 20: 65536,
	} {
		if got := schedule.MaglevSlots(backends); got != want {
			t.Errorf("%d backends: %d slots, want %d", backends, got, want)
		}
	}
}
