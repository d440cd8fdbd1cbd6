// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"xdplb/internal/lb"
)

// ParseCommand reads a command line, of which the first word is the program's name. No further word is "list". The
// error is a *Failure in ipvsadm's words, or one in xdplb's about what only ipvsadm has.
func ParseCommand(words []string, names Names) (Command, error) {
	if len(words) < 2 {
		return Command{Verb: VerbList}, nil
	}
	p := &parser{words: reader{words: words[1:]}, names: names, mask: netip.PrefixFrom(netip.IPv4Unspecified(), 32)}
	p.command.Backend.Weight = 1
	if err := p.readVerb(words[0]); err != nil {
		return Command{}, err
	}
	if verb := p.command.Verb; verb == VerbHelp || verb == VerbVersion {
		return p.command, nil
	}
	for _, step := range []func() error{p.readOptions, p.readArguments, p.checkOptions, p.refuse} {
		if err := step(); err != nil {
			return Command{}, err
		}
	}
	return p.command, nil
}

// parser reads one command line.
type parser struct {
	command Command
	names   Names
	words   reader
	given   set
	refused error // the first option that only ipvsadm has, in xdplb's words

	service   endpoint
	mark      bool // the service is a firewall mark
	ipv6      bool // the service is IPv6
	server    endpoint
	scheduler string
	flags     string // of the scheduler
	mask      netip.Prefix
	tunnel    string
	forward   byte // 'g', 'i' or 'm'; 0 if not given
}

// noCommandError is how ipvsadm ends when the first option is no command. Its failure points to ipvsadm's help, which
// is of no use to who has a file with such a line; it says itself what is wrong.
type noCommandError struct{ failure error }

func (e *noCommandError) Error() string {
	return "a command of ipvsadm, such as -A or -a, must come first"
}
func (e *noCommandError) Unwrap() error { return e.failure }

func noCommand(program string) error {
	return &noCommandError{kernel(fmt.Sprintf("Try `%s -h' or '%s --help' for more information.", program, program))}
}

// readVerb reads the first option, which must be the command.
func (p *parser) readVerb(program string) error {
	o, found, err := p.words.read()
	if !found || err != nil || o.verb == 0 {
		return noCommand(program)
	}
	p.command.Verb = o.verb
	if o.verb != verbStartDaemon && o.verb != verbStopDaemon {
		return nil
	}
	p.decline("--%s: xdplb has no connection synchronisation: "+
		"let a second director place connections alike, with -s mh", o.long)
	switch {
	case *o.value == "master" || *o.value == "backup":
		return nil
	case o.verb == verbStartDaemon:
		return fail("illegal start-daemon parameter specified")
	}
	return fail("illegal start_daemon specified")
}

// decline notes an option that ipvsadm takes and xdplb does not. It is said if nothing else is wrong.
func (p *parser) decline(format string, args ...any) {
	if p.refused == nil {
		p.refused = refuse(format, args...)
	}
}

func (p *parser) refuse() error { return p.refused }

func (p *parser) readOptions() error {
	for {
		o, found, err := p.words.read()
		if !found || err != nil {
			return err
		}
		if o.verb != 0 {
			return fail("invalid option `%s'", p.words.word())
		}
		if err := p.readOption(o); err != nil {
			return err
		}
	}
}

func (p *parser) readOption(o occurrence) error {
	if o.opt < optCount {
		if p.given.has(o.opt) {
			return fail("multiple '%s' options specified", optNames[o.opt])
		}
		p.given |= setOf(o.opt)
	}
	switch {
	case o.opt == optIPv6 || o.opt == optService && o.short == 'f':
		return p.readMark(o)
	case o.opt == optService:
		return p.readService(o)
	case setOf(optServer, optForward, optWeight, optUpper, optLower).has(o.opt):
		return p.readServerOption(o)
	case (serverOptions | daemonOptions).has(o.opt):
		return p.readForeignOption(o)
	case serviceOptions.has(o.opt):
		return p.readServiceOption(o)
	}
	p.readListOption(o)
	return nil
}

