// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
)

const (
	sixMinutes       = 360
	expiresQuiescent = uint32(xdplbPersistencePERSISTENCE_EXPIRES_QUIESCENT)
)

// persistent makes services keep their clients, told apart by so many bits of IPv4 and of IPv6 addresses.
func persistent(persists uint32, bits4, bits6 uint8, services ...virtual) []virtual {
	for i := range services {
		services[i].persists, services[i].prefix = persists, bits6
		if services[i].at.Addr().Is4() {
			services[i].prefix = bits4
		}
	}
	return services
}

// tcpOf is a TCP frame of a client to a port of the VIP of its family.
func tcpOf(client netip.Addr, from, to uint16, flags tcpFlags) []byte {
	if client.Is4() {
		return frame(ip4(from4(client)), tcp(from, to, flags))
	}
	return frame(ip6(from6(client)), tcp(from, to, flags))
}

func (d *rig) open(t testing.TB, client netip.Addr, from uint16) macAddr {
	t.Helper()
	return d.destination(t, tcpOf(client, from, portPlain, tcpFlags{syn: true}))
}

// connect is open, and the client's next packet.
func (d *rig) connect(t testing.TB, client netip.Addr, from uint16) macAddr {
	t.Helper()
	to := d.open(t, client, from)
	if again := d.destination(t, tcpOf(client, from, portPlain, tcpFlags{ack: true})); again != to {
		t.Fatalf("the SYN of %s:%d went to %x, the next packet to %x", client, from, to, again)
	}
	return to
}

// templates are those in a map.
func (d *rig) templates(name string) map[xdplbTemplateKey]xdplbTemplate {
	d.tb.Helper()
	all := make(map[xdplbTemplateKey]xdplbTemplate)
	var key xdplbTemplateKey
	var value xdplbTemplate
	entries := d.maps[name].Iterate()
	for entries.Next(&key, &value) {
		all[key] = value
	}
	if err := entries.Err(); err != nil {
		d.tb.Fatal(err)
	}
	return all
}

func (d *rig) wantTemplates(t testing.TB, when string, kept, fresh int) {
	t.Helper()
	if got := [2]int{len(d.templates("templates")), len(d.templates("new_templates"))}; got != [2]int{kept, fresh} {
		t.Errorf("%s: %d templates kept and %d new, want %d and %d", when, got[0], got[1], kept, fresh)
	}
}

// waitTemplates lets time pass for the templates alone.
func (d *rig) waitTemplates(ticks uint32) {
	d.tb.Helper()
	for _, name := range []string{"templates", "new_templates"} {
		for key, value := range d.templates(name) {
			value.Expires -= ticks
			d.put(name, key, value)
		}
	}
}

// forgetClients makes the world one without flows and templates.
func (d *rig) forgetClients() {
	d.tb.Helper()
	d.forget()
	for _, name := range []string{"templates", "new_templates"} {
		for key := range d.templates(name) {
			if err := d.maps[name].Delete(key); err != nil {
				d.tb.Fatal(err)
			}
		}
	}
	d.turn(0)
}

// ticksOf is how many ticks a template of a service lasts.
func ticksOf(seconds uint32) uint32 {
	return uint32(uint64(seconds)*uint64(time.Second)>>tickShift) + 1
}

func client(text string) netip.Addr { return netip.MustParseAddr(text) }

// TestPersistence: with rr, each client has a backend of its own turn, and keeps it. A template is new before the client's
// second packet, and kept after it.
func TestPersistence(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	d.publish(persistent(sixMinutes, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, d.addReals(3)...)...)...)
	for _, clients := range [][]netip.Addr{
		{client("10.1.0.1"), client("10.1.0.2"), client("10.1.0.3"), client("10.1.0.4")},
		{client("fd10::1"), client("fd10::2"), client("fd10:1::1"), client("fd10::1:0:0:1")},
	} {
		d.forgetClients()
		now := earlyTick(t)
		for round := range uint16(4) {
			for i, c := range clients {
				if to, want := d.open(t, c, 2000+round), realMAC(i%3); to != want {
					t.Fatalf("connection %d of %s: to %x, want %x", round, c, to, want)
				}
			}
		}
		d.wantTemplates(t, "SYNs", 0, 4)
		for _, c := range clients {
			d.connect(t, c, 3000)
		}
		d.wantTemplates(t, "answered", 4, 0)
		for key, template := range d.templates("templates") {
			if left := template.Expires - now - ticksOf(sixMinutes); left > 5 {
				t.Errorf("template %v lasts for %d ticks more than %d", key, int32(left), ticksOf(sixMinutes))
			}
			if key.Service != template.Service {
				t.Errorf("template %v says service %d", key, template.Service)
			}
		}
		for i, c := range clients {
			if to, want := d.open(t, c, 4000), realMAC(i%3); to != want {
				t.Errorf("%s with a kept template: to %x, want %x", c, to, want)
			}
		}
	}
}

