// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"
)

// adopter writes into the flow table.
type adopter struct {
	d         *Datapath
	table     *flowTable
	templates *templates
	after     func(step string) error // called after each write; nil: nothing
}

// adopt records one connection, as add_flow in flow.h does.
func (a *adopter) adopt(s *stranger, done *Adoption) error {
	a.table.lookAtTheClock() // flows that packets have followed since would be taken for ones of long ago
	if s.IsTemplate() {
		return a.adoptTemplate(s, done)
	}
	hash := s.owner.service.hashFlow(a.d.meta.HashKeys, s.Client, s.VIPPort)
	home := hash.home(a.d.meta.FlowBuckets)
	if err := a.lock(configHome, home); err != nil {
		return err
	}
	bucket, way, known, err := a.room(home, hash)
	switch {
	case err != nil:
		a.unlock(configHome, home)
		return err
	case known:
		done.Known++
	case way == none:
		done.NoRoom++
	default:
		if err := a.write(bucket, way, hash, s); err != nil {
			return err // with what is locked as it is: as if killed
		}
		done.Adopted++
	}
	if bucket != home {
		a.unlock(configSpill, bucket)
	}
	a.unlock(configHome, home)
	return nil
}

// room finds the bucket and the way that a flow gets, unless it is known. The bucket is locked, as home is.
func (a *adopter) room(home uint32, hash flowHash) (bucket uint32, way int, known bool, err error) {
	way, found := a.bucket(home).find(hash)
	switch {
	case found:
		return home, way, a.isAlive(home, way), nil
	case a.takeSpilled(home, hash):
		return home, none, true, nil
	}
	if way = a.chooseWay(home); way != none {
		return home, way, false, nil
	}
	bucket, way, err = a.roomInSpill(home, hash)
	return bucket, way, false, err
}

// none is no way.
const none = -1

// entry is what the connection's way will hold.
func (a *adopter) entry(s *stranger, hash flowHash) xdplbEntry {
	state := s.State.flowState(s.Service.Protocol)
	timeout := a.table.timeouts.Ticks[state]
	idle := timeout - min(uint32(max(s.Left, 0)>>tickShift), timeout)
	return newEntry(a.table.targets[s.owner.backend.id], state, hash.check(), a.table.now-idle)
}

func (a *adopter) bucket(index uint32) *xdplbBucket { return &a.table.buckets.values[index] }

// find is way_of.
func (b *xdplbBucket) find(hash flowHash) (way int, found bool) {
	for way := range b.Entry {
		if b.holds(way, hash) {
			return way, true
		}
	}
	return none, false
}

// isAlive says whether even a new SYN would follow the entry (is_alive).
func (a *adopter) isAlive(index uint32, way int) bool {
	entry := a.bucket(index).load(way)
	return a.table.isLive(entry) && !entry.isOver()
}

// takeSpilled says whether the flow is alive in the table's second part. A dead one is freed, so that no flow is in the
// table twice (take_spilled).
func (a *adopter) takeSpilled(home uint32, hash flowHash) (known bool) {
	if atomic.LoadUint32(&a.bucket(home).Head)&uint32(xdplbHeadHEAD_SPILLED) == 0 {
		return false
	}
	index := a.d.meta.FlowBuckets + hash.spill(a.d.meta.SpillBuckets)
	way, found := a.bucket(index).find(hash)
	if !found || a.isAlive(index, way) {
		return found
	}
	bucket := a.bucket(index)
	atomic.CompareAndSwapUint64(bucket.entryAt(way), bucket.load(way).word(), 0)
	return false
}