// readService reads -t, -u and --sctp-service.
func (p *parser) readService(o occurrence) (err error) {
	name, _, _ := strings.Cut(o.long, "-")
	key := &p.command.Service.ServiceKey
	if key.Protocol, err = lb.ParseProtocol(name); err != nil {
		return err
	}
	at, ok := parseEndpoint(*o.value, key.Protocol, p.names)
	if !ok {
		return fail("illegal virtual server address[:port] specified")
	}
	p.service = at
	p.command.Named, key.Addr = true, netip.AddrPortFrom(at.addr, at.port)
	p.ipv6 = at.addr.Is6()
	if p.ipv6 {
		p.mask = netip.PrefixFrom(netip.IPv6Unspecified(), 128)
	}
	return nil
}

// readMark reads -f and -6.
func (p *parser) readMark(o occurrence) error {
	if o.opt == optIPv6 {
		if !p.mark {
			return fail("-6 used before -f\n")
		}
		p.ipv6 = true
		p.mask = netip.PrefixFrom(netip.IPv6Unspecified(), 128)
		return nil
	}
	if _, ok := number(*o.value, 1, 1<<32-1); !ok {
		return fail("invalid fwmark value `%s' specified", *o.value)
	}
	p.mark = true
	p.command.Service.Protocol = lb.TCP
	p.decline("-f: firewall marks are set after XDP has seen a packet: name the service with -t, -u or --sctp-service")
	return nil
}

// readServiceOption reads what -A and -E take.
func (p *parser) readServiceOption(o occurrence) error {
	s := &p.command.Service
	switch o.opt {
	case optScheduler:
		p.scheduler = cut(*o.value, 15)
	case optPersistent:
		timeout := lb.DefaultPersistence
		if o.value != nil {
			var err error
			if timeout, err = parseTimeout(*o.value, 1); err != nil {
				return err
			}
		}
		s.Persistence.Timeout = timeout
	case optNetmask:
		return p.readMask(*o.value)
	case optOnePacket:
		s.OnePacket = true
	case optEngine:
		p.decline("--pe: xdplb has no persistence engines: use -p without it, which goes by the client's address")
	case optSchedFlags:
		p.flags = cut(*o.value, 127)
	}
	return nil
}

// cut shortens a word to the bytes that ipvsadm has room for.
func cut(word string, bytes int) string { return word[:min(len(word), bytes)] }

func parseTimeout(word string, least int64) (time.Duration, error) {
	seconds, ok := number(word, least, int64(lb.MaxTimeout/time.Second))
	if !ok {
		return 0, fail("invalid timeout value `%s' specified", word)
	}
	return time.Duration(seconds) * time.Second, nil
}

// readMask reads a netmask of IPv4 or, if the service was named before and is one of IPv6, a prefix length. What
// is no netmask although ipvsadm takes it (24 means 0.0.0.24 there) is declined.
func (p *parser) readMask(word string) error {
	if p.ipv6 {
		bits, _, _ := leadingNumber(word)
		if bits < 1 || bits > 128 {
			return fail("illegal ipv6 netmask specified")
		}
		p.mask = netip.PrefixFrom(netip.IPv6Unspecified(), int(bits))
		return nil
	}
	mask, ok := parseIPv4(word)
	if !ok {
		mask, ok = p.names.host(word)
	}
	if !ok {
		return fail("illegal virtual server persistent mask specified")
	}
	bits := prefixLength(mask)
	if bits < 0 {
		bits = 0
		p.declineMask(word, mask)
	}
	p.mask = netip.PrefixFrom(netip.IPv4Unspecified(), bits)
	return nil
}

func (p *parser) declineMask(word string, mask netip.Addr) {
	if length, ok := number(word, 1, 32); ok {
		p.decline("-M %s: ipvsadm would take it for the netmask %s: for /%d write -M %s",
			word, mask, length, netmask(int(length)))
		return
	}
	p.decline("-M %s: the netmask %s is not leading ones and then zeros, as in 255.255.255.0", word, mask)
}

