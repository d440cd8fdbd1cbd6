// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"xdplb/internal/lb"
)

// warmest is the most packets that are sent to warm a case up before a batch. A processor's cache holds no more flows.
const warmest = 1 << 18

// Clients of the cases. Every group of flows has addresses of its own.
var (
	clients4     = netip.MustParseAddr("10.0.0.0") // of established flows
	clientsNew   = netip.MustParseAddr("11.0.0.0")
	clientsMiss  = netip.MustParseAddr("12.0.0.0")
	clientsVLAN  = netip.MustParseAddr("13.0.0.0")
	clientsOther = netip.MustParseAddr("14.0.0.0")
	clientsFlood = netip.MustParseAddr("15.0.0.0")
	clients6     = netip.MustParseAddr("2001:db8:1::")
)

// Places of the fields that the driver sets, for a frame without tag.
var (
	tuple4 = Tuple{
		Client: ethernetHeader + 12, Port: ethernetHeader + ip4Header, HopLimit: ethernetHeader + 8,
		Number: ethernetHeader + ip4Header + 4,
	}
	tuple6 = Tuple{
		Client: ethernetHeader + 20, Port: ethernetHeader + ip6Header, HopLimit: ethernetHeader + 7,
		Number: ethernetHeader + ip6Header + 4,
	}
	// of an ICMP error: in the packet that it quotes, where the client is the destination
	tupleQuoted = Tuple{
		Client:   ethernetHeader + ip4Header + icmpHeader + 16,
		Port:     ethernetHeader + ip4Header + icmpHeader + ip4Header + 2,
		HopLimit: ethernetHeader + 8,
		Number:   ethernetHeader + ip4Header + icmpHeader + ip4Header + 4,
	}
	// in the padding of a frame of which no field shall change
	tupleNone = Tuple{Client: minFrame - 8, Port: minFrame - 4, HopLimit: minFrame - 1, Number: minFrame - 12}
)

// tagged is the same tuple behind a VLAN tag.
func (t Tuple) tagged() Tuple {
	t.Client += vlanTag
	t.Port += vlanTag
	t.HopLimit += vlanTag
	t.Number += vlanTag
	return t
}

// datagram is the same tuple of UDP, which has no sequence number: that goes into the payload.
func (t Tuple) datagram() Tuple {
	t.Number = minFrame - 12
	return t
}

// of gives the tuple its flows.
func (t Tuple) of(client netip.Addr, flows uint32) Tuple {
	bytes := client.AsSlice()
	t.Base = binary.BigEndian.Uint32(bytes[len(bytes)-4:])
	t.Flows = flows
	return t
}

// fresh makes each packet a flow of its own.
func (t Tuple) fresh() Tuple {
	t.New = true
	return t
}

const vlan = 100

// Cases returns what is measured of the director. A case with more flows than it was made for is left out.
func (d *Director) Cases() []*Case {
	var cases []*Case
	cases = append(cases, d.hits("tcp-v4", serviceRR)...)
	cases = append(cases, d.hits("tcp-v4-mh", serviceMH)...)
	return append(cases,
		d.syn("tcp-v4-syn", serviceRRNew),
		d.syn("tcp-v4-mh-syn", serviceMHNew),
		d.syn("tcp-v4-lc-256-syn", serviceLCNew),
		d.syn("tcp-v4-twos-syn", serviceTwosNew),
		d.flood("tcp-v4-flood", serviceRRFlood),
		d.flood("tcp-v4-mh-flood", serviceMHFlood),
		d.miss(),
		d.hit6(),
		d.hitUDP(),
		d.hitVLAN(),
		d.quiesced(),
		d.tooBig(),
		d.fragment(),
		d.noVIP(),
		d.nonIP(),
	)
}

// newCase is a case of the driven program, with frames that come in by the director's interface.
func (d *Director) newCase(name, what string, want Verdict, frame []byte, tuple Tuple) *Case {
	program, driver := d.driven.program()
	return &Case{
		Name: name, What: what, Want: want, Frame: frame, Tuple: tuple,
		Program: program, Driver: driver, Ifindex: d.uplink.ifindex(),
	}
}

// tcp4 is a segment to a service.
func (d *Director) tcp4(key lb.ServiceKey, vlan uint16, flags byte) []byte {
	packet := datagram4{from: clients4, to: key.Addr.Addr(), protocol: protocolTCP}
	etherType := uint16(etherTypeIP4)
	return ethernet(d.uplink.mac(), vlan, etherType, packet.build(segment(1024, key.Addr.Port(), flags)))
}

