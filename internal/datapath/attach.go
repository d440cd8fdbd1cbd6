// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Mode is where on an interface's way in the program runs.
type Mode string

// The modes. An interface is attached in one of the latter two.
const (
	Auto    Mode = "auto"    // native if the driver can, else generic
	Native  Mode = "native"  // in the driver
	Generic Mode = "generic" // in the network stack, on any driver
)

// ParseMode parses "auto", "native" or "generic". The error says only which there are.
func ParseMode(word string) (Mode, error) {
	if mode := Mode(word); slices.Contains([]Mode{Auto, Native, Generic}, mode) {
		return mode, nil
	}
	return "", errors.New("want auto, native or generic")
}

// Attachment is an interface that carries the program.
type Attachment struct {
	Name     string   // "" if Gone
	Ifindex  int      //
	Driver   string   // as ethtool -i says; "" if the interface does not say
	Mode     Mode     // that was obtained
	Why      string   // why generic, though auto was asked; else "". Known to Attach only.
	MAC      [6]byte  //
	MTU      int      // bytes of IP
	Gone     bool     // the interface was deleted; the next attach, detach or change cleans up
	Warnings []string // what breaks direct routing under XDP on this interface, a sentence each
}

// Attach attaches the program to an interface, after creating the pins where there are none. A capacity that differs
// from that of existing pins is refused. Errors: ErrAttached, *ForeignProgramError, *SchemaError, *LockedError, *CapabilityError,
// *FilesystemError, and refusals that name the interface and the reason.
func Attach(pinDir, iface string, mode Mode, capacity Capacity) (Attachment, error) {
	if err := checkCapabilities(); err != nil {
		return Attachment{}, err
	}
	device, err := netlink.LinkByName(iface)
	if err != nil {
		return Attachment{}, fmt.Errorf("finding interface %s: %w", iface, err)
	}
	if err := checkDevice(device); err != nil {
		return Attachment{}, err
	}
	d, created, err := openOrCreate(pinDir, capacity, LockTimeout)
	if err != nil {
		return Attachment{}, err
	}
	defer d.Close()
	attachment, err := d.attach(device, mode)
	if err != nil && created {
		err = errors.Join(err, d.removeAll())
	}
	return attachment, err
}

// checkDevice refuses interfaces on which Ethernet frames cannot be sent on.
func checkDevice(device netlink.Link) error {
	attrs := device.Attrs()
	if attrs.RawFlags&unix.IFF_LOOPBACK != 0 || len(attrs.HardwareAddr) != 6 || factsOf(device).mac == [6]byte{} {
		return fmt.Errorf("interface %s has no MAC address: direct routing needs Ethernet", attrs.Name)
	}
	return nil
}

// openOrCreate opens the pins under the exclusive lock, creating them where there are none.
func openOrCreate(pinDir string, capacity Capacity, timeout time.Duration) (_ *Datapath, created bool, _ error) {
	pinDir = filepath.Clean(pinDir)
	for deadline := time.Now().Add(timeout); ; {
		d, err := open(pinDir, exclusive, timeout)
		if err == nil {
			have := d.capacity()
			if want := capacity.or(have); want != have {
				d.Close()
				return nil, false, &MadeError{have, want}
			}
			return d, created, nil
		}
		// Between our creating and opening, others may remove it again.
		if !errors.Is(err, ErrNotAttached) || time.Now().After(deadline) {
			return nil, false, err
		}
		if err := create(pinDir, capacity.or(DefaultCapacity), timeout); err != nil {
			return nil, false, err
		}
		created = true
	}
}

// attach puts the interface's row in before the link, so that no packet runs without it.
func (d *Datapath) attach(device netlink.Link, mode Mode) (Attachment, error) {
	name, ifindex := device.Attrs().Name, device.Attrs().Index
	if _, err := d.repairInterfaces(); err != nil {
		return Attachment{}, err
	}
	switch _, err := os.Stat(d.linkPath(ifindex)); {
	case err == nil:
		return Attachment{}, fmt.Errorf("interface %s %w", name, ErrAttached)
	case !errors.Is(err, fs.ErrNotExist):
		return Attachment{}, fmt.Errorf("looking for the link of %s: %w", name, err)
	}
	if err := foreignProgram(device); err != nil {
		return Attachment{}, err
	}
	if err := d.putRow(factsOf(device)); err != nil {
		return Attachment{}, err
	}
	why, err := d.attachLink(device, mode)
	if err != nil {
		d.deleteRow(ifindex)
		return Attachment{}, fmt.Errorf("attaching to %s: %w", name, err)
	}
	d.refreshEgresses(map[int]facts{ifindex: factsOf(device)})
	attachment, err := describe(ifindex)
	attachment.Why = why
	return attachment, err
}

// attachLink creates and pins the link in the wanted mode, or in auto mode in the best one.
func (d *Datapath) attachLink(device netlink.Link, mode Mode) (why string, err error) {
	ifindex := device.Attrs().Index
	var l link.Link
	switch mode {
	case Native:
		l, err = link.AttachXDP(link.XDPOptions{Program: d.program, Interface: ifindex, Flags: link.XDPDriverMode})
		if err != nil {
			return "", errors.New(nativeRefusal(device, err))
		}
	case Auto:
		l, err = link.AttachXDP(link.XDPOptions{Program: d.program, Interface: ifindex, Flags: link.XDPDriverMode})
		if err == nil {
			break
		}
		why = nativeRefusal(device, err)
		fallthrough
	case Generic:
		l, err = link.AttachXDP(link.XDPOptions{Program: d.program, Interface: ifindex, Flags: link.XDPGenericMode})
	default:
		return "", fmt.Errorf("unknown mode %q", mode)
	}
	if err != nil {
		return "", err
	}
	defer l.Close()
	if err := l.Pin(d.linkPath(ifindex)); err != nil {
		return "", fmt.Errorf("pinning the link: %w", err)
	}
	return why, nil
}