// prefixLength is how many leading ones a netmask has, or -1 if ones come after a zero.
func prefixLength(mask netip.Addr) int {
	for bits := range 33 {
		if netmask(bits) == mask {
			return bits
		}
	}
	return -1
}

// netmask is the IPv4 netmask of so many leading ones.
func netmask(bits int) netip.Addr {
	ones := netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), bits)
	return ones.Masked().Addr()
}

// readServerOption reads what -a and -e take.
func (p *parser) readServerOption(o occurrence) error {
	b := &p.command.Backend
	switch o.opt {
	case optServer:
		return p.readServer(*o.value)
	case optForward:
		p.forward = o.short
		if o.short != 'g' {
			p.decline("-%c: xdplb forwards by direct routing only: use -g, with the VIP on the real server's lo", o.short)
		}
	case optWeight:
		return readNumber(&b.Weight, *o.value, lb.MaxWeight, "weight")
	case optUpper:
		return readNumber(&b.Upper, *o.value, lb.MaxThreshold, "u_threshold")
	case optLower:
		return readNumber(&b.Lower, *o.value, lb.MaxThreshold, "l_threshold")
	}
	return nil
}

func readNumber(to *uint32, word string, most int64, what string) error {
	n, ok := number(word, 0, most)
	if !ok {
		return fail("illegal %s specified", what)
	}
	*to = uint32(n)
	return nil
}

// readServer reads -r. Without a port it gets the one of the service, which is 0 while the service is not named yet.
func (p *parser) readServer(word string) error {
	at, ok := parseEndpoint(word, p.command.Service.Protocol, p.names)
	if !ok {
		return fail("illegal real server address[:port] specified")
	}
	p.server = at
	p.command.Backend.Addr, p.command.Port = at.addr, at.port
	if !at.hasPort {
		p.command.Port = p.service.port
	}
	return nil
}

// readForeignOption reads the options of tunnels and of the synchronisation daemon, which are for what xdplb declines.
func (p *parser) readForeignOption(o occurrence) error {
	switch o.opt {
	case optTunType:
		if _, known := tunnels[*o.value]; !known {
			return fail("illegal tunnel type specified")
		}
		p.tunnel = *o.value
	case optTunPort:
		return checkNumber(*o.value, 1, 65535, "tunnel port")
	case optSyncID:
		return checkNumber(*o.value, 0, 255, "syncid")
	case optMcastPort:
		return checkNumber(*o.value, 1, 65535, "mcast-port")
	case optMcastTTL:
		return checkNumber(*o.value, 1, 255, "mcast-ttl")
	case optSyncMaxlen:
		return checkNumber(*o.value, 1, 65535-20-8, "sync-maxlen")
	case optMcastGroup:
		return checkGroup(*o.value)
	}
	return nil
}

func checkNumber(word string, least, most int64, what string) error {
	if _, ok := number(word, least, most); !ok {
		return fail("illegal %s specified", what)
	}
	return nil
}

func checkGroup(word string) error {
	version := 4
	if strings.Contains(word, ":") {
		version = 6
	}
	group, err := netip.ParseAddr(word)
	if err != nil || group.Is4() != (version == 4) || group.Zone() != "" || !group.IsMulticast() {
		return fail("invalid IPv%d mcast-group `%s'", version, word)
	}
	return nil
}

// readListOption reads what -L and -S take.
func (p *parser) readListOption(o occurrence) {
	l := &p.command.Listing
	switch o.opt {
	case optNumeric:
		l.Numeric = true
	case optExact:
		l.Exact = true
	}
}

