// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"

	"xdplb/internal/lb"
)

// This file is the only place where byte order changes: keys hold addresses and ports as they are on the wire, whatever
// integer types C gives them.

func toKey4(key lb.ServiceKey) xdplbServiceKey4 {
	address := key.Addr.Addr().As4()
	return xdplbServiceKey4{
		Address:  binary.NativeEndian.Uint32(address[:]),
		Port:     toPort(key.Addr.Port()),
		Protocol: uint8(key.Protocol),
	}
}

func fromKey4(key xdplbServiceKey4) lb.ServiceKey {
	var address [4]byte
	binary.NativeEndian.PutUint32(address[:], key.Address)
	return lb.ServiceKey{
		Addr:     netip.AddrPortFrom(netip.AddrFrom4(address), fromPort(key.Port)),
		Protocol: lb.Protocol(key.Protocol),
	}
}

func toKey6(key lb.ServiceKey) xdplbServiceKey6 {
	return xdplbServiceKey6{
		Address:  key.Addr.Addr().As16(),
		Port:     toPort(key.Addr.Port()),
		Protocol: uint8(key.Protocol),
	}
}

func fromKey6(key xdplbServiceKey6) lb.ServiceKey {
	return lb.ServiceKey{
		Addr:     netip.AddrPortFrom(netip.AddrFrom16(key.Address), fromPort(key.Port)),
		Protocol: lb.Protocol(key.Protocol),
	}
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

// columns are the cold columns of a backend of the service with an id.
func (b *backend) columns(service uint32) xdplbBackendColumns {
	columns := xdplbBackendColumns{Service: service, Weight: b.Weight, Family: 4}
	if b.Addr.Is4() {
		address := b.Addr.As4()
		copy(columns.Address[:], address[:])
	} else {
		columns.Family = 6
		columns.Address = b.Addr.As16()
	}
	if b.Hop.Static {
		columns.StaticHop = 1
	}
	if b.listed {
		columns.Listed = 1
	}
	return columns
}

// fromColumns leaves the hop's address and interface out: they are live words.
func fromColumns(columns xdplbBackendColumns) lb.Backend {
	address := netip.AddrFrom16(columns.Address)
	if columns.Family == 4 {
		address = netip.AddrFrom4([4]byte(columns.Address[:4]))
	}
	return lb.Backend{Addr: address, Weight: columns.Weight, Hop: lb.NextHop{Static: columns.StaticHop != 0}}
}
