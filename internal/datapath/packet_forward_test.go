// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"
)

func TestForward(t *testing.T) {
	t.Parallel()
	newWorld(t).check(t, forwardCases())
}

func forwardCases() []packetCase {
	var cases []packetCase
	redirected := func(name string, in []byte) {
		cases = append(cases, packetCase{
			name: name, in: in, want: forwarded(in, otherMAC, real1MAC), reason: isRedirect,
		})
	}
	fails := func(name string, in []byte, reason xdplbReason) {
		cases = append(cases, packetCase{name: name, in: in, reason: reason})
	}

	redirected("to another interface", frame(ip4(), syn(portElsewhere)))
	redirected("to another interface, IPv6", frame(ip6(), udp(portElsewhere)))
	redirected("to another interface, tag kept", frame(tag(6), ip4(), syn(portElsewhere)))
	redirected("as long as the MTU", frame(ip4(), udp(portElsewhere), data(1500-28)))
	redirected("as long as the MTU, IPv6", frame(ip6(), udp(portElsewhere), data(1500-48)))
	redirected("as long as the MTU, with a tag and padding",
		padded(frame(tag(6), ip4(), udp(portElsewhere), data(1500-28)), 9))
	fails("longer than the MTU", frame(ip4(), udp(portElsewhere), data(1501-28)), isTooBig)
	fails("longer than the MTU, IPv6", frame(ip6(), udp(portElsewhere), data(1501-48)), isTooBig)

	rewritten := frame(tag(6), ip4(), syn(portElsewhereVLAN))
	pushed := frame(ip6(), syn(portElsewhereVLAN))
	here := frame(ip4(), udp(portSmallMTU), data(500))
	cases = append(cases,
		packetCase{name: "to another interface, tag rewritten", in: rewritten, reason: isRedirect,
			want: withVLAN(forwarded(rewritten, otherMAC, real1MAC), vlanElsewhere)},
		packetCase{name: "to another interface, tag pushed", in: pushed, reason: isRedirect,
			want: withTag(forwarded(pushed, otherMAC, real1MAC), vlanElsewhere)},
		packetCase{name: "longer than the MTU, but out of the interface that it came in by", in: here, reason: isTX,
			want: forwarded(here, directorMAC, real1MAC)},
	)

	for _, n := range []uint8{2, 3, 128, 255} {
		in4, in6 := frame(ip4(ttl(n)), syn(portPlain)), frame(ip6(hopLimit(n)), syn(portPlain))
		cases = append(cases,
			packetCase{name: "TTL left", in: in4, want: forwarded(in4, directorMAC, real1MAC), reason: isTX},
			packetCase{name: "hop limit left", in: in6, want: forwarded(in6, directorMAC, real1MAC), reason: isTX},
		)
	}
	for _, n := range []uint8{0, 1} {
		fails("TTL used up", frame(ip4(ttl(n)), syn(portPlain)), isTTLExceeded)
		fails("hop limit used up", frame(ip6(hopLimit(n)), syn(portPlain)), isTTLExceeded)
		fails("TTL used up, before a tag is pushed", frame(ip4(ttl(n)), syn(portVLAN)), isTTLExceeded)
	}
	// the director's own stack gets them as they came
	local := frame(ip4(), syn(portLocal))
	fails("to the director itself", local, isLocal)
	fails("to the director itself, IPv6", frame(ip6(), udp(portLocal)), isLocal)
	fails("to the director itself, tag kept", frame(tag(6), ip4(), udp(portLocal)), isLocal)
	fails("to the director itself, its last hop", frame(ip4(ttl(1)), syn(portLocal)), isLocal)
	fails("to the director itself, longer than any MTU", frame(ip4(), udp(portLocal), data(1600)), isLocal)
	cases = append(cases,
		packetCase{name: "known flow of the director itself", reason: isLocal,
			before: [][]byte{local}, in: frame(ip4(), ack(portLocal))},
		packetCase{name: "flooded frame of such a flow", reason: isOtherHost,
			before: [][]byte{local}, in: frameBetween(routerMAC, real1MAC, ip4(), ack(portLocal))},
	)
	fails("backend without MAC", frame(ip4(), syn(portUnknown)), isNoNeighbour)
	fails("backend without MAC, IPv6", frame(ip6(), udp(portUnknown)), isNoNeighbour)
	fails("backend whose egress does not exist", frame(ip4(), syn(portNoEgress)), isInternal)
	fails("backend without egress", frame(ip4(), syn(portZeroEgress)), isInternal)
	fails("slot whose backend does not exist", frame(ip4(), syn(portNoSuchBackend)), isInternal)
	return cases
}

// TestZeroMAC: each byte of the address makes it known.
func TestKnownMAC(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	for i := range 6 {
		hop := xdplbNextHop{Egress: egressHere}
		hop.Mac[i] = 1
		d.setHop(real1, hop)
		if reason, _, _ := d.explain(frame(ip4(), udp(portPlain))); reason != isTX {
			t.Errorf("MAC %x: reason %s, want %s", hop.Mac, nameOf(reason), nameOf(isTX))
		}
	}
}