func (d *Director) tcp6(key lb.ServiceKey, flags byte) []byte {
	return ethernet(d.uplink.mac(), 0, etherTypeIP6,
		packet6(clients6, key.Addr.Addr(), protocolTCP, segment(1024, key.Addr.Port(), flags)))
}

// hits are established flows, one and many, of those that [Director.Fill] opens.
func (d *Director) hits(prefix string, key lb.ServiceKey) []*Case {
	var cases []*Case
	for _, size := range []struct {
		suffix string
		flows  uint32
		what   string
	}{
		{"-hit", 1, "established flow"},
		{"-hit-4k", 1 << 12, "4,096 established flows"},
		{"-hit-131k", 1 << 17, "131,072 established flows"},
		{"-hit-1m", 1 << 20, "1,048,576 established flows"},
	} {
		if size.flows > d.flows {
			continue
		}
		cases = append(cases, d.hit(prefix+size.suffix, size.what, key, size.flows))
	}
	return cases
}

func (d *Director) hit(name, what string, key lb.ServiceKey, flows uint32) *Case {
	c := d.newCase(name, what, TX, d.tcp4(key, 0, tcpACK), tuple4.of(clients4, flows))
	if flows > 1 {
		c.Warm = int(min(2*flows, warmest))
	}
	return c
}

func (d *Director) syn(name string, key lb.ServiceKey) *Case {
	c := d.newCase(name, "new flow", TX, d.tcp4(key, 0, tcpSYN), tuple4.of(clientsNew, 0).fresh())
	c.Before = d.forgetSYNs
	d.opened[key] = func() uint64 { return c.sequence }
	return c
}

// floodSources is how many flows the SYNs of a flood are of, in random order: more than any table has room for.
const floodSources = 1 << 24

// flood is SYNs of random sources to a service in flood mode. That every packet met it in that mode, but for those that
// entered it, [Director.Verify] sees from the connections that the service has recorded.
func (d *Director) flood(name string, key lb.ServiceKey) *Case {
	c := d.newCase(name, "SYN of a random source, in flood mode", TX, d.tcp4(key, 0, tcpSYN),
		tuple4.of(clientsFlood, floodSources))
	c.Program, c.Driver = d.flooded.program()
	c.Before = func() error {
		if _, err := c.run(1); err != nil { // if the last flood has ended, this begins one
			return err
		}
		return d.flooded.ageFloods()
	}
	return c
}

func (d *Director) miss() *Case {
	return d.newCase("tcp-v4-miss", "no SYN, of no known flow", Pass, d.tcp4(serviceRR, 0, tcpACK),
		tuple4.of(clientsMiss, 0).fresh())
}

func (d *Director) hit6() *Case {
	tuple := tuple6.of(clients6, 1)
	c := d.newCase("tcp-v6-hit", "established flow", TX, d.tcp6(serviceIP6, tcpACK), tuple)
	c.Prepare = func() error {
		return d.establish(serviceIP6, tuple, d.tcp6(serviceIP6, tcpSYN), d.tcp6(serviceIP6, tcpACK))
	}
	return c
}

// udp4 is a datagram, or its first fragment.
func (d *Director) udp4(fragment uint16) []byte {
	packet := datagram4{from: clients4, to: vip4, protocol: protocolUDP, fragment: fragment}
	return ethernet(d.uplink.mac(), 0, etherTypeIP4, packet.build(userDatagram(1024, serviceUDP.Addr.Port(), 16)))
}

func (d *Director) hitUDP() *Case {
	frame := d.udp4(0)
	tuple := tuple4.datagram().of(clients4, 1)
	c := d.newCase("udp-v4-hit", "known flow", TX, frame, tuple)
	c.Prepare = func() error { return d.establish(serviceUDP, tuple, frame) }
	return c
}

func (d *Director) hitVLAN() *Case {
	tuple := tuple4.tagged().of(clientsVLAN, 1)
	c := d.newCase("tcp-v4-vlan-hit", "established flow, tagged frame", TX, d.tcp4(serviceRR, vlan, tcpACK), tuple)
	c.Prepare = func() error {
		return d.establish(serviceRR, tuple, d.tcp4(serviceRR, vlan, tcpSYN), d.tcp4(serviceRR, vlan, tcpACK))
	}
	return c
}

