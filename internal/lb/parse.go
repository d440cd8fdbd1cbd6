// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// ParseServiceKey reads what names a service on the command line and in files: ADDRESS:PORT (an IPv6 address in
// brackets) and a protocol. The error is an ErrInvalid and names the offending word.
func ParseServiceKey(addrport, protocol string) (ServiceKey, error) {
	p, err := ParseProtocol(protocol)
	if err != nil {
		return ServiceKey{}, err
	}
	host, port, err := splitAddrPort(addrport)
	if err != nil {
		return ServiceKey{}, err
	}
	addr, err := ParseVIP(host)
	if err != nil {
		return ServiceKey{}, err
	}
	number, err := parseNumber("port", port, 0, 65535) // 0 is all ports
	if err != nil {
		return ServiceKey{}, err
	}
	return ServiceKey{Addr: netip.AddrPortFrom(addr, uint16(number)), Protocol: p}, nil
}

// splitAddrPort separates ADDRESS:PORT, and takes the brackets off an IPv6 address.
func splitAddrPort(word string) (host, port string, err error) {
	if inside, ok := strings.CutPrefix(word, "["); ok {
		host, port, ok = strings.Cut(inside, "]:")
		if !ok || !strings.Contains(host, ":") {
			return "", "", valuef("service", "%q: want [IPV6-ADDRESS]:PORT", word)
		}
		return host, port, nil
	}
	host, port, ok := strings.Cut(word, ":")
	if !ok {
		return "", "", valuef("service", "%q has no port: want ADDRESS:PORT", word)
	}
	if strings.Contains(port, ":") {
		return "", "", valuef("service", "%q: an IPv6 address needs brackets: want [ADDRESS]:PORT", word)
	}
	return host, port, nil
}

// ParseVIP reads a virtual address: unicast, not loopback, not IPv6 link-local, no zone, and IPv4 not in IPv6 form.
// The error is an ErrInvalid and names the address.
func ParseVIP(word string) (netip.Addr, error) {
	return parseAddr("VIP", word, validateVIP)
}

// ParseBackendAddr reads a real server's address, which must be of the same kind as a VIP, but may be link-local, or a
// loopback address, which is the director itself. The error is an ErrInvalid and names the address.
func ParseBackendAddr(word string) (netip.Addr, error) {
	return parseAddr("backend", word, validateBackendAddr)
}

func validateBackendAddr(addr netip.Addr) error {
	if addr.IsLoopback() && addr.Zone() == "" && !addr.Is4In6() {
		return nil
	}
	return validateUnicast("backend", addr)
}

func parseAddr(role, word string, validate func(netip.Addr) error) (netip.Addr, error) {
	addr, err := netip.ParseAddr(word)
	if err != nil {
		return netip.Addr{}, valuef(role, "%q is not an IP address", word)
	}
	if err := validate(addr); err != nil {
		return netip.Addr{}, err
	}
	return addr, nil
}

// validateVIP refuses what a backend's address may not be either, and IPv6 link-local addresses: the kernel takes them
// only on the interface that has them (net/ipv6/route.c, rt6_need_strict), not those of lo on another.
func validateVIP(addr netip.Addr) error {
	if addr.Is6() && addr.IsLinkLocalUnicast() {
		return valuef("VIP", "%s is a link-local address: real servers, which have it on lo, would not take packets for it", addr)
	}
	return validateUnicast("VIP", addr)
}

// validateUnicast refuses every address that cannot be a host's on a network; role begins the message.
func validateUnicast(role string, addr netip.Addr) error {
	switch {
	case !addr.IsValid():
		return valuef(role, "has no address")
	case addr.Zone() != "":
		return valuef(role, "%s: a zone cannot be given, the interface is found by the route", addr)
	case addr.Is4In6():
		return valuef(role, "%s is an IPv4 address in IPv6 form: write %s", addr, addr.Unmap())
	case addr.IsUnspecified():
		return valuef(role, "%s is the unspecified address", addr)
	case addr.IsLoopback():
		return valuef(role, "%s is a loopback address", addr)
	case addr.IsMulticast():
		return valuef(role, "%s is a multicast address", addr)
	case addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return valuef(role, "%s is the broadcast address", addr)
	}
	return nil
}

