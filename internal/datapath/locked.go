// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"sync/atomic"
	"time"
)

// The words of struct config (locked) that say which buckets user space has locked, or is about to: a bucket's number and one,
// or 0. They are written under the exclusive lock only.
const (
	configHome  = 6
	configSpill = 7
)

// A bucket that is seen locked so often, so far apart, stays locked: packets hold the lock for less than a microsecond.
const (
	looks     = 20
	lookPause = 500 * time.Microsecond
)

// openLocked opens the buckets that a killed process has left locked. The caller holds the exclusive lock, so that no
// other process can have locked them; a packet may have.
func (d *Datapath) openLocked() error {
	if d.config.load(configHome) == 0 && d.config.load(configSpill) == 0 {
		return nil
	}
	buckets, err := mapArray[xdplbBucket](d.maps.Flows)
	if err != nil {
		return fmt.Errorf("opening what another process left locked: %w", err)
	}
	defer buckets.close()
	for _, word := range []int{configHome, configSpill} {
		number := d.config.load(word)
		if number == 0 {
			continue
		}
		if number > uint64(len(buckets.values)) {
			return fmt.Errorf("opening what another process left locked: there is no bucket %d", number-1)
		}
		head := &buckets.values[number-1].Head
		if staysLocked(head) {
			// A packet that held it all the time, on a virtual CPU that did not run, has ended after this.
			if err := d.settle(); err != nil {
				return fmt.Errorf("waiting for packets: %w", err)
			}
			if staysLocked(head) {
				atomic.AndUint32(head, ^uint32(xdplbHeadHEAD_LOCKED))
			}
		}
		d.config.store(word, 0)
	}
	return nil
}

func staysLocked(head *uint32) bool {
	for range looks {
		if atomic.LoadUint32(head)&uint32(xdplbHeadHEAD_LOCKED) == 0 {
			return false
		}
		time.Sleep(lookPause)
	}
	return true
}
