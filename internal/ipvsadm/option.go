// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"fmt"
	"strings"
)

// option is one option of ipvsadm's command line; commands are options too.
type option struct {
	short   string // "-A", or "" if it has none
	long    string // "--add-service"
	value   bool   // takes a value
	command bool
	refused string // why xdplb does not take it, "" if it does
}

const (
	notYet        = "xdplb does not have it yet"
	directOnly    = "xdplb forwards by direct routing (-g) only"
	notInSave     = "it has no place in a saved configuration"
	noTunnel      = "it is for tunnels, and " + directOnly
	noPersistence = "persistence: " + notYet
)

// options are all options of ipvsadm 1.31. Read only.
var options = []option{
	{short: "-A", long: "--add-service", command: true},
	{short: "-E", long: "--edit-service", command: true},
	{short: "-D", long: "--delete-service", command: true},
	{short: "-C", long: "--clear", command: true},
	{short: "-a", long: "--add-server", command: true},
	{short: "-e", long: "--edit-server", command: true},
	{short: "-d", long: "--delete-server", command: true},
	{short: "-R", long: "--restore", command: true, refused: notInSave},
	{short: "-S", long: "--save", command: true, refused: notInSave},
	{short: "-L", long: "--list", command: true, refused: notInSave},
	{short: "-l", long: "--list", command: true, refused: notInSave},
	{short: "-Z", long: "--zero", command: true, refused: notInSave},
	{short: "-h", long: "--help", command: true, refused: notInSave},
	{short: "-v", long: "--version", command: true, refused: notInSave},
	{long: "--set", command: true, refused: "timeouts are fixed to LVS's defaults"},
	{long: "--start-daemon", command: true, refused: "connection synchronisation: " + notYet},
	{long: "--stop-daemon", command: true, refused: "connection synchronisation: " + notYet},

	{short: "-t", long: "--tcp-service", value: true},
	{short: "-u", long: "--udp-service", value: true},
	{short: "-s", long: "--scheduler", value: true},
	{short: "-r", long: "--real-server", value: true},
	{short: "-g", long: "--gatewaying"},
	{short: "-w", long: "--weight", value: true},

	{long: "--sctp-service", value: true, refused: "SCTP: " + notYet},
	{short: "-f", long: "--fwmark-service", value: true, refused: "firewall marks do not exist where XDP sees a packet"},
	{short: "-6", long: "--ipv6", refused: "it is for -f, and firewall marks do not exist where XDP sees a packet"},
	{short: "-m", long: "--masquerading", refused: "it translates addresses, and " + directOnly},
	{short: "-i", long: "--ipip", refused: "it tunnels, and " + directOnly},
	{short: "-p", long: "--persistent", value: true, refused: noPersistence},
	{short: "-M", long: "--netmask", value: true, refused: noPersistence},
	{long: "--pe", value: true, refused: noPersistence},
	{short: "-o", long: "--ops", refused: "one-packet scheduling: " + notYet},
	{short: "-b", long: "--sched-flags", value: true, refused: "scheduler flags: " + notYet},
	{short: "-x", long: "--u-threshold", value: true, refused: "connection thresholds: " + notYet},
	{short: "-y", long: "--l-threshold", value: true, refused: "connection thresholds: " + notYet},
	{long: "--tun-type", value: true, refused: noTunnel},
	{long: "--tun-port", value: true, refused: noTunnel},
	{long: "--tun-nocsum", refused: noTunnel},
	{long: "--tun-csum", refused: noTunnel},
	{long: "--tun-remcsum", refused: noTunnel},
}

// name is how the option is called in messages and in a line's set of options: the short form if there is one.
func (o option) name() string {
	if o.short != "" {
		return o.short
	}
	return o.long
}

// given are the options of one line by name, with their values.
type given map[string]string

// readOptions takes the words of a line apart into its command and its options: "-r ADDRESS", "-rADDRESS",
// "--real-server ADDRESS", "--real-server=ADDRESS", and flags glued together, "-gw 1".
func readOptions(words []string) (command string, opts given, err error) {
	opts = make(given)
	take := func(o option, value string) error {
		switch {
		case o.refused != "":
			return fmt.Errorf("%s is refused: %s", o.name(), o.refused)
		case o.command && command != "":
			return fmt.Errorf("%s after %s: want one command in a line", o.name(), command)
		case o.command:
			command = o.name()
			return nil
		case command == "":
			return fmt.Errorf("%s comes before the command: want -A, -E, -D, -a, -e, -d or -C first", o.name())
		}
		if _, twice := opts[o.name()]; twice {
			return fmt.Errorf("%s is given twice", o.name())
		}
		opts[o.name()] = value
		return nil
	}
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		switch {
		case strings.HasPrefix(word, "--"):
			words, err = readLong(word, words, take)
		case strings.HasPrefix(word, "-") && len(word) > 1:
			words, err = readShort(word, words, take)
		default:
			err = fmt.Errorf("unexpected word %q", word)
		}
		if err != nil {
			return "", nil, err
		}
	}
	if command == "" {
		return "", nil, fmt.Errorf("no command: want -A, -E, -D, -a, -e, -d or -C")
	}
	return command, opts, nil
}

// readLong reads "--name", "--name=value" or "--name value", and returns the words left.
func readLong(word string, rest []string, take func(option, string) error) ([]string, error) {
	name, value, hasValue := strings.Cut(word, "=")
	for _, o := range options {
		if o.long != name {
			continue
		}
		switch {
		case o.refused != "":
		case hasValue && !o.value:
			return nil, fmt.Errorf("%s takes no value", name)
		case !hasValue && o.value:
			if len(rest) == 0 {
				return nil, fmt.Errorf("%s needs a value", name)
			}
			value, rest = rest[0], rest[1:]
		}
		return rest, take(o, value)
	}
	return nil, fmt.Errorf("unknown option %q", name)
}

// readShort reads "-abc": flags, of which the last may take the rest of the word, or the next word, as its value.
func readShort(word string, rest []string, take func(option, string) error) ([]string, error) {
	for letters := word[1:]; letters != ""; {
		o, found := shortOption("-" + letters[:1])
		if !found {
			return nil, fmt.Errorf("unknown option %q", "-"+letters[:1])
		}
		letters = letters[1:]
		value := ""
		if o.value && o.refused == "" {
			switch {
			case letters != "":
				value, letters = letters, ""
			case len(rest) > 0:
				value, rest = rest[0], rest[1:]
			default:
				return nil, fmt.Errorf("%s needs a value", o.short)
			}
		}
		if err := take(o, value); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

func shortOption(short string) (option, bool) {
	for _, o := range options {
		if o.short == short {
			return o, true
		}
	}
	return option{}, false
}
