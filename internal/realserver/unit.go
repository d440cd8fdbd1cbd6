// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	unitName = "xdplb-realserver.service"
	unitDir  = "/etc/systemd/system"
	// wantsDir holds links to the units that start with the system; `systemctl enable` makes the same link.
	wantsDir = unitDir + "/multi-user.target.wants"
)

// unit returns the text of a systemd unit that does Setup as recorded. It waits for the network, because Setup needs
// the segment's interface with its address, and for the services that write sysctls or flush nftables.
//
// It has no ExecStop: what Setup has changed dies with the kernel, and a real server shall not lose its VIPs because
// somebody restarts a unit.
func unit(executable string, r record) string {
	words := []string{executable, "realserver", "setup"}
	for _, vip := range r.VIPs {
		words = append(words, vip.String())
	}
	words = append(words, "--dev", r.Dev)
	for _, gateway := range r.Gateways {
		words = append(words, "--gateway", gateway.String())
	}
	words = append(words, "--arp-mode", string(r.ArpMode))
	for i, word := range words {
		words[i] = escape(word)
	}
	return `[Unit]
Description=Real server of an xdplb cluster: VIPs on lo, silent on the segment
Wants=network-online.target
After=network-online.target systemd-sysctl.service nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=` + strings.Join(words, " ") + `

[Install]
WantedBy=multi-user.target
`
}

// escape quotes a word of a command line in a unit (systemd.service(5), section command lines).
func escape(word string) string {
	word = strings.NewReplacer("%", "%%", "$", "$$", `\`, `\\`, `"`, `\"`).Replace(word)
	if strings.ContainsAny(word, " \t;'\"\\") {
		return `"` + word + `"`
	}
	return word
}

// installUnit writes the unit under root and enables it. A running systemd sees it at the next boot or reload; there
// is nothing to start, since Setup has just done its work.
func installUnit(root, executable string, r record) error {
	path, link := filepath.Join("/", root, unitDir, unitName), filepath.Join("/", root, wantsDir, unitName)
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return fmt.Errorf("install %s: %w", unitName, err)
	}
	if err := os.WriteFile(path+".new", []byte(unit(executable, r)), 0o644); err != nil {
		return fmt.Errorf("install %s: %w", unitName, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("install %s: %w", unitName, err)
	}
	if err := os.Symlink(filepath.Join(unitDir, unitName), link); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("enable %s: %w", unitName, err)
	}
	return nil
}

// unitInstalled reports whether the unit is there.
func unitInstalled(root string) (bool, error) {
	_, err := os.Lstat(filepath.Join("/", root, unitDir, unitName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", unitName, err)
	}
	return true, nil
}

// removeUnit disables and deletes the unit, if it is there.
func removeUnit(root string) error {
	for _, dir := range []string{wantsDir, unitDir} {
		if err := os.Remove(filepath.Join("/", root, dir, unitName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", unitName, err)
		}
	}
	return nil
}
