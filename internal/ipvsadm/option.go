// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"fmt"
	"strings"
)

// opt is an option that is no command. The order is that in which ipvsadm checks them.
type opt uint8

const (
	optNumeric opt = iota
	optConnection
	optService
	optScheduler
	optPersistent
	optNetmask
	optServer
	optForward
	optWeight
	optUpper
	optLower
	optMcastInterface
	optTimeout
	optDaemon
	optStats
	optRate
	optThresholds
	optPersistentConn
	optNoSort
	optSyncID
	optExact
	optOnePacket
	optEngine
	optSchedFlags
	optMcastGroup
	optMcastPort
	optMcastTTL
	optSyncMaxlen
	optTunInfo
	optTunType
	optTunPort
	optTunNoCsum
	optTunCsum
	optTunRemCsum
	optCount
	optSort // does nothing, in ipvsadm too, however often
	optIPv6
)

// optNames are what ipvsadm's messages call the options.
var optNames = [optCount]string{
	"numeric", "connection", "service-address", "scheduler", "persistent", "netmask", "real-server", "forwarding-method",
	"weight", "u-threshold", "l-threshold", "mcast-interface", "timeout", "daemon", "stats", "rate", "thresholds",
	"persistent-conn", "nosort", "syncid", "exact", "ops", "pe", "sched-flags", "mcast-group", "mcast-port", "mcast-ttl",
	"sync-maxlen", "tun-info", "tun-type", "tun-port", "tun-nocsum", "tun-csum", "tun-remcsum",
}

// set is a set of options.
type set uint64

func setOf(list ...opt) (s set) {
	for _, o := range list {
		s |= 1 << o
	}
	return s
}

func (s set) has(o opt) bool { return s&(1<<o) != 0 }

// grammar says which options go with something: needs must be there, takes may, and of one at most one may.
type grammar struct {
	name              string // in messages
	needs, takes, one set
}

// Options of groups of verbs.
var (
	serviceOptions = setOf(optScheduler, optPersistent, optNetmask, optOnePacket, optEngine, optSchedFlags)
	serverOptions  = setOf(optForward, optWeight, optUpper, optLower,
		optTunType, optTunPort, optTunNoCsum, optTunCsum, optTunRemCsum)
	listOptions = setOf(optNumeric, optStats, optRate, optThresholds, optPersistentConn, optNoSort, optSyncID, optExact,
		optTunInfo)
	daemonOptions = setOf(optMcastInterface, optSyncID, optMcastGroup, optMcastPort, optMcastTTL, optSyncMaxlen)
)

// verbs are the rules of each verb.
var verbs = [...]grammar{
	VerbAddService:    {name: "add-service", needs: setOf(optService), takes: serviceOptions},
	VerbEditService:   {name: "edit-service", needs: setOf(optService), takes: serviceOptions},
	VerbDeleteService: {name: "delete-service", needs: setOf(optService)},
	VerbClear:         {name: "flush"},
	VerbList:          {name: "list", takes: listOptions, one: setOf(optConnection, optService, optTimeout, optDaemon)},
	VerbAddServer:     {name: "add-server", needs: setOf(optService, optServer), takes: serverOptions},
	VerbDeleteServer:  {name: "delete-server", needs: setOf(optService, optServer)},
	VerbEditServer:    {name: "edit-server", needs: setOf(optService, optServer), takes: serverOptions},
	VerbSetTimeouts:   {name: "set"},
	verbStartDaemon:   {name: "start-daemon", takes: daemonOptions},
	verbStopDaemon:    {name: "stop-daemon", takes: setOf(optSyncID)},
	VerbRestore:       {name: "restore"},
	VerbSave:          {name: "save", takes: setOf(optNumeric)},
	VerbZero:          {name: "zero", takes: setOf(optService)},
}

// tunnelOptions are those that depend on the tunnel's type.
var tunnelOptions = setOf(optTunPort, optTunNoCsum, optTunCsum, optTunRemCsum)

// tunnels are the rules of each type of tunnel.
var tunnels = map[string]grammar{
	"ipip": {name: "ipip"},
	"gue":  {name: "gue", needs: setOf(optTunPort), one: setOf(optTunNoCsum, optTunCsum, optTunRemCsum)},
	"gre":  {name: "gre", one: setOf(optTunNoCsum, optTunCsum)},
}

