// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
	"xdplb/internal/testenv"
)

// interfaces lists what is attached, without the columns that the machine chooses.
func interfaces(t testing.TB) []Attachment {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	list, err := d.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// rowsOf reads the map of interfaces.
func rowsOf(t testing.TB) map[int][6]byte {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return d.rows()
}

func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
}

func TestAttachModes(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	device := linkOf(t, "eth0")
	want := Attachment{
		Name: "eth0", Ifindex: device.Attrs().Index, Driver: "veth", Mode: Native, MAC: mac(t, "eth0"), MTU: 1500,
	}
	if diff := cmp.Diff(want, attachment); diff != "" {
		t.Errorf("native (-want +got):\n%s", diff)
	}
	if mode := linkOf(t, "eth0").Attrs().Xdp.AttachMode; mode != 1 {
		t.Errorf("the kernel says mode %d, want 1 (driver)", mode)
	}
	_, err := Attach(pinDir, "eth0", Auto, Capacity{})
	wantError(t, err, "eth0", "attached already")

	attachment, err = Attach(pinDir, "far0", Generic, Capacity{})
	if err != nil {
		t.Fatal(err)
	}
	if attachment.Mode != Generic || attachment.Why != "" {
		t.Errorf("asked for generic: %+v", attachment)
	}

	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	_, err = Attach(pinDir, "br0", Native, Capacity{})
	wantError(t, err, "br0", "bridge has no native XDP")
	attachment, err = Attach(pinDir, "br0", Auto, Capacity{})
	if err != nil {
		t.Fatal(err)
	}
	if attachment.Mode != Generic || !strings.Contains(attachment.Why, "bridge has no native XDP") {
		t.Errorf("auto on a bridge: %+v", attachment)
	}
	if got := len(interfaces(t)); got != 3 {
		t.Errorf("%d interfaces attached, want 3", got)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	addVeth(t, "eth0", "far0")
	if err := netlink.LinkSetMTU(linkOf(t, "eth0"), 9000); err != nil {
		t.Fatal(err)
	}
	attachment, err := Attach(pinDir, "eth0", Generic, small)
	if err != nil {
		t.Fatal(err)
	}
	if len(attachment.Warnings) != 1 || !strings.Contains(attachment.Warnings[0], "MTU 9000") {
		t.Errorf("warnings %q, want one about the MTU", attachment.Warnings)
	}
}

// TestWarningsOfOtherDevices has devices and offloads that a machine need not have.
func TestWarningsOfOtherDevices(t *testing.T) {
	t.Parallel()
	attrs := func(name string, index, parent, master int) netlink.LinkAttrs {
		return netlink.LinkAttrs{Name: name, Index: index, MTU: 1500, ParentIndex: parent, MasterIndex: master}
	}
	var (
		plain  = &netlink.Device{LinkAttrs: attrs("eth0", 2, 0, 0)}
		trunk  = &netlink.Device{LinkAttrs: attrs("eth1", 3, 0, 0)}
		bond   = &netlink.Bond{LinkAttrs: attrs("bond0", 4, 0, 0)}
		member = &netlink.Device{LinkAttrs: attrs("eth2", 5, 0, 4)}
		vlan   = &netlink.Vlan{LinkAttrs: attrs("eth1.7", 6, 3, 0)}
		bridge = &netlink.Bridge{LinkAttrs: attrs("br0", 7, 0, 0)}
		port   = &netlink.Device{LinkAttrs: attrs("eth3", 8, 0, 7)}
		// A device on another one that carries no tags.
		macvlan = &netlink.Macvlan{LinkAttrs: attrs("mac0", 9, 2, 0)}
	)
	all := []netlink.Link{plain, trunk, bond, member, vlan, bridge, port, macvlan}
	both := map[string]bool{"rx-lro": true, "rx-vlan-hw-parse": true}
	lro := func(name string) string {
		return "LRO merges frames into larger ones than can be sent on: ethtool -K " + name + " lro off"
	}
	for _, test := range []struct {
		device   netlink.Link
		features map[string]bool
		want     []string
	}{
		{plain, nil, nil},
		{plain, map[string]bool{"rx-lro": false, "rx-vlan-hw-parse": true, "rx-gro": true}, nil},
		{plain, both, []string{lro("eth0")}},
		{trunk, nil, nil},
		{trunk, map[string]bool{"rx-vlan-hw-parse": false}, nil},
		{trunk, both, []string{lro("eth1"),
			"VLAN tags are taken off before the program sees them, and there are VLAN devices on it: ethtool -K eth1 rxvlan off"}},
		{bond, nil, []string{"it is a bond: native mode needs native XDP in the driver of every member, and the bond's mode " +
			"must be balance-rr, active-backup, balance-xor or 802.3ad"}},
		{member, nil, []string{"it is a member of bond0: attach to bond0 instead, or frames will bypass the bond"}},
		{vlan, nil, []string{"it is a VLAN device: attach to the interface below it instead, and give the VLAN with the backends"}},
		{port, nil, nil},
	} {
		if diff := cmp.Diff(test.want, warnings(test.device, Native, test.features, all)); diff != "" {
			t.Errorf("%s with %v (-want +got):\n%s", test.device.Attrs().Name, test.features, diff)
		}
	}
}

func TestAttachRefuses(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	_, err := Attach(pinDir, "lo", Auto, small)
	wantError(t, err, "interface lo has no MAC address")
	_, err = Attach(pinDir, "eth7", Auto, small)
	wantError(t, err, "eth7")
	if _, err := os.Stat(pinDir); !os.IsNotExist(err) {
		t.Errorf("a refused attach leaves pins: %v", err)
	}
	if _, err := Open(pinDir); !errors.Is(err, ErrNotAttached) {
		t.Errorf("open without pins: %v, want ErrNotAttached", err)
	}
	if err := DetachAll(pinDir); !errors.Is(err, ErrNotAttached) {
		t.Errorf("detach all without pins: %v, want ErrNotAttached", err)
	}
	if _, err := os.Stat(pinDir); !os.IsNotExist(err) {
		t.Errorf("open or detach creates pins: %v", err)
	}
}

func TestForeignProgramIsLeftAlone(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	addVeth(t, "eth0", "far0")
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "somebody", Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	theirs, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: linkOf(t, "eth0").Attrs().Index})
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	id := linkOf(t, "eth0").Attrs().Xdp.ProgId

	_, err = Attach(pinDir, "eth0", Auto, small)
	var foreign *ForeignProgramError
	if !errors.As(err, &foreign) {
		t.Fatalf("error %v, want a ForeignProgramError", err)
	}
	if diff := cmp.Diff(ForeignProgramError{Interface: "eth0", Program: "somebody", ID: id}, *foreign); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	if now := linkOf(t, "eth0").Attrs().Xdp.ProgId; now != id {
		t.Errorf("the interface carries program %d, want still %d", now, id)
	}
	if _, err := os.Stat(pinDir); !os.IsNotExist(err) {
		t.Errorf("a first attach that was refused leaves pins: %v", err)
	}
}

