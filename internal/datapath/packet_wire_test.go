// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/testenv"
)

// TestWire lets frames go through real devices, in both modes of XDP: the director has the ends "in" and "out" of two
// veth pairs. What BPF_PROG_TEST_RUN cannot show is which interface a redirected frame leaves by.
func TestWire(t *testing.T) {
	for name, mode := range map[string]link.XDPAttachFlags{
		"native": link.XDPDriverMode, "generic": link.XDPGenericMode,
	} {
		t.Run(name, func(t *testing.T) { testWire(t, mode) })
	}
}

func testWire(t *testing.T, mode link.XDPAttachFlags) {
	testenv.Namespace(t)
	d := newRig(t)
	for _, name := range []string{"in", "out"} {
		addVeth(t, name, name+"-peer")
		for _, end := range []string{name, name + "-peer"} {
			if err := netlink.LinkSetUp(linkOf(t, end)); err != nil {
				t.Fatal(err)
			}
		}
	}
	in, out := linkOf(t, "in").Attrs(), linkOf(t, "out").Attrs()
	attach(t, d.program, in.Index, mode)
	pass := newPassProgram(t)
	for _, name := range []string{"in-peer", "out", "out-peer"} { // a veth takes XDP's frames only for another XDP program
		attach(t, pass, linkOf(t, name).Attrs().Index, mode)
	}

	inMAC, outMAC := macAddr(in.HardwareAddr), macAddr(out.HardwareAddr)
	d.put("interfaces", uint32(in.Index)%d.maps["interfaces"].MaxEntries(), xdplbInterface{Mac: inMAC, Ifindex: uint32(in.Index)})
	d.put("egresses", uint32(egressHere), xdplbEgress{Mac: inMAC, Ifindex: uint32(in.Index), Mtu: 1500})
	d.put("egresses", uint32(egressElsewhere), xdplbEgress{Mac: outMAC, Ifindex: uint32(out.Index), Mtu: 1500})
	d.publish(append(everywhere(portPlain, xdplbSchedulerSCHEDULER_RR, real1),
		everywhere(portElsewhere, xdplbSchedulerSCHEDULER_RR, real1Elsewhere)...)...)

	router, server := newPacketSocket(t, "in-peer"), newPacketSocket(t, "out-peer")
	same := frameBetween(routerMAC, inMAC, ip4(), udp(portPlain), data(200))
	router.send(t, same)
	router.want(t, forwarded(same, inMAC, real1MAC))
	other := frameBetween(routerMAC, inMAC, ip6(), udp(portElsewhere), data(200))
	router.send(t, other)
	server.want(t, forwarded(other, outMAC, real1MAC))

	if mode == link.XDPDriverMode { // else the device has no queue for BPF_PROG_TEST_RUN
		testIngress(t, d, in.Index, same, other)
	}
}

// testIngress runs frames as if they had come in by a device other than the loopback interface.
func testIngress(t *testing.T, d *rig, ifindex int, same, other []byte) {
	t.Helper()
	client := from4(netip.MustParseAddr("10.10.0.2"))
	for name, c := range map[string]struct {
		in     []byte
		reason xdplbReason
	}{
		"same interface":                     {same, isTX},
		"other interface":                    {other, isRedirect},
		"to loopback's address":              {frame(ip4(client), udp(portPlain)), isOtherHost},
		"to loopback's address, to redirect": {frame(ip4(client), udp(portElsewhere)), isOtherHost},
	} {
		before := d.reasons()
		action, _ := d.runProgram(d.program, c.in, &xdpContext{DataEnd: uint32(len(c.in)), IngressIfindex: uint32(ifindex)})
		if reason := d.countedSince(before); reason != c.reason || action != verdictOf(c.reason) {
			t.Errorf("%s: reason %s, verdict %d, want %s", name, nameOf(reason), action, nameOf(c.reason))
		}
	}
}

func attach(t *testing.T, program *ebpf.Program, ifindex int, mode link.XDPAttachFlags) {
	t.Helper()
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: ifindex, Flags: mode})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

func newPassProgram(t *testing.T) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return program
}

// packetSocket sends and receives whole frames on a device.
type packetSocket int

func newPacketSocket(t *testing.T, device string) packetSocket {
	t.Helper()
	protocol := htons(unix.ETH_P_ALL)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: linkOf(t, device).Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	timeout := unix.NsecToTimeval(int64(100 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		t.Fatal(err)
	}
	return packetSocket(fd)
}

func (s packetSocket) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := unix.Write(int(s), frame); err != nil {
		t.Fatal(err)
	}
}

// want waits for a frame to a real server, among what the kernel says by itself and what the socket has sent, and
// compares it.
func (s packetSocket) want(t *testing.T, want []byte) {
	t.Helper()
	buffer := make([]byte, 2000)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		n, err := unix.Read(int(s), buffer)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n < 14 || macAddr(buffer[:6]) != macAddr(want[:6]) {
			continue
		}
		if diff := cmp.Diff(want, buffer[:n]); diff != "" {
			t.Errorf("frame on the wire (-want +got):\n%s", diff)
		}
		return
	}
	t.Error("no frame came out")
}
