// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"xdplb/internal/lb"
)

// count writes a backend's counters, different on every CPU, as the program would; the sums are returned.
func (d *Datapath) count(t testing.TB, id uint32, scale uint64) Counters {
	t.Helper()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	var total Counters
	perCPU := make([]xdplbCounters, cpus)
	for cpu := range perCPU {
		n := scale * uint64(cpu+1)
		perCPU[cpu] = xdplbCounters{Connections: n, Packets: 10 * n, Bytes: 1000 * n}
		total = total.plus(perCPU[cpu])
	}
	if err := d.maps.BackendCounters.Put(id, perCPU); err != nil {
		t.Fatal(err)
	}
	return total
}

func stats(t testing.TB) map[lb.ServiceKey]ServiceStats {
	t.Helper()
	d := opened(t)
	defer d.Close()
	all, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func status(t testing.TB) Status {
	t.Helper()
	d := opened(t)
	defer d.Close()
	status, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func TestStats(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	before, _ := crashStates(t, attachment.Ifindex)
	mustChange(t, to(before))
	key := before.Services[0].ServiceKey
	first, second := before.Services[0].Backends[0].Addr, before.Services[0].Backends[2].Addr

	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	live, err := d.readLive(nil)
	if err != nil {
		t.Fatal(err)
	}
	one, two := live.services[key].find(first).id, live.services[key].find(second).id
	countOne, countTwo := d.count(t, one, 3), d.count(t, two, 5)
	putFlows(t, d, one)
	d.Close()

	sum := Counters{
		countOne.Connections + countTwo.Connections, countOne.Packets + countTwo.Packets, countOne.Bytes + countTwo.Bytes,
	}
	got := stats(t)[key]
	if got.Counters != sum {
		t.Errorf("service %+v, want %+v", got.Counters, sum)
	}
	want := map[netip.Addr]BackendStats{first: {Counters: countOne, Active: 2, Inactive: 3}, second: {Counters: countTwo}}
	ignored := cmpopts.IgnoreMapEntries(func(_ netip.Addr, b BackendStats) bool { return b == BackendStats{} })
	if diff := cmp.Diff(want, got.Backends, ignored, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("backends (-want +got):\n%s", diff)
	}

	// Removed, a backend leaves its counts with the service and its flows with nobody; its id starts anew.
	mustChange(t, func(s *lb.State) error { return s.DeleteBackend(key, first) })
	if got := stats(t)[key]; got.Counters != sum {
		t.Errorf("after removing a backend, the service has %+v, want %+v", got.Counters, sum)
	}
	mustChange(t, func(s *lb.State) error { return s.AddBackend(key, before.Services[0].Backends[0]) })
	got = stats(t)[key]
	if got.Backends[first] != (BackendStats{}) {
		t.Errorf("added again, the backend has %+v, want nothing", got.Backends[first])
	}
	if got.Counters != sum {
		t.Errorf("after adding it again, the service has %+v, want %+v", got.Counters, sum)
	}

	// The service removed and added again starts anew too.
	mustChange(t, func(s *lb.State) error { return s.DeleteService(key) })
	mustChange(t, to(before))
	if got := stats(t)[key].Counters; got != (Counters{}) {
		t.Errorf("added again, the service has %+v, want nothing", got)
	}
}

// putFlows writes two active and three inactive flows of a backend, and others that do not count.
func putFlows(t testing.TB, d *Datapath, id uint32) {
	t.Helper()
	generation := d.backends.get(id).Generation
	established, udp, syn := xdplbFlowStateFLOW_ESTABLISHED, xdplbFlowStateFLOW_UDP, xdplbFlowStateFLOW_SYN
	for i, flow := range []struct {
		generation, age uint32
		state           xdplbFlowState
	}{
		{generation, 0, established},
		{generation, uint32(xdplbTimeoutTIMEOUT_ESTABLISHED) - 5, established},
		{generation, uint32(xdplbTimeoutTIMEOUT_ESTABLISHED) + 5, established},
		{generation - 1, 0, established},
		{generation, 0, udp},
		{generation, 3, xdplbFlowStateFLOW_FIN},
		{generation, 0, syn},
		{generation, uint32(xdplbTimeoutTIMEOUT_SYN) + 5, syn},
		{generation, uint32(xdplbTimeoutTIMEOUT_CLOSED) + 5, xdplbFlowStateFLOW_CLOSED},
	} {
		d.putFlow(t, 7*i, i%int(ways), id, flow.generation, flow.age, flow.state)
	}
}

// putFlow writes an entry as the program would, last seen some ticks ago.
func (d *Datapath) putFlow(t testing.TB, bucket, way int, id, generation, age uint32, state xdplbFlowState) {
	t.Helper()
	now, err := ticks()
	if err != nil {
		t.Fatal(err)
	}
	value := d.bucket(t, bucket)
	value.Tag[way] = uint32(bucket)
	value.Entry[way] = newEntry(targetOf(id, generation), state, statusCheck, now-age)
	if err := d.maps.Flows.Put(uint32(bucket), value); err != nil {
		t.Fatal(err)
	}
}

func (d *Datapath) bucket(t testing.TB, index int) (value xdplbBucket) {
	t.Helper()
	if err := d.maps.Flows.Lookup(uint32(index), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestStatus(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	before, _ := crashStates(t, attachment.Ifindex)
	mustChange(t, to(before))
	status := status(t)
	capacity := small
	capacity.FloodRate = 1024
	if status.Epoch != 1 || status.Schema != Schema || status.Capacity != capacity || status.Program.Name != "xdplb" {
		t.Errorf("status %+v", status)
	}
	if age := time.Since(status.Program.LoadedAt); age < -2*time.Second || age > time.Minute {
		t.Errorf("the program was loaded %s ago", age)
	}
	used := make(map[string]uint32)
	var memory uint64
	for _, m := range status.Maps {
		used[m.Name] = m.Used
		memory += m.Bytes
		if m.Bytes == 0 {
			t.Errorf("map %s takes no memory", m.Name)
		}
	}
	want := map[string]uint32{"backends": 7, "egresses": 2, "interfaces": 1, "tables": 1, "table_ids": 1, "cursors": 3, "services": 3, "backend_info": 7, "flows": 0}
	for name, n := range want {
		if used[name] != n {
			t.Errorf("map %s: %d used, want %d", name, used[name], n)
		}
	}
	if status.Memory < memory {
		t.Errorf("memory %d is less than the maps' %d", status.Memory, memory)
	}
}

// TestReasonsMatchTheProgram compares the verdicts with those in count.h.
func TestReasonsMatchTheProgram(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../../bpf/count.h")
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	verdict := regexp.MustCompile(`return XDP_(\w+);`)
	for _, group := range strings.SplitAfter(string(source), ";") {
		found := verdict.FindStringSubmatch(group)
		for _, name := range regexp.MustCompile(`case REASON_(\w+):`).FindAllStringSubmatch(group, -1) {
			if found == nil {
				t.Fatalf("no verdict after %s", name[0])
			}
			want[strings.ToLower(name[1])] = found[1]
		}
	}
	if len(want) == 0 {
		t.Fatal("count.h has no verdicts where they are looked for")
	}
	seen := make(map[string]bool)
	for _, reason := range reasonTexts() {
		verdict, listed := want[reason.Name]
		if !listed {
			verdict = "DROP" // its default
		}
		if reason.Verdict != verdict || reason.Meaning == "" || seen[reason.Name] {
			t.Errorf("%+v: want the verdict %s, a meaning, and a name of its own", reason, verdict)
		}
		seen[reason.Name] = true
		delete(want, reason.Name)
	}
	if len(want) > 0 {
		t.Errorf("count.h has also %v", want)
	}
}

// TestWordsAreNeverTorn reads a next hop through the system call while it is changed.
func TestWordsAreNeverTorn(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	before, _ := crashStates(t, attachment.Ifindex)
	mustChange(t, to(before))
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	hops := []xdplbNextHop{
		{Mac: [6]byte{0x11, 0x11, 0x11, 0x11, 0x11, 0x11}, Egress: 0x1111},
		{Mac: [6]byte{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}, Egress: 0xeeee},
	}
	b := &backend{id: 1, word: hops[0]}
	if err := storeHops(d, []*backend{b}); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	defer group.Wait() // before the maps are closed
	end := time.Now().Add(150 * time.Millisecond)
	group.Go(func() {
		for n := 0; time.Now().Before(end); n++ {
			b := &backend{id: 1, word: hops[n%2]}
			_ = storeHops(d, []*backend{b})
		}
	})
	for time.Now().Before(end) {
		var value xdplbBackend
		if err := d.maps.Backends.Lookup(uint32(1), &value); err != nil {
			t.Fatal(err)
		}
		if value.NextHop != hops[0] && value.NextHop != hops[1] {
			t.Fatalf("torn: %x", value.NextHop)
		}
		if value.InUse != 1 {
			t.Fatalf("the other word changed: %+v", value)
		}
	}
}