// ParsePort reads a port in decimal, 1 to 65535. The error is an ErrInvalid and names the word.
func ParsePort(word string) (uint16, error) {
	n, err := parseNumber("port", word, 1, 65535)
	return uint16(n), err
}

// ParsePersistence reads for how many seconds a client stays with its backend, up to MaxPersistence; 0 is not at all. The
// error is an ErrInvalid and names the word.
func ParsePersistence(word string) (time.Duration, error) {
	n, err := parseNumber("persistence", word, 0, int64(MaxPersistence/time.Second))
	return time.Duration(n) * time.Second, err
}

// ParseGranularity reads how many leading bits of an address make a client: a number, or an IPv4 netmask. Whether there
// are so many depends on the service. The error is an ErrInvalid and names the word.
func ParseGranularity(word string) (uint8, error) {
	if length := strings.TrimPrefix(word, "/"); length != "" && strings.Trim(length, "0123456789") == "" {
		n, err := parseNumber("prefix length", length, 0, 128)
		return uint8(n), err
	}
	mask, err := netip.ParseAddr(word)
	if err != nil || !mask.Is4() {
		return 0, valuef("netmask", "%q: want one such as 255.255.255.0, or a prefix length", word)
	}
	bytes := mask.As4()
	ones, bits := net.IPMask(bytes[:]).Size()
	if bits == 0 {
		return 0, valuef("netmask", "%q is not leading ones and then zeros", word)
	}
	return uint8(ones), nil
}

// ParseWeight reads a weight in decimal, 0 to MaxWeight. The error is an ErrInvalid and names the word.
func ParseWeight(word string) (uint32, error) {
	n, err := parseNumber("weight", word, 0, MaxWeight)
	return uint32(n), err
}

// ParseThreshold reads a number of connections in decimal, 0 to MaxThreshold. The error is an ErrInvalid and names the word.
func ParseThreshold(word string) (uint32, error) {
	n, err := parseNumber("threshold", word, 0, MaxThreshold)
	return uint32(n), err
}

// ParseTimeout reads an idle timeout in seconds, 1 to MaxTimeout. The error is an ErrInvalid and names
// the word.
func ParseTimeout(word string) (time.Duration, error) {
	n, err := parseNumber("timeout", word, 1, int64(MaxTimeout/time.Second))
	return time.Duration(n) * time.Second, err
}

// ParseMAC reads the 48-bit MAC address of one host. The error is an ErrInvalid and names the word.
func ParseMAC(word string) ([6]byte, error) {
	mac, err := net.ParseMAC(word)
	if err != nil || len(mac) != 6 {
		return [6]byte{}, valuef("MAC", "%q: want six bytes such as 02:00:00:00:00:08", word)
	}
	if [6]byte(mac) == [6]byte{} || mac[0]&1 != 0 {
		return [6]byte{}, valuef("MAC", "%s is not the address of one host", mac)
	}
	return [6]byte(mac), nil
}

// ParseVLAN reads the id of a VLAN in decimal, 1 to MaxVLAN. The error is an ErrInvalid and names the word.
func ParseVLAN(word string) (uint16, error) {
	n, err := parseNumber("VLAN", word, 1, MaxVLAN)
	return uint16(n), err
}

// parseNumber reads a decimal number of min..max. What is a number shows bare in the error, anything else quoted.
func parseNumber(what, word string, min, max int64) (int64, error) {
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || strings.HasPrefix(word, "+") {
		return 0, valuef(what, "%q: want %d to %d", word, min, max)
	}
	if n < min || n > max {
		return 0, valuef(what, "%s: want %d to %d", word, min, max)
	}
	return n, nil
}
