// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
)

// XDP is the program that an interface carries.
type XDP struct {
	Program string // its name; "" if the interface carries none
	ID      uint32
	Mode    string // native, generic, or what else the kernel's number says
}

// XDP returns what program the interface of the host carries.
func (h *Host) XDP(iface string) (XDP, error) {
	var x XDP
	err := h.Do(func() error {
		link, err := netlink.LinkByName(iface)
		if err != nil {
			return fmt.Errorf("find %s on %s: %w", iface, h.Name, err)
		}
		attached := link.Attrs().Xdp
		if attached == nil || !attached.Attached {
			return nil
		}
		program, err := ebpf.NewProgramFromID(ebpf.ProgramID(attached.ProgId))
		if err != nil {
			return fmt.Errorf("read XDP program %d on %s of %s: %w", attached.ProgId, iface, h.Name, err)
		}
		defer program.Close()
		info, err := program.Info()
		if err != nil {
			return fmt.Errorf("read XDP program %d on %s of %s: %w", attached.ProgId, iface, h.Name, err)
		}
		x = XDP{Program: info.Name, ID: attached.ProgId, Mode: xdpMode(attached.AttachMode)}
		return nil
	})
	return x, err
}

// xdpMode names a value of IFLA_XDP_ATTACHED (include/uapi/linux/if_link.h).
func xdpMode(attached uint32) string {
	switch attached {
	case nl.XDP_ATTACHED_DRV:
		return "native"
	case nl.XDP_ATTACHED_SKB:
		return "generic"
	}
	return fmt.Sprintf("mode %d", attached)
}

// WebServerRuns tells whether the host's nginx is there.
func (h *Host) WebServerRuns() (bool, error) {
	runs := false
	err := h.lab.thread(func() error {
		all, err := processes([]string{h.Name})
		for _, p := range all {
			runs = runs || p.name == webServer
		}
		return err
	})
	return runs, err
}
