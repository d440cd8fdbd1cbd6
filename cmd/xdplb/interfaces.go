// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

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
	attached := "none is"
	if len(names) > 0 {
		attached = strings.Join(names, ", ")
	}
	if name == "" {
		return 0, usagef("--dev is missing: attached are %s", attached)
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
