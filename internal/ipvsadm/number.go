// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"math"
	"net/netip"
	"strconv"
	"strings"

	"xdplb/internal/lb"
)

// Names finds what a command line may say in place of numbers. A nil function finds nothing.
type Names struct {
	Host func(name string) (netip.Addr, bool) // its IPv4 address
	Port func(name string, protocol lb.Protocol) (uint16, bool)
}

func (n Names) host(name string) (netip.Addr, bool) {
	if n.Host == nil {
		return netip.Addr{}, false
	}
	return n.Host(name)
}

func (n Names) port(name string, protocol lb.Protocol) (uint16, bool) {
	if n.Port == nil {
		return 0, false
	}
	return n.Port(name, protocol)
}

// spaces are what C's isspace is true for.
const spaces = " \t\n\v\f\r"

// number reads as C's strtol does, with blanks and a sign before the digits, and wants nothing behind them.
func number(word string, least, most int64) (int64, bool) {
	n, rest, ok := leadingNumber(word)
	return n, ok && rest == "" && n >= least && n <= most
}

// leadingNumber reads a number as C's strtol does, and returns what is behind it. It is not ok without a digit.
func leadingNumber(word string) (n int64, rest string, ok bool) {
	word = strings.TrimLeft(word, spaces)
	end := 0
	if strings.HasPrefix(word, "-") || strings.HasPrefix(word, "+") {
		end++
	}
	digits := end
	for end < len(word) && isDigit(word[end]) {
		end++
	}
	if end == digits {
		return 0, word, false
	}
	n, _ = strconv.ParseInt(word[:end], 10, 64) // out of range: the largest or smallest, as in C
	return n, word[end:], true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// allDigits is true for "" too.
func allDigits(word string) bool {
	return strings.Trim(word, "0123456789") == ""
}

// parseIPv4 reads an address as C's inet_aton does: one to four numbers, decimal, octal (0...) or hexadecimal (0x...),
// the last of which fills what bytes remain; blanks may follow.
func parseIPv4(word string) (netip.Addr, bool) {
	if i := strings.IndexAny(word, spaces); i >= 0 {
		word = word[:i]
	}
	parts := strings.Split(word, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var value uint64
	for i, part := range parts {
		n, ok := parseC(part)
		most := uint64(math.MaxUint8)
		if i == len(parts)-1 {
			most = math.MaxUint32 >> (8 * i)
		}
		if !ok || n > most {
			return netip.Addr{}, false
		}
		if i < len(parts)-1 {
			value |= n << (24 - 8*i)
		} else {
			value |= n
		}
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

// parseC reads a number in C's notation, without a sign.
func parseC(word string) (uint64, bool) {
	base := 10
	switch {
	case len(word) > 2 && (word[:2] == "0x" || word[:2] == "0X"):
		base, word = 16, word[2:]
	case len(word) > 1 && word[0] == '0':
		base = 8
	}
	n, err := strconv.ParseUint(word, base, 32)
	return n, err == nil
}

// endpoint is an address and a port as words name them.
type endpoint struct {
	addr    netip.Addr
	port    uint16
	hasPort bool
}

// parseEndpoint reads ADDRESS, ADDRESS:PORT, an IPv6 address or [ADDRESS]:PORT; IPv4 addresses and ports may be names.
// An IPv4 address in brackets loses its port, as in ipvsadm.
func parseEndpoint(word string, protocol lb.Protocol, names Names) (e endpoint, ok bool) {
	if allDigits(word) {
		return e, false
	}
	host, port := word, ""
	inside, bracket := strings.CutPrefix(word, "[")
	if bracket {
		if host, port, ok = strings.Cut(inside, "]"); !ok || !strings.HasPrefix(port, ":") {
			return e, false
		}
		port = port[1:]
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() && addr.Zone() == "" {
		e.addr, e.hasPort = addr, bracket
	} else {
		port = ""
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			host, port, e.hasPort = host[:i], host[i+1:], true
		}
		if e.addr, ok = parseIPv4(host); !ok {
			e.addr, ok = names.host(host)
		}
		if !ok {
			return e, false
		}
	}
	if !e.hasPort {
		return e, true
	}
	if n, ok := number(port, 0, math.MaxUint16); ok {
		e.port = uint16(n)
		return e, true
	}
	e.port, ok = names.port(port, protocol)
	return e, ok
}