// chooseWay is the way of a locked bucket that a new flow may have: free, else expired or stale, else that of the oldest
// flow of which one packet was seen (choose_way). none: all others are in use.
func (a *adopter) chooseWay(index uint32) int {
	bucket := a.bucket(index)
	free, dead, embryonic, oldest := none, none, none, uint32(0)
	for way := range bucket.Entry {
		entry := bucket.load(way)
		age := ageOf(entry.Status, a.table.now)
		switch {
		case entry == xdplbEntry{}:
			free = way
		case !a.table.isLive(entry):
			dead = way
		case entry.isEmbryonic() && age >= oldest:
			embryonic, oldest = way, age
		}
	}
	for _, way := range []int{free, dead, embryonic} {
		if way != none {
			return way
		}
	}
	return none
}

// roomInSpill finds room in the table's second part. With it, the bucket is locked, and the home bucket, which is locked
// too, says that a flow of its has spilled.
func (a *adopter) roomInSpill(home uint32, hash flowHash) (index uint32, way int, err error) {
	index = a.d.meta.FlowBuckets + hash.spill(a.d.meta.SpillBuckets)
	if err := a.lock(configSpill, index); err != nil {
		return home, none, err
	}
	if way = a.chooseWay(index); way == none {
		a.unlock(configSpill, index)
		return home, none, nil
	}
	head := &a.bucket(home).Head
	for {
		was := atomic.LoadUint32(head)
		noted := was&uint32(xdplbHeadHEAD_LOCKED) | uint32(xdplbHeadHEAD_SPILLED) | a.table.now<<xdplbHeadHEAD_TICK_SHIFT
		if atomic.CompareAndSwapUint32(head, was, noted) {
			return index, way, nil
		}
	}
}

// write puts a connection into a way of a locked bucket: what people want to know of it first, and the entry last, as
// packets follow that from then on.
func (a *adopter) write(index uint32, way int, hash flowHash, s *stranger) error {
	bucket := a.bucket(index)
	atomic.StoreUint64(bucket.entryAt(way), 0)
	if err := a.wrote("emptying a way"); err != nil {
		return err
	}
	origin := &a.table.origins.values[index].Origin[way]
	origin.ClientPort, origin.VipPort = toPort(s.Client.Port()), toPort(s.VIPPort)
	address, family := fromAddr(s.Client.Addr())
	if family == 4 {
		origin.Client = binary.NativeEndian.Uint32(address[:])
	} else {
		a.table.clients6.values[int(index)*len(bucket.Entry)+way].Address = address
	}
	atomic.StoreUint32(&bucket.Tag[way], hash.tag())
	if err := a.wrote("writing a tag"); err != nil {
		return err
	}
	atomic.StoreUint64(bucket.entryAt(way), a.entry(s, hash).word())
	return a.wrote("writing an entry")
}

// wrote lets tests end the process, so to speak, with buckets locked.
func (a *adopter) wrote(what string) error {
	if a.after == nil {
		return nil
	}
	return a.after(what)
}

// lockPatience is how long a bucket may be held by others. Packets hold it for less than a microsecond, but the CPU
// may be a virtual one that does not run.
const lockPatience = 2 * time.Second

// lock takes the program's lock of a bucket, after it has announced that in a word of config.
func (a *adopter) lock(word int, index uint32) error {
	a.d.config.store(word, uint64(index)+1)
	head := &a.bucket(index).Head
	for start := time.Now(); ; time.Sleep(10 * time.Microsecond) {
		for range 64 {
			was := atomic.LoadUint32(head) &^ uint32(xdplbHeadHEAD_LOCKED)
			if atomic.CompareAndSwapUint32(head, was, was|uint32(xdplbHeadHEAD_LOCKED)) {
				return a.wrote("locking a bucket")
			}
		}
		if time.Since(start) > lockPatience {
			a.d.config.store(word, 0)
			return fmt.Errorf("bucket %d of the flow table is locked by others all the time", index)
		}
	}
}

func (a *adopter) unlock(word int, index uint32) {
	atomic.AndUint32(&a.bucket(index).Head, ^uint32(xdplbHeadHEAD_LOCKED))
	a.d.config.store(word, 0)
}
