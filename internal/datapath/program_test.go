// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"xdplb/internal/lb"
)

// frameTo makes a TCP frame to a service.
func frameTo(t testing.TB, mac [6]byte, from, to netip.AddrPort, flags layers.TCP) []byte {
	t.Helper()
	tcp := &layers.TCP{SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()), Window: 1}
	tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST = flags.SYN, flags.ACK, flags.FIN, flags.RST
	ethernet := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 99}, DstMAC: mac[:], EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	if from.Addr().Is4() {
		ip4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
		ip = ip4
	} else {
		ethernet.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
	}
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true}, ethernet, ip, tcp, gopacket.Payload(make([]byte, 20)))
	if err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// send runs the attached program on a frame that comes in by an interface, and returns the MAC address that it is sent to.
func (d *Datapath) send(t testing.TB, ifindex int, frame []byte) (to [6]byte) {
	t.Helper()
	verdict, out := d.run(t, ifindex, frame)
	if verdict != xdpTX {
		reasons, _ := d.Reasons()
		t.Fatalf("verdict %d, want TX; %+v", verdict, reasons)
	}
	return [6]byte(out)
}

// run returns the program's verdict and the frame that comes out.
func (d *Datapath) run(t testing.TB, ifindex int, frame []byte) (verdict uint32, out []byte) {
	t.Helper()
	context := struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }{
		DataEnd: uint32(len(frame)), IngressIfindex: uint32(ifindex),
	}
	out = make([]byte, len(frame)+64)
	options := ebpf.RunOptions{Data: frame, DataOut: out, Context: context, Repeat: 1}
	verdict, err := d.program.Run(&options)
	if err != nil {
		t.Fatal(err)
	}
	return verdict, out
}

// TestProgramFindsWhatChangeWrote sends packets of many clients to services of every scheduler and both families. The
// program must find the services, and what it records must say of each client what the program saw.
func TestProgramFindsWhatChangeWrote(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	var services []lb.Service
	for i, scheduler := range lb.Schedulers() {
		for _, is6 := range []bool{false, true} {
			service := lb.Service{
				ServiceKey: lb.ServiceKey{Addr: addrPort(address(is6, 1, i), uint16(80+i)), Protocol: lb.TCP}, Scheduler: scheduler,
			}
			for n := range 3 {
				hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 1, byte(n)}, Ifindex: attachment.Ifindex}
				service.Backends = append(service.Backends, lb.Backend{Addr: address(is6, 2, n), Weight: 100, Hop: hop})
			}
			services = append(services, service)
		}
	}
	state, err := lb.NewState(services)
	if err != nil {
		t.Fatal(err)
	}
	mustChange(t, to(state))
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	type flow struct{ client, vip netip.AddrPort }
	sent := make(map[flow][6]byte)
	for _, s := range state.Services {
		for n := range 20 {
			client := addrPort(address(s.Addr.Addr().Is6(), 9, 7*n), uint16(1000+n))
			frame := frameTo(t, attachment.MAC, client, s.Addr, layers.TCP{SYN: true})
			sent[flow{client, s.Addr}] = d.send(t, attachment.Ifindex, frame)
			again := frameTo(t, attachment.MAC, client, s.Addr, layers.TCP{ACK: true})
			if got, want := d.send(t, attachment.Ifindex, again), sent[flow{client, s.Addr}]; got != want {
				t.Errorf("%s to %s: the SYN went to %x, the ACK to %x", client, s.Addr, want, got)
			}
		}
	}
	tables := make(map[netip.AddrPort]hashed)
	list, err := d.Connections()
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	list.Walk(func(c Connection) bool {
		at := flow{c.Client, c.Service.Addr}
		mac, known := sent[at]
		service, _ := state.Service(c.Service)
		backend, found := service.Backend(c.Backend)
		if !known || !found || backend.Hop.MAC != mac || c.VIPPort != c.Service.Addr.Port() {
			t.Errorf("connection %+v, its packets went to %x", c, mac)
		}
		delete(sent, at)
		if service.Scheduler != lb.MH {
			return true
		}
		if _, known := tables[c.Service.Addr]; !known {
			tables[c.Service.Addr] = readHashed(t, c.Service)
		}
		h := tables[c.Service.Addr]
		slot := uint64((&xdplbService{}).hashClient(c.Client)) * uint64(len(h.slots)) >> 32
		if h.slots[slot] != h.ids[c.Backend] {
			t.Errorf("connection %+v: slot %d is of backend id %d", c, slot, h.slots[slot])
		}
		return true
	})
	if len(sent) > 0 {
		t.Errorf("%d connections are not listed: %v", len(sent), sent)
	}
}

