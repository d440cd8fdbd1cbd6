// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// Idle is a set of interfaces over which no packet goes, and which hold programs.
type Idle struct {
	attached []link.Link
}

// KeepAttached attaches each program to an idle veth of its own, in the current network namespace, and so keeps it in the
// kernel's XDP dispatcher until Close: BPF_PROG_TEST_RUN would otherwise change the dispatcher twice per call.
func KeepAttached(programs ...*ebpf.Program) (*Idle, error) {
	idle := &Idle{}
	for i, program := range programs {
		name := fmt.Sprintf("idle%d", i)
		veth, err := addVeth(name, name+"p")
		if err != nil {
			return nil, errors.Join(err, idle.Close())
		}
		held, err := attachNative(program, veth)
		if err != nil {
			return nil, errors.Join(err, idle.Close())
		}
		idle.attached = append(idle.attached, held)
	}
	return idle, nil
}

// Close lets the programs go.
func (i *Idle) Close() error {
	var errs []error
	for _, held := range i.attached {
		errs = append(errs, held.Close())
	}
	return errors.Join(errs...)
}

// addVeth makes a pair of interfaces with one queue each, and returns the first.
func addVeth(name, peer string) (netlink.Link, error) {
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.NumTxQueues, attributes.NumRxQueues = name, 1, 1
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: peer}); err != nil {
		return nil, fmt.Errorf("adding veth %s: %w", name, err)
	}
	veth, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("finding veth %s: %w", name, err)
	}
	return veth, nil
}

func attachNative(program *ebpf.Program, to netlink.Link) (link.Link, error) {
	attached, err := link.AttachXDP(link.XDPOptions{
		Program: program, Interface: to.Attrs().Index, Flags: link.XDPDriverMode,
	})
	if err != nil {
		return nil, fmt.Errorf("attaching %s to %s: %w", program, to.Attrs().Name, err)
	}
	return attached, nil
}