// nativeRefusal says in words why a driver does not take the program.
func nativeRefusal(device netlink.Link, err error) string {
	driver := driverOf(device.Attrs().Name)
	if driver == "" {
		driver = device.Type()
	}
	switch {
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Sprintf("the driver %s has no native XDP", driver)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC):
		return fmt.Sprintf("the driver %s refuses the program in native mode with its present settings "+
			"(MTU %d, queues, LRO; dmesg may say which): %v", driver, device.Attrs().MTU, errno(err))
	}
	return fmt.Sprintf("the driver %s refuses the program in native mode: %v", driver, err)
}

// errno is the system's word at the bottom of an error.
func errno(err error) error {
	var number unix.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}

// foreignProgram refuses an interface that carries a program.
func foreignProgram(device netlink.Link) error {
	attrs := device.Attrs()
	if attrs.Xdp == nil || !attrs.Xdp.Attached {
		return nil
	}
	foreign := &ForeignProgramError{Interface: attrs.Name, ID: attrs.Xdp.ProgId}
	if program, err := ebpf.NewProgramFromID(ebpf.ProgramID(foreign.ID)); err == nil {
		defer program.Close()
		if info, err := program.Info(); err == nil {
			foreign.Program = info.Name
		}
	}
	return foreign
}

// Detach detaches the program from an interface. The configuration stays; so does every other interface.
func Detach(pinDir, iface string) error {
	d, err := open(pinDir, exclusive, LockTimeout)
	if err != nil {
		return err
	}
	defer d.Close()
	// First, so that an interface that was deleted and made anew with the same name is not taken for the old one.
	if _, err := d.repairInterfaces(); err != nil {
		return err
	}
	device, err := netlink.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("finding interface %s: %w", iface, err)
	}
	ifindex := device.Attrs().Index
	if _, err := os.Stat(d.linkPath(ifindex)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("interface %s is not attached", iface)
	}
	if err := d.removeLink(ifindex); err != nil {
		return fmt.Errorf("detaching %s: %w", iface, err)
	}
	return nil
}

// DetachAll detaches the program from every interface and removes the pins, and with them the configuration.
func DetachAll(pinDir string) error {
	d, err := open(pinDir, exclusive, LockTimeout)
	if errors.Is(err, ErrNotAttached) {
		return removeAside(filepath.Clean(pinDir), err)
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return d.removeAll()
}

// removeAside finishes what a killed DetachAll began; where there is nothing to finish, it returns the error given.
func removeAside(pinDir string, nothing error) error {
	aside := pinDir + oldSuffix
	if _, err := os.Stat(aside); err != nil {
		return nothing
	}
	parent, err := lockDir(filepath.Dir(pinDir), exclusive, LockTimeout)
	if err != nil {
		return err
	}
	defer parent.release()
	return removePins(aside)
}

// removeAll detaches every interface, one by one, and then moves the pins aside, whole, before it removes them: whoever
// is killed leaves no half of them in place. Who waits for the lock finds the directory gone.
func (d *Datapath) removeAll() error {
	links, err := d.pinnedLinks()
	if err != nil {
		return err
	}
	closeLinks(links)
	for _, l := range links {
		if err := d.removeLink(l.ifindex); err != nil {
			return fmt.Errorf("detaching interface %d: %w", l.ifindex, err)
		}
	}
	parent, err := lockDir(filepath.Dir(d.dir), exclusive, LockTimeout)
	if err != nil {
		return err
	}
	defer parent.release()
	aside := d.dir + oldSuffix
	if err := removePins(aside); err != nil {
		return err
	}
	if err := os.Rename(d.dir, aside); err != nil {
		return fmt.Errorf("moving the pins aside: %w", err)
	}
	err = removePins(aside)
	if errors.Is(err, unix.ENOTEMPTY) {
		// Somebody keeps pins of their own in it.
		return os.Rename(aside, d.dir)
	}
	return err
}

// describe reads what there is to know of an attached interface.
func describe(ifindex int) (Attachment, error) {
	device, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return Attachment{}, fmt.Errorf("reading the attached interface %d (is it in another network namespace?): %w", ifindex, err)
	}
	attrs, facts := device.Attrs(), factsOf(device)
	attachment := Attachment{
		Name: attrs.Name, Ifindex: ifindex, Driver: driverOf(attrs.Name), Mode: Native, MAC: facts.mac, MTU: facts.mtu,
	}
	if attrs.Xdp != nil && attrs.Xdp.AttachMode == nl.XDP_ATTACHED_SKB {
		attachment.Mode = Generic
	}
	attachment.Warnings = warnings(device, attachment.Mode, featuresOf(attrs.Name), devices())
	return attachment, nil
}

// Interfaces lists the attached interfaces, sorted by index.
func (d *Datapath) Interfaces() ([]Attachment, error) {
	links, err := d.pinnedLinks()
	if err != nil {
		return nil, err
	}
	defer closeLinks(links)
	slices.SortFunc(links, func(a, b pinnedLink) int { return a.ifindex - b.ifindex })
	var list []Attachment
	for _, l := range links {
		if l.gone {
			list = append(list, Attachment{Ifindex: l.ifindex, Gone: true})
			continue
		}
		attachment, err := describe(l.ifindex)
		if err != nil {
			return nil, err
		}
		list = append(list, attachment)
	}
	return list, nil
}
