// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"xdplb/internal/lb"
)

// maxLine bounds a line, in bytes.
const maxLine = 64 << 10

// Parse reads a saved configuration: lines of ipvsadm's options, which are done one after the other on an empty state.
// Blank lines, comments (from a word that begins with # to the end), carriage returns and a leading word "ipvsadm" are
// allowed. Next hops are left unknown.
//
// One line that cannot be done makes the whole input an error, which begins "line N: "; ipvsadm would stop half way.
func Parse(r io.Reader) (lb.State, error) {
	var state lb.State
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 1
	for ; lines.Scan(); n++ {
		if err := runLine(&state, lines.Text()); err != nil {
			return lb.State{}, fmt.Errorf("line %d: %w", n, err)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return lb.State{}, fmt.Errorf("line %d: longer than %d bytes", n, maxLine)
	case err != nil:
		return lb.State{}, fmt.Errorf("line %d: %w", n, err)
	}
	return state, nil
}

// runLine does one line to the state.
func runLine(state *lb.State, line string) error {
	words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' })
	if i := slices.IndexFunc(words, func(word string) bool { return strings.HasPrefix(word, "#") }); i >= 0 {
		words = words[:i]
	}
	if len(words) == 0 {
		return nil
	}
	if words[0] == "ipvsadm" {
		words = words[1:]
	}
	command, opts, err := readOptions(words)
	if err != nil {
		return err
	}
	switch command {
	case "-C":
		if err := opts.allow(command); err != nil {
			return err
		}
		*state = lb.State{}
		return nil
	case "-A", "-E", "-D":
		return runService(state, command, opts)
	}
	return runServer(state, command, opts)
}

// runService does -A, -E and -D.
func runService(state *lb.State, command string, opts given) error {
	allowed := []string{"-t", "-u", "-s"}
	if command == "-D" {
		allowed = allowed[:2]
	}
	if err := opts.allow(command, allowed...); err != nil {
		return err
	}
	key, err := opts.service(command)
	if err != nil {
		return err
	}
	if command == "-D" {
		return state.DeleteService(key)
	}
	scheduler, err := opts.scheduler()
	if err != nil {
		return err
	}
	if command == "-A" {
		return state.AddService(lb.Service{ServiceKey: key, Scheduler: scheduler})
	}
	return state.SetService(key, func(s *lb.Service) error {
		s.Scheduler = scheduler
		return nil
	})
}

// runServer does -a, -e and -d.
func runServer(state *lb.State, command string, opts given) error {
	allowed := []string{"-t", "-u", "-r", "-g", "-w"}
	if command == "-d" {
		allowed = allowed[:3]
	}
	if err := opts.allow(command, allowed...); err != nil {
		return err
	}
	key, err := opts.service(command)
	if err != nil {
		return err
	}
	addr, err := opts.server(command, key)
	if err != nil {
		return err
	}
	if command == "-d" {
		return state.DeleteBackend(key, addr)
	}
	weight := uint32(1) // LVS's default, for -e too
	if word, ok := opts["-w"]; ok {
		if weight, err = lb.ParseWeight(word); err != nil {
			return err
		}
	}
	if command == "-a" {
		return state.AddBackend(key, lb.Backend{Addr: addr, Weight: weight})
	}
	return state.SetBackend(key, addr, func(b *lb.Backend) error {
		b.Weight = weight
		return nil
	})
}

// allow refuses options that the command does not have.
func (g given) allow(command string, allowed ...string) error {
	for _, o := range options { // in a fixed order, so that the message is always the same
		if _, ok := g[o.name()]; ok && !slices.Contains(allowed, o.name()) {
			return fmt.Errorf("%s does not go with %s", o.name(), command)
		}
	}
	return nil
}

// service is the service that -t or -u names.
func (g given) service(command string) (lb.ServiceKey, error) {
	tcp, isTCP := g["-t"]
	udp, isUDP := g["-u"]
	switch {
	case isTCP && isUDP:
		return lb.ServiceKey{}, fmt.Errorf("-t and -u: want one service")
	case isTCP:
		return parseService(tcp, lb.TCP)
	case isUDP:
		return parseService(udp, lb.UDP)
	}
	return lb.ServiceKey{}, fmt.Errorf("%s needs -t or -u and a service", command)
}

func parseService(word string, protocol lb.Protocol) (lb.ServiceKey, error) {
	key, err := lb.ParseServiceKey(word, protocol.String())
	return key, hintNumeric(word, err)
}

// hintNumeric adds to an error about a word that holds a host's or a port's name how to save without names.
func hintNumeric(word string, err error) error {
	isName := func(r rune) bool { return r >= 'g' && r <= 'z' || r >= 'G' && r <= 'Z' }
	if err == nil || !strings.ContainsFunc(word, isName) {
		return err
	}
	return fmt.Errorf("%w (names are not looked up: save with ipvsadm -S -n)", err)
}

func (g given) scheduler() (lb.Scheduler, error) {
	word, ok := g["-s"]
	if !ok {
		return 0, fmt.Errorf("no -s: LVS's default is wlc, which xdplb does not have yet; want -s rr, wrr, sh or mh")
	}
	return lb.ParseScheduler(word)
}

// server is the real server that -r names, whose port must be the service's: LVS replaces any other without a word.
func (g given) server(command string, key lb.ServiceKey) (netip.Addr, error) {
	word, ok := g["-r"]
	if !ok {
		return netip.Addr{}, fmt.Errorf("%s needs -r and a real server", command)
	}
	host, port, hasPort := splitServer(word)
	addr, err := lb.ParseBackendAddr(host)
	if err != nil || !hasPort {
		return addr, hintNumeric(word, err)
	}
	number, err := lb.ParsePort(port)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("real server %s: %w", word, hintNumeric(word, err))
	}
	if number != key.Addr.Port() {
		return netip.Addr{}, fmt.Errorf("real server %s: port %d is not the service's %d, and direct routing (-g) cannot change it",
			word, number, key.Addr.Port())
	}
	return addr, nil
}

// splitServer takes ADDRESS, ADDRESS:PORT, [ADDRESS] or [ADDRESS]:PORT apart.
func splitServer(word string) (host, port string, hasPort bool) {
	if inside, ok := strings.CutPrefix(word, "["); ok {
		if host, ok := strings.CutSuffix(inside, "]"); ok {
			return host, "", false
		}
		if host, port, ok := strings.Cut(inside, "]:"); ok {
			return host, port, true
		}
		return word, "", false
	}
	if strings.Count(word, ":") > 1 {
		return word, "", false
	}
	return strings.Cut(word, ":")
}