// TestPersistenceUDP: datagrams too.
func TestPersistenceUDP(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	d.publish(persistent(sixMinutes, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, d.addReals(3)...)...)...)
	for i, c := range []netip.Addr{client("10.1.0.1"), client("10.1.0.2"), client("10.1.0.3")} {
		for port := range uint16(3) {
			if to, want := d.destination(t, datagramOf(c, 2000+port)), realMAC(i); to != want {
				t.Fatalf("datagram of %s: to %x, want %x", c, to, want)
			}
		}
	}
	d.wantTemplates(t, "datagrams", 0, 3)
	d.destination(t, datagramOf(client("10.1.0.1"), 2000))
	d.wantTemplates(t, "a second one", 1, 2)
}

// TestPersistenceOfDatagrams: where each datagram is scheduled by itself, the template decides first too.
func TestPersistenceOfDatagrams(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	for _, scheduler := range []xdplbScheduler{xdplbSchedulerSCHEDULER_RR, xdplbSchedulerSCHEDULER_SH} {
		d.forgetClients()
		services := persistent(sixMinutes, 24, 64, everywhere(portPlain, scheduler, d.addReals(3)...)...)
		for i := range services {
			services[i].flags = lb.SchedulerFlags(xdplbSchedulerFlagFLAG_ONE_PACKET) | lb.SHPort
		}
		d.publish(services...)
		for n := range byte(8) {
			want := d.destination(t, datagramOf(netip.AddrFrom4([4]byte{10, 1, n, 1}), 2000))
			d.wantTemplates(t, "one datagram of each", int(n), 1)
			for port := range uint16(4) {
				if to := d.destination(t, datagramOf(netip.AddrFrom4([4]byte{10, 1, n, 2}), 2000+port)); to != want {
					t.Errorf("scheduler %d, client %d: to %x, want %x", scheduler, n, to, want)
				}
			}
		}
		d.wantTemplates(t, "more of each", 8, 0)
		if len(d.flows()) != 0 {
			t.Errorf("scheduler %d: %d flows", scheduler, len(d.flows()))
		}
		for i := range services {
			services[i].slots = nil // all backends are quiesced
		}
		d.publish(services...)
		d.destination(t, datagramOf(netip.AddrFrom4([4]byte{10, 1, 3, 9}), 2009))
		if reason, _, _ := d.explain(datagramOf(client("10.1.99.1"), 2000)); reason != isNoBackend {
			t.Errorf("scheduler %d, a client without a template: %s, want %s", scheduler, nameOf(reason), nameOf(isNoBackend))
		}
	}
}