// followed are connections to one service, each of a client of its own.
type followed struct {
	attachment Attachment
	key        lb.ServiceKey
	d          Datapath
	at         [60][6]byte // where its packets go, by the client's number
}

// follow opens the connections.
func follow(t *testing.T, attachment Attachment, key lb.ServiceKey) *followed {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	program, err := d.program.Clone()
	if err != nil {
		t.Fatal(err)
	}
	d.Close() // and with it the lock
	t.Cleanup(func() { program.Close() })
	f := &followed{attachment: attachment, key: key, d: Datapath{program: program}}
	for n := range f.at {
		f.at[n] = f.send(t, n, layers.TCP{SYN: true})
	}
	f.stay(t, "at first")
	return f
}

func (f *followed) send(t *testing.T, n int, flags layers.TCP) [6]byte {
	t.Helper()
	client := addrPort(address(false, 9, n), 1000)
	return f.d.send(t, f.attachment.Ifindex, frameTo(t, f.attachment.MAC, client, f.key.Addr, flags))
}

// stay wants each connection's packets where they were sent at first.
func (f *followed) stay(t *testing.T, when string) {
	t.Helper()
	for n := range f.at {
		if got := f.send(t, n, layers.TCP{ACK: true}); got != f.at[n] {
			t.Errorf("%s: client %d moved from %x to %x", when, n, f.at[n], got)
		}
	}
}

// TestProgramKeepsConnections follows the connections of an mh service through changes, first those that the flow table
// does not know any more, then those that outlive every timeout.
func TestProgramKeepsConnections(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	key, backends := hashedService(t, attachment.Ifindex)
	f := follow(t, attachment, key)
	for _, weight := range []uint32{0, 1} {
		for _, b := range backends[:2] {
			mustChange(t, func(s *lb.State) error {
				return s.SetBackend(key, b.Addr, func(b *lb.Backend) error { b.Weight = weight; return nil })
			})
		}
		forgetFlows(t)
		f.stay(t, "all backends quiesced, or back, flows unknown")
	}
	pastSettling(t)
	sweep(t)
	if h := readHashed(t, key); h.service.Settles != 0 {
		t.Errorf("nothing strays, but the service is not settled: %+v", h.service)
	}
	mustChange(t, func(s *lb.State) error { return s.AddBackend(key, backends[2]) })
	forgetFlows(t)
	f.stay(t, "a third backend came, flows unknown")
	pastSettling(t)
	mustChange(t, func(s *lb.State) error {
		return s.AddService(lb.Service{ServiceKey: lb.ServiceKey{Addr: key.Addr, Protocol: lb.UDP}, Scheduler: lb.RR})
	})
	f.stay(t, "much later")
	sweep(t)
	f.stay(t, "swept")
}

// TestProgramKeepsConnectionsAsTablesGrow lets the table of an mh service become longer, and shorter again.
func TestProgramKeepsConnectionsAsTablesGrow(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	key, backends := hashedService(t, attachment.Ifindex)
	f := follow(t, attachment, key)
	first, third := backends[:2], backends[2]
	for n := range 200 {
		backends = append(backends, lb.Backend{Addr: address(false, 3, n), Weight: 1, Hop: backends[2].Hop})
	}
	set := func(when string, backends []lb.Backend, slots uint32) {
		t.Helper()
		mustChange(t, to(lb.State{Services: []lb.Service{{ServiceKey: key, Scheduler: lb.MH, Backends: backends}}}))
		h := readHashed(t, key)
		if h.service.Slots != slots {
			t.Errorf("%s: %d slots, want %d", when, h.service.Slots, slots)
		}
		h.unsettledSlots(t, h.ids[first[0].Addr], h.ids[first[1].Addr], h.ids[third.Addr])
		checkTables(t)
		forgetFlows(t)
		f.stay(t, when+", flows unknown")
	}
	set("70 backends", backends[:70], 8192)
	set("203 backends", backends, 16384)
	set("two backends again", first, 16384)
	pastSettling(t)
	sweep(t)
	if h := readHashed(t, key); h.service.Settles != 0 {
		t.Errorf("nothing strays, but the service is not settled: %+v", h.service)
	}
	f.stay(t, "settled")
	set("a third backend", backends[:3], 4096)
	for i := range backends[3:] {
		backends[3+i].Weight = 0
	}
	set("quiesced ones, which count too", backends[:65], 8192)
}

func sweep(t testing.TB) {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// forgetFlows empties the flow table.
func forgetFlows(t testing.TB) {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for bucket := range d.maps.Flows.MaxEntries() {
		if err := d.maps.Flows.Put(bucket, xdplbBucket{}); err != nil {
			t.Fatal(err)
		}
	}
}
