// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// words is the memory of an array map, shared with the program, as aligned 64-bit words. The kernel copies values of
// the update system call in pieces that a packet may see half of; a word that is stored whole is seen whole.
type words struct {
	memory []byte
}

// mapWords maps the memory of an array map (BPF_F_MMAPABLE) into the process.
func mapWords(m *ebpf.Map) (*words, error) {
	// The kernel pads each value to eight bytes, and the whole to pages (array_map_alloc in kernel/bpf/arraymap.c).
	size := int(m.MaxEntries()) * ((int(m.ValueSize()) + 7) &^ 7)
	page := os.Getpagesize()
	size = (size + page - 1) / page * page
	memory, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the memory of %s: %w", m, err)
	}
	return &words{memory}, nil
}

func (w *words) close() error {
	if w == nil || w.memory == nil {
		return nil
	}
	memory := w.memory
	w.memory = nil
	return unix.Munmap(memory)
}

func (w *words) at(i int) *uint64 {
	return (*uint64)(unsafe.Pointer(&w.memory[i*8 : i*8+8][0]))
}

func (w *words) load(i int) uint64 {
	return atomic.LoadUint64(w.at(i))
}

func (w *words) store(i int, word uint64) {
	atomic.StoreUint64(w.at(i), word)
}

// pair is what types.h keeps in two words: an aligned struct of 16 bytes.
type pair interface {
	xdplbBackend | xdplbEgress | xdplbInterface | xdplbLoad
}

// split gives the two words of a value, join the value of two words.
func split[T pair](value T) (w [2]uint64) {
	*(*T)(unsafe.Pointer(&w)) = value
	return w
}

func join[T pair](w [2]uint64) T {
	return *(*T)(unsafe.Pointer(&w))
}

// pairs is an array map whose values are pairs.
type pairs[T pair] struct {
	*words
	count uint32
}

func mapPairs[T pair](m *ebpf.Map) (pairs[T], error) {
	w, err := mapWords(m)
	return pairs[T]{w, m.MaxEntries()}, err
}

func (p pairs[T]) get(i uint32) T {
	return join[T]([2]uint64{p.load(int(2 * i)), p.load(int(2*i + 1))})
}

// put stores both words, each whole. Where somebody may be reading, only one of them may differ.
func (p pairs[T]) put(i uint32, value T) {
	w := split(value)
	for n := range w {
		if at := int(2*i) + n; p.load(at) != w[n] {
			p.store(at, w[n])
		}
	}
}

// array is the memory of an array map as values. Who reads or writes what packets use goes by words instead.
type array[T any] struct {
	*words
	values []T
}

func mapArray[T any](m *ebpf.Map) (array[T], error) {
	var value T
	if have := uint32(unsafe.Sizeof(value)); have != m.ValueSize() || have%8 != 0 {
		return array[T]{}, fmt.Errorf("mapping the memory of %s: its values have %d bytes, want %d", m, m.ValueSize(), have)
	}
	w, err := mapWords(m)
	if err != nil {
		return array[T]{}, err
	}
	return array[T]{w, unsafe.Slice((*T)(unsafe.Pointer(&w.memory[0])), m.MaxEntries())}, nil
}

// side is one of the two parts of a map that has two sides, one behind the other.
func (a array[T]) side(n uint32) []T {
	half := uint32(len(a.values) / 2)
	return a.values[n*half : (n+1)*half : (n+1)*half]
}