// TestPersistenceGranularity: clients that agree in the leading bits are one.
func TestPersistenceGranularity(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	reals := d.addReals(2)
	for _, c := range []struct {
		bits     uint8
		one, two string
		same     bool
	}{
		{32, "10.1.2.3", "10.1.2.3", true},
		{32, "10.1.2.3", "10.1.2.2", false},
		{31, "10.1.2.3", "10.1.2.2", true},
		{31, "10.1.2.3", "10.1.2.4", false},
		{24, "10.1.2.3", "10.1.2.255", true},
		{24, "10.1.2.3", "10.1.3.3", false},
		{9, "10.1.2.3", "10.127.3.3", true},
		{9, "10.1.2.3", "10.128.2.3", false},
		{0, "10.1.2.3", "192.0.2.7", true},
		{128, "fd10::1", "fd10::1", true},
		{128, "fd10::1", "fd10::2", false},
		{127, "fd10::2", "fd10::3", true},
		{97, "fd10::7fff:1", "fd10::1", true},
		{97, "fd10::8000:1", "fd10::1", false},
		{96, "fd10::8000:1", "fd10::1", true},
		{96, "fd10::1:0:1", "fd10::1", false},
		{64, "fd10::1:2:3:4", "fd10::5:6:7:8", true},
		{64, "fd10:0:0:1::1", "fd10:0:0:2::1", false},
		{33, "fd10:1:7fff::1", "fd10:1::1", true},
		{33, "fd10:1:8000::1", "fd10:1::1", false},
		{1, "7d10::1", "20::1", true},
		{1, "fd10::1", "20::1", false},
	} {
		one, two := client(c.one), client(c.two)
		d.forgetClients()
		d.publish(persistent(sixMinutes, c.bits, c.bits, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, reals...)...)...)
		if same := d.connect(t, one, 2000) == d.connect(t, two, 2001); same != c.same {
			t.Errorf("/%d: %s and %s with one backend: %v, want %v", c.bits, one, two, same, c.same)
		}
		key := (&xdplbService{Id: 3, Prefix: c.bits}).templateKey(one)
		if one.Is4() {
			key.Service = 1
		}
		if _, found := d.templates("templates")[key]; !found {
			t.Errorf("/%d: the template of %s is not where user space looks for it: %v", c.bits, one, d.templates("templates"))
		}
	}
}

// TestTemplateEnds: the template ends with its time, unless the last connection goes on; a new connection renews it.
func TestTemplateEnds(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	d.publish(persistent(sixMinutes, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, d.addReals(3)...)...)...)
	for _, c := range []netip.Addr{client("10.1.0.1"), client("fd10::1")} {
		for _, tt := range []struct {
			name     string
			wait     uint32 // ticks for the template
			age      uint32 // for the connection
			fin      bool
			answered bool
			want     macAddr
		}{
			{name: "new, in time", wait: ticksOf(sixMinutes) - 3, age: 1000, want: realMAC(0)},
			{name: "new, over", wait: ticksOf(sixMinutes) + 1, age: 1000, want: realMAC(1)},
			{name: "new, over, with a SYN under way", wait: ticksOf(sixMinutes) + 1, age: 20, want: realMAC(0)},
			{name: "in time", answered: true, wait: ticksOf(sixMinutes) - 3, age: 1000, want: realMAC(0)},
			{name: "over, its connection too", answered: true, wait: ticksOf(sixMinutes) + 1, age: 1000, want: realMAC(1)},
			{name: "over, its connection not", answered: true, wait: ticksOf(sixMinutes) + 1, age: 700, want: realMAC(0)},
			{name: "over, its connection about to be", answered: true, wait: ticksOf(sixMinutes) + 1, fin: true, age: 20, want: realMAC(0)},
			{name: "over, its connection closed", answered: true, wait: ticksOf(sixMinutes) + 1, fin: true, age: 700, want: realMAC(1)},
		} {
			d.forgetClients()
			d.open(t, c, 2000)
			if tt.answered {
				d.run(tcpOf(c, 2000, portPlain, tcpFlags{ack: true}))
			}
			if tt.fin {
				d.run(tcpOf(c, 2000, portPlain, tcpFlags{ack: true, fin: true}))
			}
			d.waitTemplates(tt.wait)
			d.age(tt.age)
			if to := d.connect(t, c, 2001); to != tt.want {
				t.Errorf("%s, %s: to %x, want %x", c, tt.name, to, tt.want)
			}
			// whatever it was, it is a whole template again
			d.age(1000)
			d.waitTemplates(ticksOf(sixMinutes) - 3)
			if to := d.open(t, c, 2002); to != tt.want {
				t.Errorf("%s, %s, renewed: to %x, want %x", c, tt.name, to, tt.want)
			}
		}
	}
}