func (d *Director) quiesced() *Case {
	tuple := tuple4.of(clients4, 1)
	c := d.newCase("tcp-v4-quiesced", "established flow of a backend with weight 0", TX,
		d.tcp4(serviceQuiesce, 0, tcpACK), tuple)
	c.Prepare = func() error {
		err := d.establish(serviceQuiesce, tuple, d.tcp4(serviceQuiesce, 0, tcpSYN), d.tcp4(serviceQuiesce, 0, tcpACK))
		if err != nil {
			return err
		}
		return d.quiesce(serviceQuiesce)
	}
	return c
}

func (d *Director) tooBig() *Case {
	quoted := datagram4{from: vip4, to: clients4, protocol: protocolTCP}
	packet := datagram4{from: netip.MustParseAddr("203.0.113.1"), to: vip4, protocol: protocolICMP}
	frame := ethernet(d.uplink.mac(), 0, etherTypeIP4,
		packet.build(icmpError(3, 4, quoted.build(segment(serviceRR.Addr.Port(), 1024, tcpACK)))))
	return d.newCase("icmp-v4-too-big", "ICMP fragmentation needed, of an established flow", TX, frame,
		tupleQuoted.of(clients4, 1))
}

// Fragments of one datagram.
const (
	moreFragments = 0x2000
	secondOffset  = 24 / 8
)

func (d *Director) fragment() *Case {
	flow := tuple4.datagram().of(clientsOther, 1)
	first := d.newCase("first fragment", "", TX, d.udp4(moreFragments), flow)
	// of 24 bytes, into the last of which the driver writes
	packet := datagram4{from: clientsOther, to: vip4, protocol: protocolUDP, fragment: secondOffset}
	frame := ethernet(d.uplink.mac(), 0, etherTypeIP4, packet.build(make([]byte, 24)))
	tuple := tupleNone.of(clientsOther, 1)
	tuple.HopLimit = tuple4.HopLimit
	c := d.newCase("udp-v4-frag", "later fragment of a known datagram", TX, frame, tuple)
	c.Prepare = func() error { return d.establish(serviceUDP, flow, d.udp4(0)) }
	c.Before = func() error { // a fragment's entry lives 30 s from the first one on
		_, err := first.run(1)
		return err
	}
	return c
}

func (d *Director) noVIP() *Case {
	packet := datagram4{from: clients4, to: netip.MustParseAddr("198.51.100.2"), protocol: protocolTCP}
	frame := ethernet(d.uplink.mac(), 0, etherTypeIP4, packet.build(segment(1024, 80, tcpACK)))
	return d.newCase("pass-no-vip", "packet to another address", Pass, frame, tuple4.of(clients4, 1))
}

func (d *Director) nonIP() *Case {
	frame := ethernet(d.uplink.mac(), 0, etherTypeARP, make([]byte, 28))
	return d.newCase("pass-non-ip", "ARP", Pass, frame, tupleNone.of(clients4, 1))
}

// stride is how many flows are begun before they are established: so few that their SYNs do not crowd each other out of
// the flow table.
func (d *Director) stride() uint32 { return max(1, min(1<<8, d.flows/4096)) }

// Fill establishes as many flows as the largest case has, of each service with such a case, and with them half the
// table. Every case is measured beside them, whichever others are; and they are established by turns, because of two
// flows that share a bucket of the kernel's hash table the later one is found first. The program must be kept attached.
func (d *Director) Fill() error {
	for flows := uint32(0); flows < d.flows; {
		flows = min(flows+d.stride(), d.flows)
		for _, key := range []lb.ServiceKey{serviceRR, serviceMH} {
			err := d.establish(key, tuple4.of(clients4, flows), d.tcp4(key, 0, tcpSYN), d.tcp4(key, 0, tcpACK))
			if err != nil {
				return fmt.Errorf("filling the flow table: %w", err)
			}
		}
	}
	return nil
}

// establish sends the frames, one after the other and the last one twice, for each flow of the tuple that the service
// does not have yet. Each opens or continues the flow. (Twice, because so many flows at once are a flood: what comes
// behind an unrecorded SYN is not believed before the next packet.)
func (d *Director) establish(key lb.ServiceKey, tuple Tuple, frames ...[]byte) error {
	group := flowGroup{key, tuple.Base}
	for d.established[group] < tuple.Flows {
		packets := min(d.stride(), tuple.Flows-d.established[group])
		for _, frame := range append(frames, frames[len(frames)-1]) {
			step := d.newCase(fmt.Sprintf("flows of %s", key), "", TX, frame, tuple.fresh())
			step.sequence = uint64(d.established[group])
			if _, err := step.run(int(packets)); err != nil {
				return err
			}
		}
		d.established[group] += packets
	}
	return nil
}