// TestHalfMadeConfiguration: what must exist and does not is counted as such, and the packet is dropped.
func TestHalfMadeConfiguration(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		service xdplbService
	}{
		{"no such cursor", xdplbService{Id: serviceRoom + 1}},
		{"no such table", xdplbService{Id: 1, Table: partSlots, Slots: 1}},
		{"no table", xdplbService{Id: 1}},
		{"table shorter than its slots", xdplbService{Id: 1, Table: 1, Slots: 200}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newRig(t)
			d.publish(tcpService("[fd00:172::9]:80", xdplbSchedulerSCHEDULER_RR, real1, real2))
			d.turn(99)
			var broken xdplbService
			side := uint32(d.config.load(0)) & 1
			if err := d.maps["services"].Lookup(side*serviceRoom, &broken); err != nil {
				t.Fatal(err)
			}
			broken.Id, broken.Table, broken.Slots = c.service.Id, c.service.Table, max(c.service.Slots, 1)
			d.put("services", side*serviceRoom, broken)
			d.check(t, []packetCase{{name: "SYN", in: frame(ip6(), syn(portPlain)), reason: isInternal}})
		})
	}
	t.Run("nothing published", func(t *testing.T) {
		newRig(t).check(t, []packetCase{{name: "SYN", in: frame(ip4(), syn(portPlain)), reason: isNoService}})
	})
}

// TestJumboFrames are longer than a page, so that most of them lies in buffers that the program does not see.
func TestJumboFrames(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	plain4, plain6 := frame(ip4(), udp(portPlain), data(8900)), frame(ip6(), udp(portPlain), data(8900))
	options := frame(ip6(), hopByHop(30), destinationOptions(3), udp(portPlain), data(8000))
	pushed := frame(ip4(), udp(portVLAN), data(8900))
	d.check(t, []packetCase{
		{name: "IPv4", in: plain4, want: forwarded(plain4, directorMAC, real1MAC), reason: isTX},
		{name: "IPv6", in: plain6, want: forwarded(plain6, directorMAC, real1MAC), reason: isTX},
		{name: "extension headers", in: options, want: forwarded(options, directorMAC, real1MAC), reason: isTX},
		{name: "tag pushed", in: pushed, want: withTag(forwarded(pushed, directorMAC, real1MAC), vlanHere), reason: isTX},
		{name: "cut off behind the first buffer", in: plain4[:8000], reason: isMalformed},
		{name: "one byte short", in: plain4[:len(plain4)-1], reason: isMalformed},
		{name: "one byte short, IPv6", in: plain6[:len(plain6)-1], reason: isMalformed},
		{name: "MTU of another interface", in: frame(ip4(), udp(portElsewhere), data(8900)), reason: isTooBig},
		{name: "no service", in: frame(ip4(), udp(portUnserved), data(8900)), reason: isNoService},
	})
}

// TestNoHeadroom moves the frame to the very start of its buffer and lets the program push a tag there.
func TestNoHeadroom(t *testing.T) {
	t.Parallel()
	d := newWorld(t)
	const (
		headroom = 256 // of BPF_PROG_TEST_RUN
		reserved = 40  // struct xdp_frame, which the kernel keeps at the start of the buffer
		length   = 60
	)
	in := frame(ip4(), udp(portVLAN), data(length-42))
	for _, c := range []struct {
		left   int32 // bytes in front of the frame when the program sees it
		reason xdplbReason
	}{{0, isNoHeadroom}, {3, isNoHeadroom}, {4, isTX}} {
		move := d.moveForward(headroom-reserved-c.left, length)
		before := d.reasons()
		action, out := d.runProgram(move, in, nil)
		if reason := d.countedSince(before); reason != c.reason {
			t.Errorf("%d bytes in front: reason %s, want %s", c.left, nameOf(reason), nameOf(c.reason))
		}
		if want := verdictOf(c.reason); action != want {
			t.Errorf("%d bytes in front: verdict %d, want %d", c.left, action, want)
		}
		if want := withTag(forwarded(in, directorMAC, real1MAC), vlanHere); c.reason == isTX && !bytes.HasPrefix(out, want) {
			t.Errorf("frame out (-want +got):\n%s", cmp.Diff(want, out))
		}
	}
}

// moveForward is a program that moves a frame of some length towards the start of its buffer, and goes on with the
// program under test. What was behind stays there, as padding.
func (d *rig) moveForward(distance, length int32) *ebpf.Program {
	d.tb.Helper()
	next, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1,
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: d.program}},
	})
	if err != nil {
		d.tb.Fatal(err)
	}
	d.tb.Cleanup(func() { next.Close() })
	at := func(offset int32) asm.Instructions { // arguments of load_bytes and store_bytes
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, offset),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -length),
			asm.Mov.Imm(asm.R4, length),
		}
	}
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R2, -distance),
		asm.FnXdpAdjustHead.Call(),
	}
	code = append(code, at(distance)...)
	code = append(code, asm.FnXdpLoadBytes.Call())
	code = append(code, at(0)...)
	code = append(code,
		asm.FnXdpStoreBytes.Call(),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, next.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0), // XDP_ABORTED: something went wrong
		asm.Return(),
	)
	under := d.spec.Programs["xdplb"]
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, AttachType: under.AttachType, Flags: under.Flags, // or the tail call is refused
		Instructions: code, License: "GPL",
	})
	if err != nil {
		d.tb.Fatalf("%+v", err)
	}
	d.tb.Cleanup(func() { program.Close() })
	return program
}