// TestTemplateOfABackend: what becomes of a template when its backend goes, or takes no new flows.
func TestTemplateOfABackend(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	reals := d.addReals(2)
	c := client("10.1.0.1")
	for _, tt := range []struct {
		name     string
		persists uint32
		change   func()
		want     macAddr
	}{
		{"nothing", sixMinutes, func() {}, realMAC(0)},
		{"removed", sixMinutes, func() { d.setGeneration(reals[0], 77) }, realMAC(1)},
		{"next hop forgotten", sixMinutes, func() { d.setHop(reals[0], xdplbNextHop{Egress: egressHere}) }, realMAC(1)},
		{"quiesced", sixMinutes, func() { d.weigh(reals[0], 0) }, realMAC(0)},
		{"quiesced, which ends it", sixMinutes | expiresQuiescent, func() { d.weigh(reals[0], 0) }, realMAC(1)},
		{"not quiesced", sixMinutes | expiresQuiescent, func() {}, realMAC(0)},
	} {
		for _, answered := range []bool{false, true} {
			d.addReals(2)
			d.forgetClients()
			d.weigh(reals[0], 1)
			d.weigh(reals[1], 1)
			services := persistent(tt.persists, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, reals...)...)
			d.publish(services...)
			d.open(t, c, 2000)
			if answered {
				d.run(tcpOf(c, 2000, portPlain, tcpFlags{ack: true}))
			}
			tt.change()
			// whether the scheduler would choose the first backend again is not the question
			for i := range services {
				services[i].slots = reals[1:]
			}
			d.publish(services...)
			for port := range uint16(3) {
				if to := d.connect(t, c, 3000+port); to != tt.want {
					t.Errorf("%s, answered: %v: to %x, want %x", tt.name, answered, to, tt.want)
				}
			}
		}
	}
}

// TestTemplateOfTheDirector: a backend without a MAC address of its own, since it is the director, keeps its clients.
func TestTemplateOfTheDirector(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	services := persistent(sixMinutes, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, realLocal, real1)...)
	d.publish(services...)
	for _, c := range []netip.Addr{client("10.1.0.1"), client("fd10::1")} {
		d.forgetClients()
		d.turn(0)
		for port := range uint16(4) {
			if reason, _, _ := d.explain(tcpOf(c, 2000+port, portPlain, tcpFlags{syn: true})); reason != isLocal {
				t.Errorf("connection %d of %s: reason %s, want %s", port, c, nameOf(reason), nameOf(isLocal))
			}
		}
	}
}

// TestTemplateOfTheOnlyBackend: where no backend takes new flows, or the one that the client's hash tells does not, a
// template is followed all the same.
func TestTemplateOfTheOnlyBackend(t *testing.T) {
	t.Parallel()
	const gap = unsettled
	d := newRig(t)
	reals, c := d.addReals(1), client("10.1.0.1")
	for _, tt := range []struct {
		name     string
		services []virtual
		slots    []uint32
	}{
		{"rr", everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, reals...), nil},
		{"mh", everywhere(portPlain, xdplbSchedulerSCHEDULER_MH, reals...), nil},
		{"dh", everywhere(portPlain, xdplbSchedulerSCHEDULER_DH, reals...), []uint32{gap}},
	} {
		for _, expires := range []bool{false, true} {
			d.forgetClients()
			d.weigh(reals[0], 1)
			persists := uint32(sixMinutes)
			if expires {
				persists |= expiresQuiescent
			}
			services := persistent(persists, 32, 128, tt.services...)
			d.publish(services...)
			d.connect(t, c, 2000)
			for i := range services {
				services[i].slots = tt.slots
			}
			d.weigh(reals[0], 0)
			d.publish(services...)
			want := isTX
			if expires {
				want = isNoBackend
			}
			for _, in := range [][]byte{tcpOf(c, 2001, portPlain, tcpFlags{syn: true}), datagramOf(client("10.1.0.7"), 2000)} {
				if reason, _, _ := d.explain(in); reason != want {
					t.Errorf("%s, which expires: %v: %s, want %s", tt.name, expires, nameOf(reason), nameOf(want))
				}
				want = isNoBackend
			}
			for i := range services {
				services[i].slots = reals
			}
		}
	}
}

