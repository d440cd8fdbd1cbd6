// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// facts are what the data path must know of an attached interface.
type facts struct {
	ifindex int
	mac     [6]byte
	mtu     int
}

func (f facts) egress(vlan uint16) xdplbEgress {
	return xdplbEgress{Mac: f.mac, Vlan: vlan, Ifindex: uint32(f.ifindex), Mtu: uint32(f.mtu)}
}

func factsOf(l netlink.Link) facts {
	attrs := l.Attrs()
	f := facts{ifindex: attrs.Index, mtu: attrs.MTU}
	copy(f.mac[:], attrs.HardwareAddr)
	return f
}

// pinnedLink is an XDP link in the pin directory.
type pinnedLink struct {
	ifindex int // as the pin says
	gone    bool
	link    link.Link
}

func (d *Datapath) linkPath(ifindex int) string {
	return filepath.Join(d.dir, linksDir, strconv.Itoa(ifindex))
}

// pinnedLinks opens all links. The caller closes them.
func (d *Datapath) pinnedLinks() ([]pinnedLink, error) {
	entries, err := os.ReadDir(filepath.Join(d.dir, linksDir))
	if err != nil {
		return nil, fmt.Errorf("listing the attached interfaces: %w", err)
	}
	var links []pinnedLink
	for _, entry := range entries {
		pinned, err := d.openLink(entry.Name())
		if err != nil {
			closeLinks(links)
			return nil, fmt.Errorf("opening the pinned link %s: %w", entry.Name(), err)
		}
		links = append(links, pinned)
	}
	return links, nil
}

func closeLinks(links []pinnedLink) {
	for _, l := range links {
		l.link.Close()
	}
}

func (d *Datapath) openLink(name string) (pinnedLink, error) {
	ifindex, err := strconv.Atoi(name)
	if err != nil {
		return pinnedLink{}, errors.New("its name is no interface index")
	}
	l, err := link.LoadPinnedLink(d.linkPath(ifindex), nil)
	if err != nil {
		return pinnedLink{}, err
	}
	info, err := l.Info()
	if err != nil {
		l.Close()
		return pinnedLink{}, err
	}
	xdp := info.XDP()
	if xdp == nil {
		l.Close()
		return pinnedLink{}, errors.New("it is no XDP link")
	}
	// When an interface is deleted the kernel lets go of the link, which then has no interface.
	return pinnedLink{ifindex: ifindex, gone: xdp.Ifindex == 0, link: l}, nil
}

// attached reads the attached interfaces that still exist.
func (d *Datapath) attached() (map[int]facts, error) {
	links, err := d.pinnedLinks()
	if err != nil {
		return nil, err
	}
	defer closeLinks(links)
	interfaces := make(map[int]facts)
	for _, l := range links {
		if l.gone {
			continue
		}
		device, err := netlink.LinkByIndex(l.ifindex)
		if err != nil {
			return nil, fmt.Errorf("reading the attached interface %d (is it in another network namespace?): %w", l.ifindex, err)
		}
		interfaces[l.ifindex] = factsOf(device)
	}
	return interfaces, nil
}

// repairInterfaces removes links and rows of interfaces that are gone, and rows that a killed writer left without a
// link, and writes MAC address and MTU as they are now.
func (d *Datapath) repairInterfaces() (map[int]facts, error) {
	if err := d.removeGone(); err != nil {
		return nil, err
	}
	interfaces, err := d.attached()
	if err != nil {
		return nil, err
	}
	rows := d.rows()
	for ifindex := range rows {
		if _, ok := interfaces[ifindex]; !ok {
			d.deleteRow(ifindex)
		}
	}
	for ifindex, f := range interfaces {
		if rows[ifindex] != f.mac {
			if err := d.putRow(f); err != nil {
				return nil, err
			}
		}
	}
	d.refreshEgresses(interfaces)
	return interfaces, nil
}

func (d *Datapath) removeGone() error {
	links, err := d.pinnedLinks()
	if err != nil {
		return err
	}
	defer closeLinks(links)
	for _, l := range links {
		if !l.gone {
			continue
		}
		if err := l.link.Unpin(); err != nil {
			return fmt.Errorf("removing the link of the deleted interface %d: %w", l.ifindex, err)
		}
	}
	return nil
}

// refreshEgresses writes each word that differs.
func (d *Datapath) refreshEgresses(interfaces map[int]facts) {
	for index := uint32(1); index < d.egresses.count; index++ {
		egress := d.egresses.get(index)
		if f, ok := interfaces[int(egress.Ifindex)]; ok {
			d.egresses.put(index, f.egress(egress.Vlan))
		}
	}
}

// rows reads the map of interfaces.
func (d *Datapath) rows() map[int][6]byte {
	rows := make(map[int][6]byte)
	for place := range d.interfaces.count {
		if row := d.interfaces.get(place); row.Ifindex != 0 {
			rows[int(row.Ifindex)] = row.Mac
		}
	}
	return rows
}

// interfacePlaces is how many places of the map an interface may have (INTERFACE_PLACES in maps.h).
const interfacePlaces = 4

// place finds where in the map an interface is, or a free place for it.
func (d *Datapath) place(ifindex uint32) (place uint32, found bool) {
	free := d.interfaces.count
	for n := range uint32(interfacePlaces) {
		place := (ifindex + n) % d.interfaces.count
		switch d.interfaces.get(place).Ifindex {
		case ifindex:
			return place, true
		case 0:
			free = min(free, place)
		}
	}
	return free, false
}

// putRow writes a row: the address first, so that no packet sees an interface with another's.
func (d *Datapath) putRow(f facts) error {
	place, _ := d.place(uint32(f.ifindex))
	if place == d.interfaces.count {
		return fmt.Errorf("adding interface %d to the map of interfaces: %d attached interfaces have its place", f.ifindex, interfacePlaces)
	}
	d.interfaces.put(place, xdplbInterface{Mac: f.mac, Ifindex: uint32(f.ifindex)})
	return nil
}

func (d *Datapath) deleteRow(ifindex int) {
	if place, found := d.place(uint32(ifindex)); found {
		d.interfaces.put(place, xdplbInterface{Mac: d.interfaces.get(place).Mac})
	}
}

// removeLink detaches an interface: first its link, then its row, the reverse of attaching.
func (d *Datapath) removeLink(ifindex int) error {
	l, err := link.LoadPinnedLink(d.linkPath(ifindex), nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("opening the pinned link: %w", err)
	}
	if err == nil {
		// While it is open, unpinning does not free it; closing it then does, at once.
		if err := errors.Join(l.Unpin(), l.Close()); err != nil {
			return fmt.Errorf("removing the link: %w", err)
		}
	}
	d.deleteRow(ifindex)
	return nil
}