// readArguments reads the words that belong to no option: the timeouts of --set. And what other words say together is
// checked here, as ipvsadm does.
func (p *parser) readArguments() error {
	args := p.words.args
	if p.command.Verb == VerbSetTimeouts {
		if len(args) < 3 {
			return fail("--set option requires 3 timeout values")
		}
		t := &p.command.Timeouts
		for i, to := range []*time.Duration{&t.TCP, &t.TCPFin, &t.UDP} {
			var err error
			if *to, err = parseTimeout(args[i], 0); err != nil {
				return err
			}
		}
		args = args[3:]
	}
	if len(args) > 0 {
		return fail("unexpected argument %s", args[0])
	}
	if p.scheduler == "" {
		p.scheduler = lb.WLC.String() // LVS's default
	}
	if p.flags == "" {
		return nil
	}
	return p.readFlags()
}

// readFlags reads the scheduler's flags, when the scheduler is known.
func (p *parser) readFlags() error {
	words := strings.FieldsFunc(p.flags, func(r rune) bool { return r == ',' })
	if len(words) == 0 {
		return fail("invalid scheduler flag `%s'", p.flags) // ipvsadm crashes
	}
	for _, word := range words {
		flag, of, known := lb.ParseSchedulerFlag(word)
		switch {
		case !known:
			return fail("invalid scheduler flag `%s'", word)
		case of != 0 && of.String() != p.scheduler:
			return fail("incompatible scheduler flag `%s'", word)
		}
		p.command.Service.Flags |= flag
	}
	return nil
}

// checkOptions checks what goes together, and completes the command.
func (p *parser) checkOptions() error {
	const all = ^set(0)
	if err := verbs[p.command.Verb].check(p.given, all, "command"); err != nil {
		return err
	}
	switch p.command.Verb {
	case VerbAddService, VerbEditService:
		return p.completeService()
	case VerbAddServer, VerbEditServer:
		return p.completeServer()
	case VerbList:
		return p.completeListing()
	}
	return nil
}

func (p *parser) completeService() error {
	s := &p.command.Service
	persistent := p.given.has(optPersistent)
	switch {
	case !p.mark && p.service.port == 0 && !persistent:
		return fail("Zero port specified for non-persistent service")
	case !p.mark && s.OnePacket && s.Protocol != lb.UDP:
		return fail("One-Packet Scheduling is only for UDP virtual services")
	}
	if persistent {
		s.Persistence.Prefix = uint8(p.mask.Bits())
	}
	// An unknown name is the kernel's to refuse, after it has looked for the service.
	s.Scheduler, _ = lb.ParseScheduler(p.scheduler)
	return nil
}

func (p *parser) completeServer() error {
	tunnelling := p.forward == 'i'
	switch {
	case p.ipv6 != p.server.addr.Is6() && !tunnelling:
		return fail("Different address family is allowed only for tunneling servers")
	case p.given&(tunnelOptions|setOf(optTunType)) != 0 && !tunnelling:
		return fail("Tunnel options conflict with forward method")
	}
	if p.tunnel == "" {
		p.tunnel = "ipip"
	}
	return tunnels[p.tunnel].check(p.given, tunnelOptions, "tunnel type")
}

func (p *parser) completeListing() error {
	given := p.given
	other, lines := setOf(optConnection, optTimeout, optDaemon), setOf(optTimeout, optDaemon)
	if given&other != 0 && given&setOf(optStats, optRate, optThresholds) != 0 ||
		given&lines != 0 && given.has(optPersistentConn) {
		return fail("options conflicts in the list command")
	}
	l := &p.command.Listing
	l.PEColumns = given.has(optPersistentConn)
	for _, subject := range []struct {
		opt opt
		is  Subject
	}{{optConnection, TableOfConns}, {optTimeout, TimeoutLine}, {optDaemon, DaemonLines}} {
		if given.has(subject.opt) {
			l.Subject = subject.is
		}
	}
	for _, columns := range []struct {
		opt opt
		are Columns
	}{
		{optStats, Stats}, {optRate, Rate}, {optThresholds, Thresholds}, {optPersistentConn, PersistentConns},
		{optTunInfo, TunnelInfo},
	} {
		if given.has(columns.opt) {
			l.Columns = columns.are
			break // the first counts
		}
	}
	return nil
}
