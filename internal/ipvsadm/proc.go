// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"xdplb/internal/lb"
)

// SaveProc writes a running LVS's table, as /proc/net/ip_vs has it (ip_vs_info_seq_show in the kernel's ip_vs_ctl.c), in
// the save format: each line in place of the one that says the same, headings as blank lines. Scheduler flags and
// thresholds do not show there. The time of persistence does in the kernel's ticks, of which one has the length that is
// given. A line that is none of the kernel's stays as it is. The error is the reader's.
func SaveProc(r io.Reader, tick time.Duration) (string, error) {
	var out strings.Builder
	service, next := "", 1
	err := eachLine(r, func(line int, text string) {
		out.WriteString(strings.Repeat("\n", line-next))
		next = line + 1
		out.WriteString(saveProcLine(text, tick, &service) + "\n")
	})
	return out.String(), err
}

// saveProcLine translates a line. service is the option that names the service whose lines these are.
func saveProcLine(text string, tick time.Duration, service *string) string {
	words := strings.Fields(text)
	switch {
	case strings.HasPrefix(text, "IP Virtual Server version"), words[0] == "Prot", strings.HasPrefix(text, "-> RemoteAddress"):
		return ""
	case words[0] == "->" && len(words) >= 4:
		server, ok := procAddrPort(words[1])
		forward := map[string]string{"Route": "-g", "Local": "-g", "Tunnel": "-i", "Masq": "-m"}[words[2]]
		if ok && forward != "" {
			return fmt.Sprintf("-a %s -r %s %s -w %s", *service, server, forward, words[3])
		}
	case len(words) >= 3:
		if name, ok := procService(words[0], words[1]); ok {
			*service = name
			return fmt.Sprintf("-A %s -s %s%s", name, words[2], procOptions(words[3:], tick, strings.Contains(words[1], "[")))
		}
	}
	return text
}

// procService is the option that names a service.
func procService(protocol, word string) (string, bool) {
	if protocol == "FWM" {
		mark, err := strconv.ParseUint(word, 16, 32)
		return fmt.Sprintf("-f %d", mark), err == nil
	}
	option, known := map[string]string{"TCP": "-t", "UDP": "-u", "SCTP": "--sctp-service"}[protocol]
	at, ok := procAddrPort(word)
	return option + " " + at.String(), known && ok
}

// procOptions are those behind the scheduler: "ops", and "persistent", its ticks, and the netmask or, of IPv6, the
// prefix length, whose bytes are swapped on the machines that are little-endian.
func procOptions(words []string, tick time.Duration, is6 bool) (options string) {
	if len(words) > 0 && words[0] == "ops" {
		words, options = words[1:], " -o"
	}
	if len(words) < 3 || words[0] != "persistent" {
		return options
	}
	ticks, _ := strconv.ParseUint(words[1], 10, 32)
	seconds := (time.Duration(ticks) * tick).Round(time.Second) / time.Second
	mask, _ := strconv.ParseUint(words[2], 16, 32)
	if is6 {
		return fmt.Sprintf(" -p %d -M %d%s", seconds, max(mask>>24, mask&0xff), options)
	}
	address := netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)})
	return fmt.Sprintf(" -p %d -M %s%s", seconds, address, options)
}

// procAddrPort reads C0A83C64:0050 and [2001:0db8:...:0064]:0050.
func procAddrPort(word string) (netip.AddrPort, bool) {
	at := strings.LastIndexByte(word, ':')
	if at < 0 {
		return netip.AddrPort{}, false
	}
	return procAddr(strings.Trim(word[:at], "[]"), word[at+1:])
}

// procAddr reads an address and a port as the kernel prints them: hexadecimal, and IPv6 with all its digits.
func procAddr(addr, port string) (netip.AddrPort, bool) {
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	if strings.Contains(addr, ":") {
		parsed, err := netip.ParseAddr(addr)
		return netip.AddrPortFrom(parsed, uint16(number)), err == nil && parsed.Is6() && parsed.Zone() == ""
	}
	bytes, err := hex.DecodeString(addr)
	if err != nil || len(bytes) != 4 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(bytes)), uint16(number)), true
}

// ReadConnections reads the connections of an LVS, from "ipvsadm -L -n -c" or from /proc/net/ip_vs_conn
// (ip_vs_conn_seq_show in the kernel's ip_vs_conn.c), and visits each line but the headings, with an error if it is no
// connection. What persistence engines add to a line is left out. The error is the reader's.
func ReadConnections(r io.Reader, visit func(line int, text string, c Connection, err error)) error {
	return eachLine(r, func(line int, text string) {
		words := strings.Fields(text)
		if words[0] == "IPVS" || words[0] == "pro" || words[0] == "Pro" {
			return
		}
		c, err := readConnection(words)
		visit(line, text, c, err)
	})
}

func readConnection(words []string) (c Connection, err error) {
	if len(words) < 6 {
		return c, fmt.Errorf("not a connection: %d words", len(words))
	}
	// A template of a firewall mark has protocol IP.
	if c.Protocol, err = lb.ParseProtocol(words[0]); err != nil && words[0] != "IP" {
		return c, err
	}
	if left, ok := readLeft(words[1]); ok {
		return c, c.readListed(left, words)
	}
	return c, c.readProc(words)
}

// readLeft reads minutes and seconds.
func readLeft(word string) (time.Duration, bool) {
	minutes, seconds, found := strings.Cut(word, ":")
	m, errM := strconv.ParseUint(minutes, 10, 32)
	s, errS := strconv.ParseUint(seconds, 10, 8)
	return time.Duration(m)*time.Minute + time.Duration(s)*time.Second, found && errM == nil && errS == nil && s < 60
}

// readListed reads a row of the listing.
func (c *Connection) readListed(left time.Duration, words []string) (err error) {
	c.Left, c.State = left, words[2]
	for i, to := range []*netip.AddrPort{&c.Client, &c.VIP, &c.Backend} {
		if *to, err = netip.ParseAddrPort(words[3+i]); err != nil || to.Addr().Zone() != "" {
			return fmt.Errorf("%q is no address and port: list the connections with ipvsadm -L -n -c, without names", words[3+i])
		}
	}
	return nil
}

// readProc reads a row of /proc/net/ip_vs_conn.
func (c *Connection) readProc(words []string) error {
	if len(words) < 9 {
		return fmt.Errorf("not a connection: %d words", len(words))
	}
	for i, to := range []*netip.AddrPort{&c.Client, &c.VIP, &c.Backend} {
		var ok bool
		if *to, ok = procAddr(words[1+2*i], words[2+2*i]); !ok {
			return fmt.Errorf("%s %s is no address and port", words[1+2*i], words[2+2*i])
		}
	}
	seconds, err := strconv.ParseUint(words[8], 10, 31)
	if err != nil {
		return fmt.Errorf("%q is no number of seconds", words[8])
	}
	c.State, c.Left = words[7], time.Duration(seconds)*time.Second
	return nil
}
