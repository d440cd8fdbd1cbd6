// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
)

const conf = "/proc/sys/net/ipv4/conf"

// arpSetting is one of the two settings that keep a VIP on lo silent.
type arpSetting struct {
	name string
	set  int   // what Setup writes
	good []int // what keeps a VIP silent
}

// arpSettings returns both. The kernel reads every value without a meaning as 0, and arp_ignore=3 answers for all
// addresses of global scope, which a VIP has: larger is not stricter (net/ipv4/arp.c, arp_ignore and arp_solicit).
func arpSettings() []arpSetting {
	return []arpSetting{
		{name: "arp_ignore", set: 1, good: []int{1, 2, 8}},
		{name: "arp_announce", set: 2, good: []int{2}},
	}
}

// path returns the file of the setting for an interface, or for "all".
func (s arpSetting) path(dev string) string { return filepath.Join(conf, dev, s.name) }

// changes returns what has to be written for frames of dev: "all" and lo get good values, and dev does if it has one that
// beats them.
func (s arpSetting) changes(dev string) ([]change, error) {
	var changes []change
	for _, name := range []string{"all", "lo", dev} {
		value, err := readNumber(s.path(name))
		if err != nil {
			return nil, err
		}
		harmless := name == dev && value <= s.set
		if harmless || slices.Contains(s.good, value) {
			continue
		}
		changes = append(changes, change{
			Kind: changeSysctl, Path: s.path(name), Before: strconv.Itoa(value), Set: strconv.Itoa(s.set),
		})
	}
	return changes, nil
}

// effective returns the value that counts for frames of dev: the larger one of "all" and dev (IN_DEV_MAXCONF in
// include/linux/inetdevice.h).
func effective(name, dev string) (int, error) {
	all, err := readNumber(filepath.Join(conf, "all", name))
	if err != nil {
		return 0, err
	}
	own, err := readNumber(filepath.Join(conf, dev, name))
	if err != nil {
		return 0, err
	}
	return max(all, own), nil
}

func readNumber(path string) (int, error) {
	word, err := readSysctl(path)
	if err != nil {
		return 0, err
	}
	value, err := strconv.Atoi(word)
	if err != nil {
		return 0, fmt.Errorf("read sysctl %s: %w", path, err)
	}
	return value, nil
}
