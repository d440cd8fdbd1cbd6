// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockTimeout is how long a call waits for another one to finish.
const lockTimeout = 5 * time.Second

// record is what Setup has been asked for and what it has changed. It is written before each change.
type record struct {
	Boot     string // the kernel's boot id: a record of another boot describes nothing that is there
	VIPs     []netip.Addr
	Dev      string
	Gateways []netip.Addr
	ArpMode  ArpMode
	Changes  []change // in the order in which they were made
}

// has4 reports whether one of the VIPs is an IPv4 address.
func (r *record) has4() bool {
	return slices.ContainsFunc(r.VIPs, netip.Addr.Is4)
}

// find returns the recorded change that a new one would repeat.
func (r *record) find(c change) *change {
	for i := range r.Changes {
		if r.Changes[i].same(c) {
			return &r.Changes[i]
		}
	}
	return nil
}

// journal keeps the record of one network namespace in a directory, locked while it is open.
type journal struct {
	record
	path string
	dir  *os.File
	// before is called with a description ahead of each write of the record and each change of the kernel's state. An
	// error ends the call there, as a crash would: this is where tests inject one.
	before func(step string) error
}

// open locks the directory, which it creates if need be, and reads the record.
func open(dir string, before func(step string) error) (*journal, error) {
	path, err := recordPath(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("create the state directory: %w", err)
	}
	j := &journal{path: path, before: before}
	if j.dir, err = os.Open(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	if err = j.lock(); err == nil {
		j.record, err = load(path)
	}
	if err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// lock waits for other calls to finish.
func (j *journal) lock() error {
	for end := time.Now().Add(lockTimeout); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(j.dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			return fmt.Errorf("lock %s: another xdplb realserver is at work: %w", j.dir.Name(), err)
		}
	}
}

// recordPath returns the file of the calling thread's network namespace in the directory.
func recordPath(dir string) (string, error) {
	if dir == "" {
		dir = DefaultStateDir
	}
	cookie, err := namespaceCookie()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, fmt.Sprintf("realserver-%d.json", cookie)), nil
}

// load reads a record. Without one of this boot, it is empty.
func load(path string) (record, error) {
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return record{}, fmt.Errorf("read the boot id: %w", err)
	}
	boot := strings.TrimSpace(string(content))
	content, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return record{Boot: boot}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("read the record: %w", err)
	}
	var r record
	if err := json.Unmarshal(content, &r); err != nil {
		return record{}, fmt.Errorf("read the record %s: %w", path, err)
	}
	if r.Boot != boot {
		return record{Boot: boot}, nil
	}
	return r, nil
}

// save writes the record atomically: a reader, also after a crash, sees the old one or the new one.
func (j *journal) save() error {
	if err := j.before("write the record"); err != nil {
		return err
	}
	content, err := json.MarshalIndent(j.record, "", "\t")
	if err != nil {
		return fmt.Errorf("encode the record: %w", err)
	}
	if err := os.WriteFile(j.path+".new", append(content, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	if err := os.Rename(j.path+".new", j.path); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

// remove deletes the record.
func (j *journal) remove() error {
	if err := j.before("remove the record"); err != nil {
		return err
	}
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record: %w", err)
	}
	return nil
}

// close releases the lock.
func (j *journal) close() {
	_ = j.dir.Close() // only read
}

// make records a change and then makes it. A change that is recorded already is made again.
func (j *journal) make(c change) error {
	switch recorded := j.find(c); {
	case recorded == nil:
		j.Changes = append(j.Changes, c)
	default:
		recorded.merge(c)
	}
	if err := j.save(); err != nil {
		return err
	}
	if err := j.before("make the change " + c.Kind); err != nil {
		return err
	}
	return c.do(&j.record)
}

// undo takes the recorded changes back that the filter selects, the last one first, and forgets each when it is done.
func (j *journal) undo(selected func(change) bool) error {
	for i := len(j.Changes) - 1; i >= 0; i-- {
		c := j.Changes[i]
		if !selected(c) {
			continue
		}
		if err := j.before("undo the change " + c.Kind); err != nil {
			return err
		}
		if err := c.undo(); err != nil {
			return err
		}
		j.Changes = slices.Delete(j.Changes, i, i+1)
		if err := j.save(); err != nil {
			return err
		}
	}
	return nil
}

// namespaceCookie returns the number of the calling thread's network namespace, which no other one gets until the
// next boot (Linux 5.14). The inode number of /proc/self/ns/net is reused.
func namespaceCookie() (uint64, error) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(socket) }()
	cookie, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read the network namespace's cookie: %w", err)
	}
	return cookie, nil
}
