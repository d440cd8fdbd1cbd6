// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"

	"xdplb/internal/datapath"
)

// interfaces are the attached ones.
type interfaces []datapath.Attachment

// names lists those that still exist.
func (list interfaces) names() []string {
	var names []string
	for _, i := range list {
		if !i.Gone {
			names = append(names, i.Name)
		}
	}
	return names
}

// indexes lists those that still exist.
func (list interfaces) indexes() []int {
	var indexes []int
	for _, i := range list {
		if !i.Gone {
			indexes = append(indexes, i.Ifindex)
		}
	}
	return indexes
}

// index finds an attached interface by name; the name "" means the only one.
func (list interfaces) index(name string) (int, error) {
	names, indexes := list.names(), list.indexes()
	if name == "" && len(names) == 1 {
		return indexes[0], nil
	}
	for i := range names {
		if names[i] == name {
			return indexes[i], nil
		}
	}
	attached := "none"
	if len(names) > 0 {
		attached = strings.Join(names, ", ")
	}
	if name == "" {
		return 0, withHint(fmt.Errorf("no interface is named, and not one alone is attached: %s", attached), "name it: --dev INTERFACE, or \"dev\" in a file")
	}
	if _, err := netlink.LinkByName(name); missingInterface(err) {
		return 0, fmt.Errorf("%w; attached: %s", noInterface(name, err), attached)
	}
	return 0, withHint(fmt.Errorf("interface %s is not attached; attached: %s", name, attached), "xdplb attach "+name)
}

// name finds the name of an attached interface.
func (list interfaces) name(ifindex int) string {
	for _, i := range list {
		if i.Ifindex == ifindex && !i.Gone {
			return i.Name
		}
	}
	if ifindex == 0 {
		return ""
	}
	return fmt.Sprintf("#%d", ifindex)
}

func missingInterface(err error) bool {
	return errors.As(err, new(netlink.LinkNotFoundError))
}

// noInterface words the error of an act on a named interface, if it is that the host has none of that name; nil and
// other errors stay as they are.
func noInterface(name string, err error) error {
	if missingInterface(err) {
		return fmt.Errorf("there is no interface %s", name)
	}
	return err
}