// TestPersistenceOfEveryScheduler: the template decides first, and only for who has none the scheduler. Packets behind
// the first look for their flow, with mh too.
func TestPersistenceOfEveryScheduler(t *testing.T) {
	t.Parallel()
	const reals, clients = 8, 40
	d := newRig(t)
	ids := d.addReals(reals)
	for _, scheduler := range lb.Schedulers() {
		t.Run(scheduler.String(), func(t *testing.T) {
			defer d.reportTo(t)()
			d.forgetClients()
			services := persistent(sixMinutes, 24, 64, everywhere(portPlain, xdplbScheduler(scheduler), ids...)...)
			for i := range services {
				services[i].flags = lb.SHPort // for sh and mh, another backend for each port
				if looksAtLoads(scheduler) {
					for _, id := range ids {
						services[i].members = append(services[i].members, id, 1000)
					}
				}
			}
			d.publish(services...)
			used := map[macAddr]bool{}
			for n := range clients {
				one, two := netip.AddrFrom4([4]byte{10, 2, byte(n), 1}), netip.AddrFrom4([4]byte{10, 2, byte(n), 200})
				want := d.connect(t, one, uint16(2000+n))
				used[want] = true
				for i := range uint16(3) {
					if to := d.connect(t, two, 3000+i); to != want {
						t.Fatalf("client %d, another connection: to %x, want %x", n, to, want)
					}
				}
				if to := d.destination(t, tcpOf(two, 3000, portPlain, tcpFlags{ack: true})); to != want {
					t.Fatalf("client %d, a later packet: to %x, want %x", n, to, want)
				}
			}
			single := scheduler == lb.FO || scheduler == lb.DH || scheduler == lb.LBLC || scheduler == lb.LBLCR || scheduler == lb.OVF
			if len(used) < 4 && !single {
				t.Errorf("%d clients are with %d of %d backends", clients, len(used), reals)
			}
		})
	}
}

// TestPersistenceUnrecordedConnection: where the hash tells the backend of a connection without a flow, the template does
// it first; rr has no idea.
func TestPersistenceUnrecordedConnection(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	ids, c := d.addReals(2), client("10.1.0.1")
	d.publish(persistent(sixMinutes, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_SH, ids[0])...)...)
	d.connect(t, c, 2000)
	d.publish(persistent(sixMinutes, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_SH, ids[1])...)...)
	if to := d.destination(t, tcpOf(c, 2001, portPlain, tcpFlags{ack: true})); to != realMAC(0) {
		t.Errorf("with a template: to %x, want %x", to, realMAC(0))
	}
	if to := d.destination(t, tcpOf(client("10.1.0.2"), 2001, portPlain, tcpFlags{ack: true})); to != realMAC(1) {
		t.Errorf("without one: to %x, want %x", to, realMAC(1))
	}
	d.wantTemplates(t, "packets from the middle", 1, 0)
	d.publish(persistent(sixMinutes, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, ids...)...)...)
	if reason, _, _ := d.explain(tcpOf(c, 2002, portPlain, tcpFlags{ack: true})); reason != isNoConnection {
		t.Errorf("rr: %s, want %s", nameOf(reason), nameOf(isNoConnection))
	}
}

// TestAllPorts: a service of port 0 gets what no other service of its address and protocol does, and keeps a client
// whatever the port.
func TestAllPorts(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	reals := d.addReals(5)
	services := persistent(sixMinutes, 32, 128,
		tcpService("172.10.0.9:0", xdplbSchedulerSCHEDULER_RR, reals[:3]...),
		tcpService("[fd00:172::9]:0", xdplbSchedulerSCHEDULER_RR, reals[:3]...))
	services = append(services, tcpService("172.10.0.9:80", xdplbSchedulerSCHEDULER_RR, reals[3]),
		tcpService("[fd00:172::9]:80", xdplbSchedulerSCHEDULER_RR, reals[4]))
	d.publish(services...)
	for n, c := range []netip.Addr{client("10.1.0.1"), client("10.1.0.2"), client("fd10::1"), client("fd10::2")} {
		for _, port := range []uint16{22, 81, 443, 65535, 0} {
			for _, flags := range []tcpFlags{{syn: true}, {ack: true}} {
				if to, want := d.destination(t, tcpOf(c, 2000, port, flags)), realMAC(n%2); to != want {
					t.Errorf("%s to port %d, %+v: to %x, want %x", c, port, flags, to, want)
				}
			}
		}
		if to, want := d.connect(t, c, 2000), realMAC(3+n/2); to != want {
			t.Errorf("%s to port 80: to %x, want %x", c, to, want)
		}
	}
	d.wantTemplates(t, "all ports", 4, 0)
	if reason, _, _ := d.explain(datagramOf(client("10.1.0.1"), 2000)); reason != isNoService {
		t.Errorf("UDP: %s, want %s", nameOf(reason), nameOf(isNoService))
	}
	d.publish(services[2:]...)
	if reason, _, _ := d.explain(tcpOf(client("10.1.0.1"), 2005, 81, tcpFlags{syn: true})); reason != isNoService {
		t.Errorf("without a service of all ports: %s, want %s", nameOf(reason), nameOf(isNoService))
	}
}

