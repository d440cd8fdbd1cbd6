// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
)

// flowHash is what the program makes of a flow's tuple: flow_hash_t.
type flowHash uint64

// bucket selects the flow's bucket.
func (h flowHash) bucket() uint32 { return uint32(h >> 32) }

// tag is by what the flow is known there.
func (h flowHash) tag() uint32 { return uint32(h) }

// check is more of it, in its place in an entry's status.
func (h flowHash) check() uint32 { return h.bucket() & statusCheck }

// hashFlow is hash_flow4 and hash_flow6 of flow.h. keys are the program's hash_keys.
func hashFlow(keys [len(xdplbMeta{}.HashKeys)]uint64, client, vip netip.AddrPort, protocol uint8) flowHash {
	sum := keys[0]
	for i, word := range flowWords(client, vip, protocol) {
		sum += word * keys[2+i]
	}
	return flowHash((sum ^ sum>>32) * keys[1])
}

// flowWords is what is hashed of a flow; the rest is zero.
func flowWords(client, vip netip.AddrPort, protocol uint8) (words [len(xdplbMeta{}.HashKeys) - 2]uint64) {
	from, family := fromAddr(client.Addr())
	to, _ := fromAddr(vip.Addr())
	if family == 4 {
		service := xdplbService{Address: to, Family: family, Port: toPort(vip.Port()), Protocol: protocol}
		words[0], words[1], words[2] = uint64(binary.NativeEndian.Uint32(from[:])), uint64(toPort(client.Port())), service.word()
		return words
	}
	for i := range 4 {
		words[i] = uint64(binary.NativeEndian.Uint32(from[4*i:]))
		words[4+i] = uint64(binary.NativeEndian.Uint32(to[4*i:]))
	}
	var ports [4]byte
	binary.BigEndian.PutUint16(ports[:2], client.Port())
	binary.BigEndian.PutUint16(ports[2:], vip.Port())
	words[8], words[9] = uint64(binary.NativeEndian.Uint32(ports[:])), uint64(protocol)
	return words
}

// hashFlow is the hash of a client's flow to one of the service's ports.
func (s *service) hashFlow(keys [len(xdplbMeta{}.HashKeys)]uint64, client netip.AddrPort, port uint16) flowHash {
	return hashFlow(keys, client, netip.AddrPortFrom(s.key().Addr.Addr(), port), s.Protocol)
}

// holds says whether there is a flow in a way of the bucket that has the hash.
func (b *xdplbBucket) holds(way int, hash flowHash) bool {
	entry := b.load(way)
	return entry != (xdplbEntry{}) && atomic.LoadUint32(&b.Tag[way]) == hash.tag() && entry.Status&statusCheck == hash.check()
}

// home is the bucket where the flow belongs, among so many (home_of in flow.h).
func (h flowHash) home(buckets uint32) uint32 {
	return uint32(uint64(h.bucket()) * uint64(buckets) >> 32)
}

// spill is the bucket, of so many in the table's second part, that takes it if there is no room at home (spill_of).
func (h flowHash) spill(buckets uint32) uint32 {
	return uint32(uint64(h.tag()^h.bucket()) * uint64(buckets) >> 32)
}
