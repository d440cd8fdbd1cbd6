// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"xdplb/internal/lb"
)

// persistentService is a persistent rr service with three backends.
func persistentService(t testing.TB) (Attachment, lb.Service) {
	t.Helper()
	attachment := director(t, small)
	service := lb.Service{
		ServiceKey:  lb.ServiceKey{Addr: addrPort(address(false, 1, 0), 80), Protocol: lb.TCP},
		Scheduler:   lb.RR,
		Persistence: lb.Persistence{Timeout: 6 * time.Minute, Prefix: 24},
	}
	for n := range 3 {
		hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 1, byte(n)}, Ifindex: attachment.Ifindex}
		service.Backends = append(service.Backends, lb.Backend{Addr: address(false, 2, n), Weight: 1, Hop: hop})
	}
	mustChange(t, func(state *lb.State) error { return state.AddService(service) })
	return attachment, service
}

// wantTemplateCounts compares the backends' numbers of templates.
func (d *Datapath) wantTemplateCounts(t testing.TB, when string, key lb.ServiceKey, want ...uint64) {
	t.Helper()
	stats, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]uint64, len(want))
	for n := range got {
		got[n] = stats[key].Backends[address(false, 2, n)].Persistent
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: templates of the backends (-want +got):\n%s", when, diff)
	}
}

// expireTemplates lets the time of all templates be up since so many ticks.
func (d *Datapath) expireTemplates(t *testing.T, since uint32) {
	t.Helper()
	table, err := d.openFlows()
	if err != nil {
		t.Fatal(err)
	}
	defer table.close()
	templates := d.openTemplates(table)
	now := nowTicks(t)
	var key xdplbTemplateKey
	var value xdplbTemplate
	entries := templates.kept.Iterate()
	for entries.Next(&key, &value) {
		value.Expires = now - since
		if err := templates.kept.Put(key, value); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTemplates: templates are listed as LVS lists them, counted, and swept when neither their time nor a connection lasts.
func TestTemplates(t *testing.T) {
	t.Parallel()
	attachment, service := persistentService(t)
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	connect := func(client netip.AddrPort, flags ...layers.TCP) (to [6]byte) {
		for _, f := range flags {
			to = d.send(t, attachment.Ifindex, frameTo(t, attachment.MAC, client, service.Addr, f))
		}
		return to
	}
	syn, ack, rst := layers.TCP{SYN: true}, layers.TCP{ACK: true}, layers.TCP{RST: true}
	one, other := netip.MustParseAddrPort("10.9.1.1:1000"), netip.MustParseAddrPort("10.9.1.2:1000")
	home := connect(one, syn, ack)
	connect(other, syn, ack)
	connect(netip.MustParseAddrPort("10.9.2.1:1000"), syn)
	d.wantTemplateCounts(t, "connected", service.ServiceKey, 1, 1, 0)

	found := 0
	eachConnection(t, d, func(c Connection) {
		if c.Client != netip.MustParseAddrPort("10.9.1.0:0") {
			return
		}
		found++
		if c.State != StateNone || c.VIPPort != 80 || c.Backend != address(false, 2, 0) || c.Left < 5*time.Minute || c.Left > 7*time.Minute {
			t.Errorf("template %+v", c)
		}
	})
	if found != 1 {
		t.Errorf("%d templates of 10.9.1.0/24 are listed, want 1", found)
	}

	// the last connection is over, the one before it is not
	connect(other, rst)
	sweep := func(want int) {
		t.Helper()
		if freed, err := d.Sweep(context.Background()); err != nil || freed != want {
			t.Errorf("freed %d (%v), want %d", freed, err, want)
		}
	}
	d.ageState(t, stateClosed, 100)
	d.expireTemplates(t, 5)
	sweep(1) // the connection that is over
	d.wantTemplateCounts(t, "one connection left", service.ServiceKey, 1, 1, 0)
	if to := connect(netip.MustParseAddrPort("10.9.1.3:1000"), syn); to != home {
		t.Errorf("to %x, want %x, where a connection lasts", to, home)
	}
	d.ageState(t, stateSYN, 100)
	d.ageState(t, stateEstablished, 1000)
	d.expireTemplates(t, 5)
	sweep(4) // three connections, the template
	d.wantTemplateCounts(t, "no connection left", service.ServiceKey, 0, 1, 0)
}

// ageState lets flows of a state look unused for so many ticks more.
func (d *Datapath) ageState(t testing.TB, state xdplbFlowState, ticks uint32) {
	t.Helper()
	table, err := d.openFlows()
	if err != nil {
		t.Fatal(err)
	}
	defer table.close()
	for i := range table.buckets.values {
		for way := range table.buckets.values[i].Entry {
			if entry := &table.buckets.values[i].Entry[way]; entry.Target != 0 && entry.state() == state {
				*entry = entry.aged(ticks)
			}
		}
	}
}

// TestTakeOverTemplates: templates of another load balancer are followed, unless packets have made one here.
func TestTakeOverTemplates(t *testing.T) {
	t.Parallel()
	attachment, service := persistentService(t)
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	open := func(client string) [6]byte {
		t.Helper()
		from := netip.MustParseAddrPort(client)
		return d.send(t, attachment.Ifindex, frameTo(t, attachment.MAC, from, service.Addr, layers.TCP{SYN: true}))
	}
	open("10.9.1.1:1000") // with the first backend
	d.Close()
	template := func(network string, backend int, left time.Duration) Connection {
		return Connection{
			Service: service.ServiceKey, Client: netip.MustParseAddrPort(network), VIPPort: 80, Backend: address(false, 2, backend),
			State: StateNone, Left: left,
		}
	}
	_, done, err := TakeOver(pinDir, func(*lb.State) error { return nil }, []Connection{
		template("10.9.1.0:0", 2, time.Minute), template("10.9.2.0:0", 2, time.Minute), template("10.9.3.0:0", 1, 5*time.Second),
	})
	if want := (Adoption{Adopted: 2, Known: 1}); err != nil || done != want {
		t.Fatalf("took over %+v (%v), want %+v", done, err, want)
	}
	if d, err = Open(pinDir); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	d.wantTemplateCounts(t, "taken over", service.ServiceKey, 1, 1, 1)
	for client, backend := range map[string]byte{"10.9.1.9:1000": 0, "10.9.2.9:1000": 2, "10.9.3.9:1000": 1} {
		if to, want := open(client), service.Backends[backend].Hop.MAC; to != want {
			t.Errorf("%s: to %x, want %x", client, to, want)
		}
	}
}