// TestActiveFTP: where the server opens the data connection, the client's SYN with ACK to port 20 is the first packet of
// it, and goes where the client's session went; to other ports it is none.
func TestActiveFTP(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	reals := d.addReals(3)
	for _, vip := range []netip.Addr{vip4, vip6} {
		d.publish(persistent(sixMinutes, 32, 128,
			tcpService(netip.AddrPortFrom(vip, 0).String(), xdplbSchedulerSCHEDULER_RR, reals...),
			tcpService(netip.AddrPortFrom(vip, 19).String(), xdplbSchedulerSCHEDULER_RR, reals...))...)
		d.forgetClients()
		for i := range 3 {
			c := netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})
			if vip.Is6() {
				c = netip.AddrFrom16([16]byte{0xfd, 15: byte(i)})
			}
			for _, in := range [][]byte{
				tcpOf(c, 2000, 21, tcpFlags{syn: true}), tcpOf(c, 2001, 20, tcpFlags{syn: true, ack: true}), tcpOf(c, 2001, 20, tcpFlags{ack: true}),
			} {
				if to := d.destination(t, in); to != realMAC(i) {
					t.Errorf("%s: to %x, want %x", c, to, realMAC(i))
				}
			}
			if reason, _, _ := d.explain(tcpOf(c, 2001, 19, tcpFlags{syn: true, ack: true})); reason != isNoConnection {
				t.Errorf("%s to port 19: %s, want %s", c, nameOf(reason), nameOf(isNoConnection))
			}
		}
	}
}

// templateRoom gives the maps of templates other sizes.
func templateRoom(kept, fresh uint32) func(*ebpf.CollectionSpec) {
	return func(spec *ebpf.CollectionSpec) {
		spec.Maps["templates"].MaxEntries = kept
		spec.Maps["new_templates"].MaxEntries = fresh
	}
}

// TestFloodOfTemplates: first packets of anybody move no template of a client that has sent more, below the flood rate and
// above it.
func TestFloodOfTemplates(t *testing.T) {
	t.Parallel()
	const fresh, old = 512, 200
	d := newRig(t, templateRoom(1000, fresh), tableOf(8*flowBuckets, spillBuckets))
	d.publish(persistent(sixMinutes, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, d.addReals(7)...)...)...)
	home := map[netip.Addr]macAddr{}
	for n := range old {
		c := netip.AddrFrom4([4]byte{10, 3, 0, byte(n)})
		home[c] = d.connect(t, c, 2000)
	}
	opening := templateOf(tcpFlags{syn: true}, portPlain)
	for n := range 20 * fresh {
		d.run(opening.of(clientNumber(n)))
	}
	if n := len(d.templates("new_templates")); n > fresh || n == 0 {
		t.Errorf("%d new templates, want at most %d", n, fresh)
	}
	if n := len(d.templates("templates")); n != old {
		t.Errorf("%d templates kept, want %d", n, old)
	}
	for c, want := range home {
		if to := d.connect(t, c, 2001); to != want {
			t.Errorf("%s: to %x, want %x", c, to, want)
		}
	}
}

// TestPersistenceInFloodMode: templates are followed and none is made, but clients without one stay with a backend.
func TestPersistenceInFloodMode(t *testing.T) {
	t.Parallel()
	const rate = 20
	d := newRig(t, floodAt(rate))
	d.publish(persistent(sixMinutes, 24, 64, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, d.addReals(7)...)...)...)
	home := map[netip.Addr]macAddr{}
	for n := range 10 {
		c := netip.AddrFrom4([4]byte{10, 3, byte(n), 1})
		home[c] = d.connect(t, c, 2000)
	}
	earlyTick(t)
	d.flood(t, 0, rate+1)
	_, before := len(d.templates("templates")), len(d.templates("new_templates"))
	for c, want := range home {
		if to := d.open(t, c, 2001); to != want {
			t.Errorf("%s in the flood: to %x, want %x", c, to, want)
		}
	}
	used := map[macAddr]bool{}
	for n := range 20 {
		one, two := netip.AddrFrom4([4]byte{10, 4, byte(n), 1}), netip.AddrFrom4([4]byte{10, 4, byte(n), 2})
		want := d.open(t, one, 2000)
		used[want] = true
		if to := d.open(t, two, 2001); to != want {
			t.Errorf("client %d, its second SYN in the flood: to %x, want %x", n, to, want)
		}
		for range 2 {
			if to := d.destination(t, tcpOf(one, 2000, portPlain, tcpFlags{ack: true})); to != want {
				t.Errorf("client %d, after its SYN: to %x, want %x", n, to, want)
			}
		}
	}
	if len(used) < 3 {
		t.Errorf("20 clients are with %d backends", len(used))
	}
	d.wantTemplates(t, "in the flood", 10+20, before)
}

