// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"time"

	"xdplb/internal/lb"
)

// This file is the only place where byte order changes: keys hold addresses and ports as they are on the wire, whatever
// integer types C gives them.

// setKey writes a service's key into its value.
func (s *xdplbService) setKey(key lb.ServiceKey) {
	s.Address, s.Family = fromAddr(key.Addr.Addr())
	s.Port = toPort(key.Addr.Port())
	s.Protocol = uint8(key.Protocol)
}

// key reads it back.
func (s *xdplbService) key() lb.ServiceKey {
	return lb.ServiceKey{
		Addr:     netip.AddrPortFrom(toAddr(s.Address, s.Family), fromPort(s.Port)),
		Protocol: lb.Protocol(s.Protocol),
	}
}

// setPersistence writes how a service keeps its clients.
func (s *xdplbService) setPersistence(p lb.Persistence) {
	s.Persistence, s.Prefix = uint32(p.Timeout/time.Second), p.Prefix
	if p.ExpireQuiescent {
		s.Persistence |= uint32(xdplbPersistencePERSISTENCE_EXPIRES_QUIESCENT)
	}
}

// persistence reads it back.
func (s *xdplbService) persistence() lb.Persistence {
	return lb.Persistence{
		Timeout:         time.Duration(s.Persistence&uint32(xdplbPersistencePERSISTENCE_SECONDS)) * time.Second,
		Prefix:          s.Prefix,
		ExpireQuiescent: s.Persistence&uint32(xdplbPersistencePERSISTENCE_EXPIRES_QUIESCENT) != 0,
	}
}

func (s *xdplbService) isPersistent() bool { return s.Persistence != 0 }

// head is the service without its backends, as far as its name, its ports and its persistence go.
func (s *xdplbService) head(ports lb.Ports) lb.Service {
	return lb.Service{ServiceKey: s.key(), Ports: ports, Persistence: s.persistence()}
}

// dataPorts are ports that a service gets if no other has them; ports are its own, if there are several.
func (s *xdplbService) dataPorts(ports lb.Ports) []lb.PortRange {
	if s.Id == 0 {
		return nil
	}
	head := s.head(ports)
	return head.DataPorts()
}

// templateKey is the key of a client's template: masked in persist.h.
func (s *xdplbService) templateKey(client netip.Addr) xdplbTemplateKey {
	key := xdplbTemplateKey{Service: s.Id, Prefix: s.Prefix}
	key.Client, _ = fromAddr(netip.PrefixFrom(client, int(s.Prefix)).Masked().Addr())
	return key
}

// Bits of a service's key word (types.h).
const (
	keyProtocolShift = 48
	keyIP4           = 1 << 62
	keyIP6           = 1 << 63
)

// word is the key by which packets find the service: service_key4 and service_key6 in service.h.
func (s *xdplbService) word() uint64 {
	low := uint64(binary.NativeEndian.Uint32(s.Address[:4]))
	if s.Family == 4 {
		return keyIP4 | uint64(s.Protocol)<<keyProtocolShift | uint64(s.Port)<<32 | low
	}
	low, high := binary.NativeEndian.Uint64(s.Address[:8]), binary.NativeEndian.Uint64(s.Address[8:])
	return keyIP6 | (low*mix1+high*mix2+(uint64(s.Protocol)<<16|uint64(s.Port))*mix3)>>1
}

// rangeKey is the key by which the service's address and protocol stand in port_ranges.
func (s xdplbService) rangeKey() uint64 {
	s.Port = 0
	return s.word()
}

// Factors of schedule.h.
const (
	mix1 = 0xbf58476d1ce4e5b9
	mix2 = 0x94d049bb133111eb
	mix3 = 0x9e3779b97f4a7c15
)

// mix is that of schedule.h.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= mix1
	x ^= x >> 27
	x *= mix2
	return x ^ x>>31
}

// hashClient is hash_client of schedule.h.
func (s *xdplbService) hashClient(client netip.AddrPort) uint32 {
	port := uint64(0)
	if xdplbSchedulerFlag(s.Flags)&xdplbSchedulerFlagFLAG_HASH_PORT != 0 {
		port = uint64(toPort(client.Port())) << 32
	}
	if client.Addr().Is4() {
		address := client.Addr().As4()
		return uint32(mix(port | uint64(binary.NativeEndian.Uint32(address[:]))))
	}
	address := client.Addr().As16()
	word := func(i int) uint64 { return uint64(binary.NativeEndian.Uint32(address[4*i:])) }
	return uint32(mix(port ^ (word(0)<<32 | word(1)) ^ mix(word(2)<<32|word(3))))
}

func toPort(port uint16) uint16 {
	var wire [2]byte
	binary.BigEndian.PutUint16(wire[:], port)
	return binary.NativeEndian.Uint16(wire[:])
}

func fromPort(port uint16) uint16 {
	var wire [2]byte
	binary.NativeEndian.PutUint16(wire[:], port)
	return binary.BigEndian.Uint16(wire[:])
}

// fromAddr gives IPv4 in the first four bytes, and the family.
func fromAddr(addr netip.Addr) (bytes [16]byte, family uint8) {
	if !addr.Is4() {
		return addr.As16(), 6
	}
	address := addr.As4()
	copy(bytes[:], address[:])
	return bytes, 4
}

func toAddr(bytes [16]byte, family uint8) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte(bytes[:4]))
	}
	return netip.AddrFrom16(bytes)
}

// columns are the cold columns of a backend of the service with an id.
func (b *backend) columns(service uint32) xdplbBackendColumns {
	columns := xdplbBackendColumns{Service: service, Weight: b.Weight, Upper: b.Upper, Lower: b.Lower, Base: b.base}
	columns.Address, columns.Family = fromAddr(b.Addr)
	if b.Hop.Static {
		columns.StaticHop = 1
	}
	if b.listed {
		columns.Listed = 1
	}
	if b.draining {
		columns.Draining = 1
	}
	return columns
}

// fromColumns leaves the hop's address and interface out: they are live words.
func fromColumns(columns *xdplbBackendColumns) lb.Backend {
	return lb.Backend{
		Addr:   toAddr(columns.Address, columns.Family),
		Weight: columns.Weight,
		Upper:  columns.Upper,
		Lower:  columns.Lower,
		Hop:    lb.NextHop{Static: columns.StaticHop != 0},
	}
}