// check compares the options that were given with the rules, as far as they are about the options of a set; what is
// "command" or "tunnel type".
func (g grammar) check(given, about set, what string) error {
	first := optCount
	for o := range optCount {
		switch {
		case !about.has(o):
		case g.needs.has(o) && !given.has(o):
			return fail("You need to supply the '%s' option for the '%s' %s", optNames[o], g.name, what)
		case !given.has(o) || (g.needs | g.takes).has(o):
		case !g.one.has(o):
			return fail("Illegal '%s' option with the '%s' %s", optNames[o], g.name, what)
		case first == optCount:
			first = o
		default:
			return fail("The option '%s' conflicts with the '%s' option in the '%s' %s",
				optNames[o], optNames[first], g.name, what)
		}
	}
	return nil
}

// argument says whether an option takes one.
type argument uint8

const (
	noArgument argument = iota
	oneArgument
	maybeArgument // none if the next word begins with "-"
)

// option is a spelling of a command or an option.
type option struct {
	short    byte // 0: none
	long     string
	argument argument
	verb     Verb // 0: it is no command
	opt      opt
}

// options are all of ipvsadm 1.31. Read only.
var options = []option{
	{short: 'A', long: "add-service", verb: VerbAddService},
	{short: 'E', long: "edit-service", verb: VerbEditService},
	{short: 'D', long: "delete-service", verb: VerbDeleteService},
	{short: 'C', long: "clear", verb: VerbClear},
	{short: 'L', long: "list", verb: VerbList},
	{short: 'l', long: "list", verb: VerbList},
	{short: 'Z', long: "zero", verb: VerbZero},
	{short: 'a', long: "add-server", verb: VerbAddServer},
	{short: 'e', long: "edit-server", verb: VerbEditServer},
	{short: 'd', long: "delete-server", verb: VerbDeleteServer},
	{long: "set", verb: VerbSetTimeouts},
	{short: 'h', long: "help", verb: VerbHelp},
	{short: 'v', long: "version", verb: VerbVersion},
	{short: 'R', long: "restore", verb: VerbRestore},
	{short: 'S', long: "save", verb: VerbSave},
	{long: "start-daemon", argument: oneArgument, verb: verbStartDaemon},
	{long: "stop-daemon", argument: oneArgument, verb: verbStopDaemon},

	{short: 't', long: "tcp-service", argument: oneArgument, opt: optService},
	{short: 'u', long: "udp-service", argument: oneArgument, opt: optService},
	{long: "sctp-service", argument: oneArgument, opt: optService},
	{short: 'f', long: "fwmark-service", argument: oneArgument, opt: optService},
	{short: '6', long: "ipv6", opt: optIPv6},
	{short: 's', long: "scheduler", argument: oneArgument, opt: optScheduler},
	{short: 'p', long: "persistent", argument: maybeArgument, opt: optPersistent},
	{short: 'M', long: "netmask", argument: oneArgument, opt: optNetmask},
	{long: "pe", argument: oneArgument, opt: optEngine},
	{short: 'o', long: "ops", opt: optOnePacket},
	{short: 'b', long: "sched-flags", argument: oneArgument, opt: optSchedFlags},

	{short: 'r', long: "real-server", argument: oneArgument, opt: optServer},
	{short: 'g', long: "gatewaying", opt: optForward},
	{short: 'i', long: "ipip", opt: optForward},
	{short: 'm', long: "masquerading", opt: optForward},
	{short: 'w', long: "weight", argument: oneArgument, opt: optWeight},
	{short: 'x', long: "u-threshold", argument: oneArgument, opt: optUpper},
	{short: 'y', long: "l-threshold", argument: oneArgument, opt: optLower},
	{long: "tun-type", argument: oneArgument, opt: optTunType},
	{long: "tun-port", argument: oneArgument, opt: optTunPort},
	{long: "tun-nocsum", opt: optTunNoCsum},
	{long: "tun-csum", opt: optTunCsum},
	{long: "tun-remcsum", opt: optTunRemCsum},

	{short: 'n', long: "numeric", opt: optNumeric},
	{short: 'c', long: "connection", opt: optConnection},
	{long: "timeout", opt: optTimeout},
	{long: "daemon", opt: optDaemon},
	{long: "stats", opt: optStats},
	{long: "rate", opt: optRate},
	{long: "thresholds", opt: optThresholds},
	{long: "persistent-conn", opt: optPersistentConn},
	{long: "tun-info", opt: optTunInfo},
	{long: "nosort", opt: optNoSort},
	{long: "sort", opt: optSort},
	{short: 'X', long: "exact", opt: optExact},

	{long: "mcast-interface", argument: oneArgument, opt: optMcastInterface},
	{long: "syncid", argument: oneArgument, opt: optSyncID},
	{long: "mcast-group", argument: oneArgument, opt: optMcastGroup},
	{long: "mcast-port", argument: oneArgument, opt: optMcastPort},
	{long: "mcast-ttl", argument: oneArgument, opt: optMcastTTL},
	{long: "sync-maxlen", argument: oneArgument, opt: optSyncMaxlen},
}