// TestTooManyTemplates: a template that finds no room is counted, and holds as long as the new ones do.
func TestTooManyTemplates(t *testing.T) {
	t.Parallel()
	d := newRig(t, templateRoom(4, 512))
	d.publish(persistent(sixMinutes, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, d.addReals(7)...)...)...)
	for range 2 {
		for n := range 7 {
			if to := d.connect(t, netip.AddrFrom4([4]byte{10, 3, 0, byte(n)}), 2000); to != realMAC(n) {
				t.Errorf("client %d: to %x, want %x", n, to, realMAC(n))
			}
		}
	}
	d.wantTemplates(t, "full", 4, 3)
	if n := d.evictions()[xdplbEvictionEVICTION_TEMPLATE]; n != 3 {
		t.Errorf("%d templates counted as not kept, want 3", n)
	}
}

// TestTemplatesOnManyCPUs: a client opens several connections at one moment, on as many CPUs. One template holds.
func TestTemplatesOnManyCPUs(t *testing.T) {
	t.Parallel()
	const rounds = 2000
	d := newRig(t, tableOf(8*flowBuckets, spillBuckets))
	d.publish(persistent(sixMinutes, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, d.addReals(16)...)...)...)
	frames, sent := make([][][]byte, 4), make([][]macAddr, 4)
	for worker := range frames {
		sent[worker] = make([]macAddr, rounds)
		template := frame(ip4(), tcp(uint16(2000+worker), portPlain, tcpFlags{syn: true}))
		for round := range rounds {
			at := clientNumber(round)
			frames[worker] = append(frames[worker], templateBytes(template, at.Addr()))
		}
	}
	for _, state := range []string{"no template", "an expired one"} {
		var meeting meetingPoint
		onEachCPU(t, func(worker, workers int) {
			for round := range rounds {
				meeting.wait(round, workers)
				_, out := d.run(frames[worker][round])
				sent[worker][round] = macAddr(out[:6])
			}
		})
		for round := range rounds {
			for worker := range sent {
				if to := sent[worker][round]; to != (macAddr{}) && to != sent[0][round] {
					t.Fatalf("%s, client %d: to %x and to %x", state, round, sent[0][round], to)
				}
			}
		}
		d.forget()
		d.waitTemplates(ticksOf(sixMinutes) + 5)
	}
	if n := len(d.templates("new_templates")); n != rounds {
		t.Errorf("%d templates, want %d", n, rounds)
	}
}

func templateBytes(frame []byte, client netip.Addr) []byte {
	const port = 14 + 20
	out := template(frame).of(netip.AddrPortFrom(client, 0))
	copy(out[port:port+2], frame[port:])
	return out
}

// TestTemplateOfAnotherProtocol: services of one address and port have templates of their own.
func TestTemplateOfAnotherProtocol(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	reals := d.addReals(2)
	d.publish(persistent(sixMinutes, 32, 128, everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, reals...)...)...)
	c := client("10.1.0.1")
	d.open(t, client("10.1.0.9"), 1)
	if to := d.connect(t, c, 2000); to != realMAC(1) {
		t.Errorf("TCP: to %x, want %x", to, realMAC(1))
	}
	if to := d.destination(t, datagramOf(c, 2000)); to != realMAC(0) {
		t.Errorf("UDP: to %x, want %x", to, realMAC(0))
	}
	if flow := d.find(d.hashOf(netip.AddrPortFrom(c, 2000), service4, unix.IPPROTO_TCP)); flow == nil {
		t.Error("the connection is not recorded")
	}
}
