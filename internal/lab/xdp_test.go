// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"

	"xdplb/internal/lab"
)

// hairpin is the smallest director: every IPv4 TCP packet goes to one MAC address, out of the interface with the given index, the
// rest passes.
func hairpin(t *testing.T, from, to net.HardwareAddr, ifindex int) *ebpf.Program {
	t.Helper()
	word := func(b []byte) int64 { return int64(int32(binary.LittleEndian.Uint32(b))) }
	half := func(b []byte) int64 { return int64(binary.LittleEndian.Uint16(b)) }
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "hairpin", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, 0, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, 4, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, 34),
			asm.JGT.Reg(asm.R4, asm.R3, "pass"),
			asm.LoadMem(asm.R4, asm.R2, 12, asm.Half),
			asm.JNE.Imm(asm.R4, 0x0008, "pass"),
			asm.LoadMem(asm.R4, asm.R2, 23, asm.Byte),
			asm.JNE.Imm(asm.R4, 6, "pass"),
			asm.StoreImm(asm.R2, 0, word(to[:4]), asm.Word),
			asm.StoreImm(asm.R2, 4, half(to[4:]), asm.Half),
			asm.StoreImm(asm.R2, 6, word(from[:4]), asm.Word),
			asm.StoreImm(asm.R2, 10, half(from[4:]), asm.Half),
			asm.Mov.Imm(asm.R1, int32(ifindex)),
			asm.Mov.Imm(asm.R2, 0),
			asm.FnRedirect.Call(),
			asm.Return(),
			asm.Mov.Imm(asm.R0, 2).WithSymbol("pass"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return program
}

// link finds an interface of the host.
func link(t *testing.T, h *lab.Host, name string) netlink.Link {
	t.Helper()
	var found netlink.Link
	err := h.Do(func() error {
		var err error
		found, err = netlink.LinkByName(name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestDirectorSendsByXDP shows that what a director sends by XDP arrives, on its first segment and on the second, and with good checksums.
func TestDirectorSendsByXDP(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{Backends: 1, FarBackends: 1, WebServers: true})
	ctx := requestContext(t)
	director, client := l.Host("director"), l.Host("client")
	for _, leg := range []struct{ iface, real string }{{"eth0", "real1"}, {"eth1", "far1"}} {
		out, ok := director.Interface(leg.iface)
		if !ok {
			t.Fatalf("no %s", leg.iface)
		}
		in, index := link(t, director, "eth0"), link(t, director, leg.iface).Attrs().Index
		program := hairpin(t, out.MAC, l.Host(leg.real).Interfaces[0].MAC, index)
		if err := director.Do(func() error { return netlink.LinkSetXdpFd(in, program.FD()) }); err != nil {
			t.Fatal(err)
		}
		if x, err := director.XDP("eth0"); err != nil || x.Program != "hairpin" || x.Mode != "native" {
			t.Errorf("eth0 carries %+v (%v), want hairpin in native mode", x, err)
		}
		url := fmt.Sprintf("http://%s", netip.AddrPortFrom(lab.VIP, 80))
		got, err := client.Get(ctx, url)
		if err != nil {
			t.Fatalf("by %s: %v", leg.iface, err)
		}
		if want := leg.real + "\n"; got != want {
			t.Errorf("by %s: %q, want %q", leg.iface, got, want)
		}
		upload(t, client.HTTPClient(), url, leg.real)
		if got, err := client.Get(ctx, url+"/large"); err != nil || len(got) != lab.LargeFileSize {
			t.Errorf("large file by %s: %d bytes (%v), want %d", leg.iface, len(got), err, lab.LargeFileSize)
		}
	}
}

// upload sends a body, which is the direction that passes the director.
func upload(t *testing.T, client *http.Client, url, real string) {
	t.Helper()
	const size = 4 << 20
	response, err := client.Post(url+"/upload", "text/plain", strings.NewReader(strings.Repeat("x", size)))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var name string
	var length int
	if _, err := fmt.Fscan(response.Body, &name, &length); err != nil {
		t.Fatal(err)
	}
	if name != real || length != size {
		t.Errorf("upload arrived at %s with %d bytes, want %s with %d", name, length, real, size)
	}
}