func TestDetach(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	before, _ := crashStates(t, attachment.Ifindex)
	mustChange(t, to(before))
	wantError(t, Detach(pinDir, "far0"), "far0 is not attached")
	if err := Detach(pinDir, "eth0"); err != nil {
		t.Fatal(err)
	}
	if xdp := linkOf(t, "eth0").Attrs().Xdp; xdp != nil && xdp.Attached {
		t.Error("the program is still attached after detach")
	}
	if diff := cmp.Diff(map[int][6]byte{}, rowsOf(t)); diff != "" {
		t.Errorf("rows of interfaces (-want +got):\n%s", diff)
	}
	if diff := compareStates(before, snapshot(t)); diff != "" {
		t.Errorf("detach changes the configuration (-want +got):\n%s", diff)
	}
	if _, err := Attach(pinDir, "eth0", Auto, Capacity{}); err != nil {
		t.Fatal(err)
	}
	if err := DetachAll(pinDir); err != nil {
		t.Fatal(err)
	}
	if xdp := linkOf(t, "eth0").Attrs().Xdp; xdp != nil && xdp.Attached {
		t.Error("the program is still attached after detaching all")
	}
	for _, dir := range []string{pinDir, pinDir + oldSuffix, pinDir + newSuffix} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is there after detaching all: %v", dir, err)
		}
	}
}

func TestDetachAllKeepsWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	director(t, small)
	if err := os.Mkdir(pinDir+"/theirs", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := DetachAll(pinDir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(pinDir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "theirs" {
		t.Errorf("the pin directory holds %v (%v), want theirs alone", entries, err)
	}
	_, err = Attach(pinDir, "eth0", Auto, small)
	wantError(t, err, "theirs", "choose another pin directory")
}

func TestDeletedInterface(t *testing.T) {
	t.Parallel()
	first := director(t, small)
	if err := netlink.LinkDel(linkOf(t, "eth0")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Attachment{{Ifindex: first.Ifindex, Gone: true}}, interfaces(t)); diff != "" {
		t.Errorf("interfaces after the deletion (-want +got):\n%s", diff)
	}
	addVeth(t, "eth0", "far0")
	second, err := Attach(pinDir, "eth0", Auto, Capacity{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Attachment{second}, interfaces(t)); diff != "" {
		t.Errorf("interfaces (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[int][6]byte{second.Ifindex: mac(t, "eth0")}, rowsOf(t)); diff != "" {
		t.Errorf("rows of interfaces (-want +got):\n%s", diff)
	}
}

// TestKilledAttachAndDetach leaves what a process leaves that dies within attach or detach.
func TestKilledAttachAndDetach(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	d, err := open(pinDir, exclusive, LockTimeout)
	if err != nil {
		t.Fatal(err)
	}
	// A row without a link, and a link without a row.
	if err := d.putRow(facts{ifindex: 77, mac: [6]byte{2}}); err != nil {
		t.Fatal(err)
	}
	d.deleteRow(attachment.Ifindex)
	d.Close()
	mustChange(t, func(*lb.State) error { return nil })
	if diff := cmp.Diff(map[int][6]byte{attachment.Ifindex: attachment.MAC}, rowsOf(t)); diff != "" {
		t.Errorf("rows of interfaces (-want +got):\n%s", diff)
	}

	if err := Detach(pinDir, "eth0"); err != nil {
		t.Fatal(err)
	}
	// Detaching all, killed between moving the pins aside and removing them.
	if err := os.Rename(pinDir, pinDir+oldSuffix); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(pinDir+newSuffix, 0o700); err != nil { // and an attach, killed while creating
		t.Fatal(err)
	}
	if _, err := Open(pinDir); !errors.Is(err, ErrNotAttached) {
		t.Errorf("open: %v, want ErrNotAttached", err)
	}
	if _, err := Attach(pinDir, "eth0", Auto, small); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{pinDir + oldSuffix, pinDir + newSuffix} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is there after the next attach: %v", dir, err)
		}
	}
}

func TestInterfaceFactsFollowTheKernel(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	before, _ := crashStates(t, attachment.Ifindex)
	mustChange(t, to(before))
	device := linkOf(t, "eth0")
	address := [6]byte{2, 0xaa, 0, 0, 0, 1}
	if err := errors.Join(netlink.LinkSetHardwareAddr(device, address[:]), netlink.LinkSetMTU(device, 1400)); err != nil {
		t.Fatal(err)
	}
	mustChange(t, func(*lb.State) error { return nil })
	if diff := cmp.Diff(map[int][6]byte{attachment.Ifindex: address}, rowsOf(t)); diff != "" {
		t.Errorf("rows of interfaces (-want +got):\n%s", diff)
	}
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	vlans := make(map[uint16]bool)
	for index := uint32(1); index < d.egresses.count; index++ {
		egress := d.egresses.get(index)
		if egress.Ifindex == 0 {
			continue
		}
		vlans[egress.Vlan] = true
		if egress.Mac != address || egress.Mtu != 1400 {
			t.Errorf("egress %d is %+v, want MAC %x and MTU 1400", index, egress, address)
		}
	}
	if diff := cmp.Diff(map[uint16]bool{0: true, 7: true}, vlans); diff != "" {
		t.Errorf("VLANs of the egresses (-want +got):\n%s", diff)
	}
}

func TestOtherSchemaIsRefused(t *testing.T) {
	t.Parallel()
	director(t, small)
	m, err := ebpf.LoadPinnedMap(pinDir+"/meta", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Put(uint32(0), xdplbMeta{Schema: 99}); err != nil {
		t.Fatal(err)
	}
	_, err = Open(pinDir)
	var schema *SchemaError
	if !errors.As(err, &schema) || *schema != (SchemaError{Dir: pinDir, Have: 99, Want: Schema}) {
		t.Errorf("open: %v, want a SchemaError", err)
	}
	if _, err = Attach(pinDir, "far0", Auto, Capacity{}); !errors.As(err, &schema) {
		t.Errorf("attach: %v, want a SchemaError", err)
	}
}

// TestTooMuchCapacity: what cannot be had is refused before anything is made, and not by ending other processes.
func TestTooMuchCapacity(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	addVeth(t, "eth0", "far0")
	for _, c := range []struct {
		capacity Capacity
		words    string
	}{
		{Capacity{Flows: MaxFlows}, "available"},
		{Capacity{Flows: MaxFlows + 1}, "--flows takes at most"},
		{Capacity{Backends: MaxBackends + 1}, "--backends takes at most"},
	} {
		_, err := Attach(pinDir, "eth0", Auto, c.capacity)
		wantError(t, err, c.words)
		if _, err := os.Stat(pinDir); !os.IsNotExist(err) {
			t.Errorf("%+v leaves pins: %v", c.capacity, err)
		}
	}
}

func TestCapacity(t *testing.T) {
	t.Parallel()
	attachment := director(t, Capacity{Flows: 1024, Services: 2, Backends: 3})
	_, err := Attach(pinDir, "far0", Auto, Capacity{Flows: 2048})
	wantError(t, err, "--flows 1024, not 2048")
	_, err = Attach(pinDir, "far0", Auto, Capacity{FloodRate: 77})
	wantError(t, err, "--flood-rate 1024, not 77")

	before, after := crashStates(t, attachment.Ifindex)
	_, err = Change(pinDir, to(before))
	var capacity *CapacityError
	if !errors.As(err, &capacity) || *capacity != (CapacityError{What: "services", Have: 2, Want: 3}) {
		t.Errorf("too many services: %v", err)
	}
	before.Services = before.Services[:2]
	_, err = Change(pinDir, to(before))
	if !errors.As(err, &capacity) || *capacity != (CapacityError{What: "backends", Have: 3, Want: 6}) {
		t.Errorf("too many backends: %v", err)
	}
	if diff := compareStates(lb.State{}, snapshot(t)); diff != "" {
		t.Errorf("a refused change leaves (-want +got):\n%s", diff)
	}

	// A full configuration can be replaced whole by another.
	before.Services[0].Backends = before.Services[0].Backends[:2]
	mustChange(t, to(before))
	other := lb.State{Services: []lb.Service{after.Services[1], after.Services[2]}}
	mustChange(t, to(other))
	if diff := compareStates(other, snapshot(t)); diff != "" {
		t.Errorf("replaced (-want +got):\n%s", diff)
	}
	mustChange(t, to(before))
	checkTidy(t)
}

func TestHopThroughAnotherInterfaceIsRefused(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	before, _ := crashStates(t, attachment.Ifindex+100)
	_, err := Change(pinDir, to(before))
	wantError(t, err, "is not attached", "10.2.0.1")
	_, err = DryRun(pinDir, to(before))
	wantError(t, err, "is not attached")
}

func TestMissingFilesystem(t *testing.T) {
	t.Parallel()
	testenv.Namespace(t)
	addVeth(t, "eth0", "far0")
	// As "ip netns exec blue" does it.
	if err := os.WriteFile("/run/netns/blue", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount("/sys", unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("blue", "/sys", "sysfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	_, err := Attach(pinDir, "eth0", Auto, small)
	var missing *FilesystemError
	if !errors.As(err, &missing) || *missing != (FilesystemError{PinDir: pinDir, PrivateMounts: true}) {
		t.Errorf("error %v, want a FilesystemError that sees private mounts", err)
	}
	wantError(t, err, "ip netns exec")
}

func TestMissingCapabilities(t *testing.T) {
	t.Parallel()
	director(t, small)
	failed := make(chan error)
	onThisNamespace(t, func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			failed <- err
			return
		}
		_, err := Open(pinDir)
		failed <- err
	})
	err := <-failed
	var forbidden *CapabilityError
	if !errors.As(err, &forbidden) {
		t.Fatalf("error %v, want a CapabilityError", err)
	}
	want := []string{"CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"}
	if diff := cmp.Diff(want, forbidden.Missing); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
}

// TestCapabilitiesOfAnOldKernel: root of a kernel that does not know CAP_BPF is not told to become root.
func TestCapabilitiesOfAnOldKernel(t *testing.T) {
	t.Parallel()
	const all = 1<<(unix.CAP_AUDIT_READ+1) - 1 // of Linux 5.7
	old := func(capability uint) bool { return capability <= unix.CAP_AUDIT_READ }
	if missing := missingCapabilities(all, old); missing != nil {
		t.Errorf("root of an old kernel lacks %q", missing)
	}
	if diff := cmp.Diff([]string{"CAP_NET_ADMIN", "CAP_SYS_ADMIN"}, missingCapabilities(0, old)); diff != "" {
		t.Errorf("who is not root lacks there (-want +got):\n%s", diff)
	}
}

func TestJudgeKernel(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		version uint32
		lacks   []string
		want    string
	}{
		{5<<16 | 15<<8 | 167, []string{"bpf_loop", "bpf_jiffies64"}, "this kernel cannot run xdplb: " +
			"it is Linux 5.15, and xdplb needs 6.1 or newer; XDP programs lack bpf_loop, bpf_jiffies64"},
		{6 << 16, nil, "this kernel cannot run xdplb: it is Linux 6.0, and xdplb needs 6.1 or newer"},
		{6<<16 | 1<<8, nil, ""},
		{6<<16 | 1<<8, []string{"bpf_loop"}, "this kernel cannot run xdplb: XDP programs lack bpf_loop"},
		{6<<16 | 18<<8 | 4, nil, ""},
		{7 << 16, nil, ""},
	} {
		got := ""
		if err := judgeKernel(test.version, test.lacks); err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%#x, lacks %q (-want +got):\n%s", test.version, test.lacks, diff)
		}
	}
}

// TestMissingHelpers asks the kernel for what XDP programs of no kernel have, beside what they have here.
func TestMissingHelpers(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Root)
	missing := missingHelpers(asm.FnRedirect, asm.FnSkbLoadBytes, asm.FnLoop)
	if diff := cmp.Diff([]string{"bpf_skb_load_bytes"}, missing); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestInterfacesOfOnePlace: interfaces whose indexes differ by the size of the map are told apart, up to four.
func TestInterfacesOfOnePlace(t *testing.T) {
	t.Parallel()
	attachment := director(t, small)
	d, err := open(pinDir, exclusive, LockTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	want := map[int][6]byte{attachment.Ifindex: attachment.MAC}
	const first = 100
	for n := range interfacePlaces {
		f := facts{ifindex: first + n*int(d.interfaces.count), mac: [6]byte{2, byte(n)}}
		want[f.ifindex] = f.mac
		if err := d.putRow(f); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, d.rows()); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	wantError(t, d.putRow(facts{ifindex: first + interfacePlaces*int(d.interfaces.count)}), "4 attached interfaces have its place")
	d.deleteRow(first)
	delete(want, first)
	if diff := cmp.Diff(want, d.rows()); diff != "" {
		t.Errorf("rows, one deleted (-want +got):\n%s", diff)
	}
}
