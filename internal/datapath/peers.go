// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"xdplb/internal/lb"
)

// havePeers is the bit of a service's flags that says so.
const havePeers = uint8(xdplbSchedulerFlagFLAG_PEERS)

// hasPeers says whether the director is a backend of the service, and others are, or drain, that may be directors too: what
// they send here they have scheduled (struct peer in types.h).
func (s *service) hasPeers() bool {
	local, others := false, false
	for _, b := range s.all() {
		local = local || b.Hop.Local && !b.draining
		others = others || b.Hop.MAC != lb.NextHop{}.MAC
	}
	return local && others
}

// peersOf are the peers of a side, each with the id of the backend that is the director.
func (d *Datapath) peersOf(n uint32) map[xdplbPeer]uint32 {
	self := make(map[uint32]uint32) // by service id; 0: not found yet
	services := d.services.side(n)
	for place := range services {
		if services[place].Flags&havePeers != 0 {
			self[services[place].Id] = 0
		}
	}
	peers := make(map[xdplbPeer]uint32)
	if len(self) == 0 {
		return peers
	}
	info := d.info.side(n)
	for id := range info {
		_, wanted := self[info[id].Service]
		if info[id].Family == 0 || !wanted {
			continue
		}
		switch hop := d.backends.get(uint32(id)).NextHop; {
		case hop.Egress == uint16(xdplbEgressIndexEGRESS_LOCAL) && info[id].Draining == 0:
			self[info[id].Service] = uint32(id)
		case hop.Mac != [6]byte{}:
			peers[xdplbPeer{Mac: hop.Mac, Service: info[id].Service}] = 0
		}
	}
	for peer := range peers {
		peers[peer] = self[peer.Service]
	}
	return peers
}

// addPeers adds the peers of a side, beside those of the other.
func (d *Datapath) addPeers(n uint32) error {
	for peer, self := range d.peersOf(n) {
		if err := d.maps.Peers.Put(peer, self); err != nil {
			return fmt.Errorf("noting the other backends of services with a local one, of which there may be %d: %w",
				d.maps.Peers.MaxEntries(), err)
		}
	}
	return nil
}

// syncPeers makes the peers those of a side.
func (d *Datapath) syncPeers(n uint32) error {
	wanted := d.peersOf(n)
	var gone []xdplbPeer
	var peer xdplbPeer
	var self uint32
	all := d.maps.Peers.Iterate()
	for all.Next(&peer, &self) {
		if _, stays := wanted[peer]; !stays {
			gone = append(gone, peer)
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading the peers: %w", err)
	}
	for _, peer := range gone {
		if err := d.maps.Peers.Delete(peer); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forgetting a peer: %w", err)
		}
	}
	return d.addPeers(n)
}
