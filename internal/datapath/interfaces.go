// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
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
	rows, err := d.rows()
	if err != nil {
		return nil, err
	}
	for ifindex := range rows {
		if _, ok := interfaces[ifindex]; !ok {
			if err := d.deleteRow(ifindex); err != nil {
				return nil, err
			}
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
func (d *Datapath) rows() (map[int][6]byte, error) {
	keys, values := make([]uint32, d.maps.Interfaces.MaxEntries()), make([]xdplbInterface, d.maps.Interfaces.MaxEntries())
	var cursor ebpf.MapBatchCursor
	n, err := d.maps.Interfaces.BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("reading the map of interfaces: %w", err)
	}
	rows := make(map[int][6]byte, n)
	for i := range n {
		rows[int(keys[i])] = values[i].Mac
	}
	return rows, nil
}

// putRow writes a row: for a hash map this is a new element, so that packets see the old one or the new one.
func (d *Datapath) putRow(f facts) error {
	if err := d.maps.Interfaces.Put(uint32(f.ifindex), xdplbInterface{Mac: f.mac}); err != nil {
		return fmt.Errorf("adding interface %d to the map of interfaces: %w", f.ifindex, err)
	}
	return nil
}

func (d *Datapath) deleteRow(ifindex int) error {
	if err := d.maps.Interfaces.Delete(uint32(ifindex)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("deleting interface %d from the map of interfaces: %w", ifindex, err)
	}
	return nil
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
	return d.deleteRow(ifindex)
}