// reader takes words apart as the library popt 1.19 does, with which ipvsadm is built.
type reader struct {
	words   []string
	next    int
	letters string   // of a word of short options, those that are not read yet
	rest    bool     // after "--" all words are arguments
	args    []string // words that belong to no option
}

// occurrence is an option where it stands. Value is nil where the option has none.
type occurrence struct {
	option
	value *string
}

// word is the last word that was read.
func (r *reader) word() string { return r.words[r.next-1] }

// read returns the next option, or false at the end.
func (r *reader) read() (occurrence, bool, error) {
	if r.letters == "" {
		found, err := r.readWord()
		if !found || err != nil {
			return occurrence{}, false, err
		}
	}
	if r.letters == "" { // a long option
		return r.readLong()
	}
	o, found := findOption(func(o *option) bool { return o.short == r.letters[0] })
	if !found {
		return occurrence{}, false, r.fault("unknown option")
	}
	letters, equals := strings.CutPrefix(r.letters[1:], "=")
	r.letters = ""
	switch {
	case o.argument == noArgument && equals:
		return occurrence{}, false, r.fault("option does not take an argument")
	case o.argument == noArgument:
		r.letters = letters
		return occurrence{option: o}, true, nil
	case letters != "" || equals:
		return occurrence{o, &letters}, true, nil
	}
	return r.argument(o)
}

// readWord goes to the next word that is of options, and keeps those before it as arguments.
func (r *reader) readWord() (found bool, err error) {
	for r.next < len(r.words) {
		word := r.words[r.next]
		r.next++
		switch {
		case r.rest || len(word) < 2 || word[0] != '-':
			r.args = append(r.args, word)
		case word == "--":
			r.rest = true
		case word[1] == '-':
			return true, nil
		default:
			r.letters = word[1:]
			return true, nil
		}
	}
	return false, nil
}

// readLong reads "--name", "--name=value" or "--name value".
func (r *reader) readLong() (occurrence, bool, error) {
	name, value, hasValue := strings.Cut(r.word()[len("--"):], "=")
	o, found := findOption(func(o *option) bool { return o.long == name })
	switch {
	case !found:
		return occurrence{}, false, r.fault("unknown option")
	case hasValue && o.argument == noArgument:
		return occurrence{}, false, r.fault("option does not take an argument")
	case hasValue:
		return occurrence{o, &value}, true, nil
	case o.argument == noArgument:
		return occurrence{option: o}, true, nil
	}
	return r.argument(o)
}

// argument takes the next word as the value of an option.
func (r *reader) argument(o option) (occurrence, bool, error) {
	switch {
	case r.next < len(r.words) && (o.argument == oneArgument || !strings.HasPrefix(r.words[r.next], "-")):
		r.next++
		value := r.word()
		return occurrence{o, &value}, true, nil
	case o.argument == maybeArgument:
		return occurrence{option: o}, true, nil
	}
	return occurrence{}, false, r.fault("missing argument")
}

// fault is an error of popt.
func (r *reader) fault(what string) error {
	return &Failure{Text: fmt.Sprintf("%s: %s", r.word(), what), Status: statusRefused}
}

func findOption(is func(*option) bool) (option, bool) {
	for i := range options {
		if is(&options[i]) {
			return options[i], true
		}
	}
	return option{}, false
}
