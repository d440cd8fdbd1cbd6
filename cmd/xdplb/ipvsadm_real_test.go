// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/testenv"
)

// debianIPVSADM is named in full, because in the tests of this package "ipvsadm" is xdplb.
const debianIPVSADM = "/usr/sbin/ipvsadm"

// Socket options by which ipvsadm speaks to the kernel (include/uapi/linux/ip_vs.h), when there is no netlink family.
const (
	ipvsBase       = 64 + 1024 + 64
	ipvsGetInfo    = ipvsBase + 1
	ipvsGetService = ipvsBase + 3
	ipvsGetTimeout = ipvsBase + 6
	ipvsGetDaemon  = ipvsBase + 7
)

// ipvsSet are the changing ones, by their numbers from ipvsBase.
var ipvsSet = [...]string{"", "", "add", "edit", "delete", "flush", "list", "add-server", "delete-server", "edit-server",
	"timeouts", "start-daemon", "stop-daemon", "", "", "zero"}

// realIPVSADM runs Debian's ipvsadm, which asks the kernel for IPVS before it reads its words. A seccomp filter
// answers for a kernel with an empty table, and keeps what ipvsadm would have written to it.
type realIPVSADM struct {
	listener int
	closed   atomic.Bool
	mu       sync.Mutex
	asked    []string // what the running ipvsadm has asked the kernel for
}

// newRealIPVSADM puts the calling goroutine's thread, for the rest of its life, behind the filter.
func newRealIPVSADM() (*realIPVSADM, error) {
	runtime.LockOSThread()
	if err := testenv.Isolate(); err != nil {
		return nil, err
	}
	listener, err := interceptIPVS()
	if err != nil {
		return nil, err
	}
	r := &realIPVSADM{listener: listener}
	go r.answer()
	return r, nil
}

// interceptIPVS makes the kernel ask on the returned file descriptor before each socket option of IPVS, and hides
// generic netlink, on this thread and in the processes that it starts.
func interceptIPVS() (listener int, err error) {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(how uint16, value uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | how, Jt: yes, Jf: no, K: value}
	}
	end := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	const argument0, argument2 = 16, 32 // offsets in struct seccomp_data
	filter := []unix.SockFilter{
		load(0),
		jump(unix.BPF_JEQ, unix.SYS_SOCKET, 0, 5),
		load(argument0),
		jump(unix.BPF_JEQ, unix.AF_NETLINK, 0, 8),
		load(argument2),
		jump(unix.BPF_JEQ, unix.NETLINK_GENERIC, 0, 6),
		end(unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)),
		jump(unix.BPF_JEQ, unix.SYS_GETSOCKOPT, 1, 0),
		jump(unix.BPF_JEQ, unix.SYS_SETSOCKOPT, 0, 3),
		load(argument2),
		jump(unix.BPF_JGE, ipvsBase, 0, 1),
		end(unix.SECCOMP_RET_USER_NOTIF),
		end(unix.SECCOMP_RET_ALLOW),
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
		uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, fmt.Errorf("setting a seccomp filter: %w", errno)
	}
	return int(fd), nil
}

// answer is the kernel, until the thread is gone.
func (r *realIPVSADM) answer() {
	defer unix.Close(r.listener)
	for {
		var call notification
		if err := control(r.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&call)); err != nil {
			if r.closed.Load() {
				return
			}
			continue // interrupted, or the process is gone
		}
		answer := response{id: call.id, err: -int32(r.serve(&call))}
		_ = control(r.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answer))
	}
}

func (r *realIPVSADM) serve(call *notification) unix.Errno {
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", call.pid), os.O_RDWR, 0)
	if err != nil {
		return unix.EIO
	}
	defer memory.Close()
	at := int64(call.arguments[3])
	if call.call == unix.SYS_SETSOCKOPT {
		data := make([]byte, call.arguments[4])
		if _, err := memory.ReadAt(data, at); err != nil && len(data) > 0 {
			return unix.EIO
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked = append(r.asked, request(int(call.arguments[2]), data))
		return 0
	}
	var reply []byte
	switch call.arguments[2] {
	case ipvsGetInfo:
		reply = words32(1<<16|2<<8|1, 4096, 0)
	case ipvsGetTimeout:
		reply = words32(900, 120, 300)
	case ipvsGetDaemon:
		reply = make([]byte, 48)
	case ipvsGetService:
		return unix.ESRCH
	}
	if _, err := memory.WriteAt(reply, at); err != nil && len(reply) > 0 {
		return unix.EIO
	}
	return 0
}

func words32(words ...uint32) (b []byte) {
	for _, word := range words {
		b = binary.NativeEndian.AppendUint32(b, word)
	}
	return b
}

// request is what a socket option of ipvsadm's means: struct ip_vs_service_user and ip_vs_dest_user. Masks without
// persistence mean nothing, and the options of a service count where it is added or edited.
func request(option int, data []byte) string {
	verb := ipvsSet[option-ipvsBase]
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(data[at:]) }
	at := func(addr, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(data[addr:addr+4])), binary.BigEndian.Uint16(data[port:]))
	}
	switch verb {
	case "flush":
		return verb
	case "timeouts":
		return fmt.Sprintf("%s %d %d %d", verb, word(0), word(4), word(8))
	case "zero", "delete":
		return fmt.Sprintf("%s %d %s", verb, binary.NativeEndian.Uint16(data), at(4, 8))
	case "add", "edit":
		name, _, _ := bytes.Cut(data[16:32], []byte{0})
		text := fmt.Sprintf("%s %d %s %s flags %#x", verb, binary.NativeEndian.Uint16(data), at(4, 8), name, word(32))
		if word(32)&1 != 0 {
			text += fmt.Sprintf(" persistent %d by %s", word(36), netip.AddrFrom4([4]byte(data[40:44])))
		}
		return text
	case "delete-server":
		return fmt.Sprintf("%s %d %s %s", verb, binary.NativeEndian.Uint16(data), at(4, 8), at(44, 48))
	case "add-server", "edit-server":
		return fmt.Sprintf("%s %d %s %s weight %d thresholds %d %d", verb, binary.NativeEndian.Uint16(data), at(4, 8), at(44, 48),
			word(56), word(60), word(64))
	}
	return verb
}

// requested is the same of a command of xdplb's.
func requested(c ipvsadm.Command) string {
	s := c.Service
	switch c.Verb {
	case ipvsadm.VerbClear:
		return "flush"
	case ipvsadm.VerbSetTimeouts:
		t := c.Timeouts
		return fmt.Sprintf("timeouts %d %d %d", t.TCP/time.Second, t.TCPFin/time.Second, t.UDP/time.Second)
	case ipvsadm.VerbZero:
		if !c.Named {
			return "zero 0 0.0.0.0:0"
		}
		return fmt.Sprintf("zero %d %s", s.Protocol, s.Addr)
	case ipvsadm.VerbDeleteService:
		return fmt.Sprintf("delete %d %s", s.Protocol, s.Addr)
	case ipvsadm.VerbAddService, ipvsadm.VerbEditService:
		verb := map[ipvsadm.Verb]string{ipvsadm.VerbAddService: "add", ipvsadm.VerbEditService: "edit"}[c.Verb]
		flags := uint32(s.Flags) << 3
		if s.OnePacket {
			flags |= 4
		}
		if s.Persistence.Timeout == 0 {
			return fmt.Sprintf("%s %d %s %s flags %#x", verb, s.Protocol, s.Addr, s.Scheduler, flags)
		}
		mask := netip.PrefixFrom(netip.MustParseAddr("255.255.255.255"), int(s.Persistence.Prefix)).Masked().Addr()
		return fmt.Sprintf("%s %d %s %s flags %#x persistent %d by %s", verb, s.Protocol, s.Addr, s.Scheduler, flags|1,
			s.Persistence.Timeout/time.Second, mask)
	case ipvsadm.VerbDeleteServer:
		return fmt.Sprintf("delete-server %d %s %s", s.Protocol, s.Addr, netip.AddrPortFrom(c.Backend.Addr, c.Port))
	case ipvsadm.VerbAddServer, ipvsadm.VerbEditServer:
		verb := map[ipvsadm.Verb]string{ipvsadm.VerbAddServer: "add-server", ipvsadm.VerbEditServer: "edit-server"}[c.Verb]
		return fmt.Sprintf("%s %d %s %s weight %d thresholds %d %d", verb, s.Protocol, s.Addr,
			netip.AddrPortFrom(c.Backend.Addr, s.Addr.Port()), c.Backend.Weight, c.Backend.Upper, c.Backend.Lower)
	}
	return ""
}

// result is what became of a command line.
type result struct {
	Out, Err string
	Status   int
	Asked    string // of the kernel
}

// run gives ipvsadm words and a standard input.
func (r *realIPVSADM) run(words []string, stdin string) (result, error) {
	var stdout, stderr strings.Builder
	r.mu.Lock()
	r.asked = nil
	r.mu.Unlock()
	command := exec.Command(debianIPVSADM, words...)
	command.Args[0] = "ipvsadm"
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return result{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return result{stdout.String(), stderr.String(), command.ProcessState.ExitCode(), strings.Join(r.asked, "; ")}, nil
}

// understood is what xdplb makes of the words, on an empty table. Declined says that it is what only ipvsadm has.
func understood(words []string) (r result, declined bool) {
	names := ipvsadm.Names{Port: portNumber, Host: func(name string) (netip.Addr, bool) {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), name == "localhost"
	}}
	command, err := ipvsadm.ParseCommand(append([]string{"ipvsadm"}, words...), names)
	var out strings.Builder
	switch {
	case err != nil:
	case command.Verb == ipvsadm.VerbHelp:
		out.WriteString(ipvsadm.Usage("ipvsadm"))
	case command.Verb == ipvsadm.VerbVersion:
		out.WriteString(ipvsadm.VersionLine)
	case command.Changes():
		r.Asked = requested(command)
	case command.Verb != ipvsadm.VerbRestore:
		err = command.Print(&out, ipvsadm.View{Size: 4096})
	}
	r.Out = out.String()
	var failure *ipvsadm.Failure
	if errors.As(err, &failure) {
		r.Err, r.Status = failure.Text+"\n", failure.Status
		return r, failure.Ours
	}
	return r, false
}

// agree compares the two, as far as ipvsadm gets behind the filter: its socket options know no IPv6, and there is no
// file of connections.
func agree(real result, ours result, declined bool) string {
	switch {
	case real.Err == "Operation not supported with specified address family\n",
		real.Err == "cannot open file /proc/net/ip_vs_conn\n":
		if ours.Status == 0 || declined || ours.Err == "No such service\n" {
			return ""
		}
	case declined:
		if real.Status == 0 || real.Err == "No such service\n" {
			return ""
		}
	}
	if strings.Contains(ours.Asked, "scheduler 0") { // a name that xdplb leaves to the kernel to refuse
		if before, _, ok := strings.Cut(ours.Asked, " scheduler 0 "); ok && strings.HasPrefix(real.Asked, before) {
			return ""
		}
	}
	return cmp.Diff(real, ours)
}

// TestAgainstRealIPVSADM gives Debian's ipvsadm and the parser the same words: accepted or refused, with the same
// message, status and output, and understood in the same way.
func TestAgainstRealIPVSADM(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Root, testenv.Command(debianIPVSADM))
	cases := slices.Concat(oddCommands(), optionMatrix(), orderMatrix(), gluedMatrix(), pairMatrix(), randomCommands(200))
	next := make(chan []string)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			real, err := newRealIPVSADM()
			if err != nil {
				t.Error(err)
			} else {
				defer real.closed.Store(true)
			}
			for words := range next {
				if err != nil {
					continue
				}
				want, err := real.run(words, "")
				if err != nil {
					t.Errorf("%q: %v", words, err)
					continue
				}
				got, declined := understood(words)
				if diff := agree(want, got, declined); diff != "" {
					t.Errorf("ipvsadm %q (-real +xdplb, declined: %v):\n%s", words, declined, diff)
				}
			}
		})
	}
	for _, words := range cases {
		next <- words
	}
	close(next)
	workers.Wait()
	t.Logf("%d command lines", len(cases))
}

// TestRestoreAgainstRealIPVSADM restores texts with both: they see the same words in them, and the same first error.
// The lines before an error are where they differ: ipvsadm has done them.
func TestRestoreAgainstRealIPVSADM(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Root, testenv.Command(debianIPVSADM))
	real, err := newRealIPVSADM()
	if err != nil {
		t.Fatal(err)
	}
	defer real.closed.Store(true)
	const add = "-A -t 1.2.3.4:80 -s rr"
	for _, text := range []string{
		"", "\n", " \t\r\n\n", add, add + "\n", add + "\r\n", "\n\n" + add + "\n\n", "  " + add + " \t \n", "ipvsadm " + add + "\n",
		"-A ipvsadm -t 1.2.3.4:80 -s ipvsadm rr\n", "ipvsadm\n", "ipvsadm ipvsadm\n" + add, strings.ReplaceAll(add, " ", "\t") + "\n" + add + " -p",
		add + "\n-a -t 1.2.3.4:80 -r 1.2.3.5:80 -g -w 1\n-D -t 1.2.3.4:80\n--set 1 2 3\n-C\n-Z\n",
		add + "\n-A -t 'x'\n" + add, add + "\n-A \"-t\" 1.2.3.4:80\n", add + "\nfoo\n" + add, add + "\n-A -t 1.2.3.4:80 -w 1\n", add + "\n-R\n",
		add + "\n-e -t 1.2.3.4:80 -r 1.2.3.5 -w much\n" + add, "-A -t\n1.2.3.4:80\n",
	} {
		want, err := real.run([]string{"-R"}, text)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := ipvsadm.ParseRules(strings.NewReader(text), "ipvsadm", ipvsadm.Names{})
		var failure *ipvsadm.Failure
		switch errors.As(err, &failure); {
		case want.Status == 0 && err != nil:
			t.Errorf("%q: got %v, which ipvsadm does", text, err)
		case want.Status == 0:
			asked := len(strings.Split(want.Asked, "; "))
			if want.Asked == "" {
				asked = 0
			}
			if len(rules) != asked {
				t.Errorf("%q: got %d commands, ipvsadm %q", text, len(rules), want.Asked)
			}
		case err == nil || !strings.HasPrefix(want.Err, failure.Text+"\n") || failure.Status != want.Status:
			t.Errorf("%q: got %v, want %q and status %d", text, err, want.Err, want.Status)
		}
	}
}

// spelling is an option with a value that suits it.
type spelling struct{ short, long, value string }

var (
	verbSpellings = []spelling{
		{"-A", "--add-service", ""}, {"-E", "--edit-service", ""}, {"-D", "--delete-service", ""}, {"-C", "--clear", ""},
		{"-a", "--add-server", ""}, {"-e", "--edit-server", ""}, {"-d", "--delete-server", ""}, {"-L", "--list", ""},
		{"-l", "", ""}, {"-Z", "--zero", ""}, {"-S", "--save", ""}, {"-R", "--restore", ""}, {"-h", "--help", ""},
		{"-v", "--version", ""}, {"", "--set", ""}, {"", "--start-daemon", "master"}, {"", "--stop-daemon", "backup"},
	}
	optionSpellings = []spelling{
		{"-t", "--tcp-service", "1.2.3.4:80"}, {"-u", "--udp-service", "1.2.3.4:53"}, {"", "--sctp-service", "1.2.3.4:9"},
		{"-f", "--fwmark-service", "7"}, {"-6", "--ipv6", ""}, {"-s", "--scheduler", "rr"}, {"-p", "--persistent", "60"},
		{"-M", "--netmask", "255.255.255.0"}, {"", "--pe", "sip"}, {"-o", "--ops", ""}, {"-b", "--sched-flags", "flag-1"},
		{"-r", "--real-server", "1.2.3.5:80"}, {"-g", "--gatewaying", ""}, {"-i", "--ipip", ""}, {"-m", "--masquerading", ""},
		{"-w", "--weight", "3"}, {"-x", "--u-threshold", "9"}, {"-y", "--l-threshold", "0"}, {"", "--tun-type", "gue"},
		{"", "--tun-port", "99"}, {"", "--tun-nocsum", ""}, {"", "--tun-csum", ""}, {"", "--tun-remcsum", ""},
		{"-n", "--numeric", ""}, {"-c", "--connection", ""}, {"", "--timeout", ""}, {"", "--daemon", ""}, {"", "--stats", ""},
		{"", "--rate", ""}, {"", "--thresholds", ""}, {"", "--persistent-conn", ""}, {"", "--tun-info", ""},
		{"", "--nosort", ""}, {"", "--sort", ""}, {"-X", "--exact", ""}, {"", "--mcast-interface", "eth0"},
		{"", "--syncid", "1"}, {"", "--mcast-group", "224.0.0.81"}, {"", "--mcast-port", "8848"}, {"", "--mcast-ttl", "1"},
		{"", "--sync-maxlen", "1400"},
	}
)

// forms are the ways to write an option.
func (s spelling) forms() (forms [][]string) {
	add := func(words ...string) { forms = append(forms, words) }
	for _, name := range []string{s.short, s.long} {
		switch {
		case name == "":
		case s.value == "":
			add(name)
			add(name + "=1")
		default:
			add(name, s.value)
			add(name + "=" + s.value)
			if name == s.short {
				add(name + s.value)
			}
			add(name)
		}
	}
	return forms
}

// optionMatrix is every command with every option and every pair of spellings, after what the command needs, and now
// and then by itself or before it. Where skipping is allowed, each pair of command and option comes with one of their
// spellings only.
func optionMatrix() (cases [][]string) {
	every := os.Getenv(testenv.RequireAll) != ""
	turn := 0
	for _, verb := range append(verbSpellings, optionSpellings[0]) {
		needed := verb.needed()
		for _, option := range optionSpellings {
			verbs, options := verb.forms(), option.forms()
			turn++
			for i, v := range verbs {
				for j, o := range options {
					if !every && (i != turn%len(verbs) || j != (turn/len(verbs))%len(options)) {
						continue
					}
					cases = append(cases, concat(v, needed, o))
					if needed != nil && (turn+i+j)%4 == 0 {
						cases = append(cases, concat(v, o), concat(v, o, needed))
					}
				}
			}
		}
	}
	return cases
}

// needed is what a command cannot do without.
func (s spelling) needed() []string {
	switch s.long {
	case "--add-service", "--edit-service", "--delete-service":
		return []string{"-t", "1.2.3.4:80"}
	case "--add-server", "--edit-server", "--delete-server":
		return []string{"-t", "1.2.3.4:80", "-r", "1.2.3.5"}
	case "--set":
		return []string{"1", "2", "3"}
	}
	return nil
}

// orderMatrix is what comes in a wrong order: every option before every command, every command after every other, and
// every option twice, in all its spellings.
func orderMatrix() (cases [][]string) {
	for _, verb := range verbSpellings {
		command := verb.forms()[0]
		for _, option := range optionSpellings {
			cases = append(cases, concat(option.forms()[0], command, verb.needed()))
			for _, again := range option.forms() {
				cases = append(cases, concat(command, verb.needed(), option.forms()[0], again))
			}
		}
		for _, other := range verbSpellings {
			cases = append(cases, concat(command, verb.needed(), other.forms()[0]), concat(command, other.forms()[0], other.needed()))
		}
	}
	return cases
}

// gluedMatrix is every command and every option that have a letter, or two options, in one word.
func gluedMatrix() (cases [][]string) {
	for _, verb := range verbSpellings {
		if verb.short == "" {
			continue
		}
		for _, option := range slices.Concat(optionSpellings, verbSpellings) {
			if option.short == "" {
				continue
			}
			letter := option.short[1:]
			for _, words := range [][]string{{letter, option.value}, {letter + option.value}, {letter + "=" + option.value}} {
				words = slices.DeleteFunc(words, func(word string) bool { return word == "" })
				cases = append(cases,
					concat([]string{verb.short + words[0]}, words[1:], verb.needed()),
					concat([]string{verb.short}, verb.needed(), []string{"-n" + words[0]}, words[1:]),
					concat([]string{verb.short}, verb.needed(), []string{"-o" + words[0]}, words[1:]))
			}
		}
	}
	return cases
}

// pairMatrix is every pair of options after those commands that take some. Where skipping is allowed, it is a tenth of it.
func pairMatrix() (cases [][]string) {
	every := os.Getenv(testenv.RequireAll) != ""
	for _, verb := range verbSpellings {
		switch verb.long {
		case "--add-service", "--add-server", "--list", "--save", "--zero", "--start-daemon":
		default:
			continue
		}
		for i, first := range optionSpellings {
			for j, second := range optionSpellings {
				if every || (i+3*j)%10 == 0 {
					cases = append(cases, concat(verb.forms()[0], verb.needed(), first.forms()[0], second.forms()[0]))
				}
			}
		}
	}
	return cases
}

func concat(parts ...[]string) (words []string) {
	for _, part := range parts {
		words = append(words, part...)
	}
	return words
}

// oddCommands are what people type, and what they should not. The words are separated by blanks; ~ stands for a blank
// in a word, and a word of two single quotes is empty.
func oddCommands() (cases [][]string) {
	const service, server = "-A -t 1.2.3.4:80 ", "-a -t 1.2.3.4:80 -r 1.2.3.5 "
	lines := strings.Split(strings.TrimSpace(`

foo
-
--
-- -A
-q
--foo
-h
-hA
-h foo
--help
-v
-vL
--version
-L
-Ln
-L -n
-nL
-L=5
-Lq
-Ln=5
-Ln=
-L -n5
-L --numeric=5
-L -A
-Lh
-L --add-service
-L --start-daemon master
-L --start-daemon=master
-L -n -n
-L -n --numeric
-L --sort --sort
-L --exact -X
-L -c -t 1.2.3.4:80
-L -c --timeout
-L --timeout --daemon
-L --timeout --stats
-L --daemon --persistent-conn
-L -c --rate
-L -c --persistent-conn
-L -c --tun-info
-L --stats --rate --exact -n
-L --rate --thresholds
-L --persistent-conn --tun-info
-L --syncid 3
-L -t 1.2.3.4:80 -n
-L -t 1.2.3.4
-Ln -t [::1]:80
-l -n --sort
--list --numeric
foo -L -n
-L foo -n
-L -n -- foo
-L -n -- -n
-L --
-S -n
-Sn
-S foo
-R
-R foo
-C
-C foo
-Z
-Z -t 1.2.3.4:80
-Z -u 1.2.3.4
-A
-D
-A -t
-A -t=1.2.3.4:80
-A -t1.2.3.4:80
-At 1.2.3.4:80
-At1.2.3.4:80
-As rr -t 1.2.3.4:80
-Atrr
-A -t ''
-A -t 1.2.3.4
-A -t 1.2.3.4:
-A -t 1.2.3.4:0
-A -t 1.2.3.4:0 -p
-A -t 1.2.3.4:http
-A -u 1.2.3.4:domain
-A -u 1.2.3.4:http
-A --sctp-service 1.2.3.4:http
-A -t 1.2.3.4:+80
-A -t 1.2.3.4:~80
-A -t 1.2.3.4:080
-A -t 1.2.3.4:80~
-A -t 1.2.3.4:-1
-A -t 1.2.3.4:70000
-A -t 1.2.3.4:80:90
-A -t 1.2.3:80
-A -t 1.2:80
-A -t 1.70000:80
-A -t 1.2.300:80
-A -t 1.2.3.256:80
-A -t 1.2.3.4.5:80
-A -t 010.0x1F.3.4:80
-A -t 0x01020304:80
-A -t 0x:80
-A -t 08.1.2.3:80
-A -t 16909060:80
-A -t 12345
-A -t localhost:80
-A -t nosuch.invalid:80
-A -t 1.2.3.4~x:80
-A -t .:80
-A -t [1.2.3.4]:80
-A -t [1.2.3.4]:80 -p
-A -t [1.2.3.4:90]:80
-A -t [::1]
-A -t [::1]:
-A -t [::1]:80
-A -t [::1]80
-A -t [::1:80
-A -t ::1 -p
-A -t ::1:80
-A -t fe80::1%lo
-A -t [::ffff:1.2.3.4]:80
-A -f 0
-A -f -1
-A -f 4294967296
-A -f 7
-A -f 7x
-A -f 1 -6
-A -6 -f 1
-A -6
-A -f 1 -f 2
-A -t 1.2.3.4:80 -u 1.2.3.4:80
-D -t 1.2.3.4:80
-D -t 1.2.3.4
-E -t 1.2.3.4:80 -s mh
--set
--set 1
--set 1 2
--set 1 2 3
--set 0 0 0
--set 1 2 3 4
--set 1 2 x
--set -1 2 3
--set 1 2 2678400
--set 1 2 2678401
--set 1 --sort 2 3
--start-daemon
--start-daemon foo
--start-daemon=
--stop-daemon=foo
--start-daemon backup --syncid 256
--start-daemon backup --mcast-group 1.2.3.4
--start-daemon backup --mcast-group ff02::1
--start-daemon backup --mcast-group fe80::1
--start-daemon backup --mcast-group x
--start-daemon backup --mcast-port 0
--start-daemon backup --mcast-ttl 256
--start-daemon backup --sync-maxlen 65508
--stop-daemon master --syncid -1
-d -r 1.2.3.5 -t 1.2.3.4:80
-d -t 1.2.3.4:80 -r 1.2.3.5:90
-d -t 1.2.3.4:80 -r [::1]:80
-a -t 1.2.3.4:80
-a -r 1.2.3.5 -t 1.2.3.4:80
-a -r 1.2.3.5:http -t 1.2.3.4:80
-a -t 1.2.3.4:80 -r 1.2.3.5:http
-a -t 1.2.3.4:80 -r 1.2.3.5:nosuch
-a -t 1.2.3.4:80 -r 1.2.3.5:90
-a -t 1.2.3.4:80 -r 1.2.3.5:90 -m
-a -t 1.2.3.4:80 -r 12345
-a -t 1.2.3.4:80 -r ::1
-a -t 1.2.3.4:80 -r ::1 -i
-a -t [::2]:80 -r 1.2.3.5
-a -t [::2]:80 -r [::3]:80
-a -f 7 -r 1.2.3.5:80
-a -f 7 -6 -r 1.2.3.5:80
-A -M 255.255.255.0 -p -t 1.2.3.4:80
-A -M 255.255.255.0 -p -t [::1]:80
-A -M 64x -t [::5]:80
-A -t [::5]:80 -M 64x
-A -t [::5]:80 -M 0
-A -t [::5]:80 -M 129
-A -t [::5]:80 -M x
-A -u 1.2.3.4:53 -o
-A -u 1.2.3.4:53 -o -o
-A --sctp-service 1.2.3.4:53 -o
`), "\n")
	for _, options := range []string{
		"-p", "-p 5", "-p5", "-p=5", "-p=", "-p -5", "-p 0", "-p ''", "-p 2678400", "-p 2678401", "-p x", "-p -s rr", "-p -", "--persistent",
		"--persistent=7", "--persistent 7", "--persistent=", "-p -M 24", "-M 24", "-p -M 0", "-p -M 255.255.0.0", "-p -M 255.0.255.0",
		"-p -M 0xffffff00", "-p -M 255.255", "-M x", "-M localhost", "-M ''", "-s", "-s ''", "--scheduler=", "-s -g", "-s nosuch",
		"-s abcdefghijklmnopqrstuvw", "-s mh -b mh-port", "-b mh-port -s mh", "-b mh-port", "-b sh-port", "-b sh-fallback,sh-port -s sh",
		"-s sh -b sh-port,,sh-fallback", "-s sh -b mh-port", "-s sh -b flag-1,flag-2", "-b flag-1,flag-3", "-b flag-4", "-b ''",
		"-b ,sh-port -s sh", "-s sh -b sh-port -b sh-port", "-s twos", "--pe sip", "--pe sip --pe sip", "-o", "--", "-- foo", "-", "foo",
		"-w 3", "-n", "--gatewaying", "-g=1", "-s rr -s wrr", "-t 1.2.3.4:81",
	} {
		lines = append(lines, service+options)
	}
	for _, options := range []string{
		"", "-g", "-i", "-m", "-gi", "-g -g", "-gw3", "-gw=3", "-w3g", "-w", "-w 0", "-w -1", "-w ~7", "-w +7", "-w 7~", "-w 65536",
		"-w 2147483647", "-w 2147483648", "-w 99999999999999999999", "-w 0x10", "-w ''", "-w x", "-w=", "--weight=", "-x 5", "-x 5 -y 3",
		"-y 3", "-x -1", "-x 2147483648", "-y z", "-y ''", "--u-threshold=9 --l-threshold 4", "--tun-type ipip", "-i --tun-type ipip",
		"-i --tun-type gue", "-i --tun-type gue --tun-port 5", "-i --tun-type gue --tun-port 5 --tun-csum --tun-nocsum",
		"-i --tun-type gre --tun-csum", "-i --tun-type gre --tun-port 5", "-i --tun-type gre --tun-remcsum", "-i --tun-csum",
		"-i --tun-type foo", "-i --tun-port 0", "-i --tun-port 65536", "-s rr", "-p", "-M 24", "-n", "--stats", "-r 1.2.3.6", "foo",
	} {
		lines = append(lines, server+options, "-e"+server[2:]+options)
	}
	for _, line := range lines {
		words := strings.Fields(line)
		for i, word := range words {
			words[i] = strings.ReplaceAll(strings.ReplaceAll(word, "~", " "), "''", "")
		}
		cases = append(cases, words)
	}
	return cases
}

// randomCommands are words as they come, mostly after a command.
func randomCommands(count int) (cases [][]string) {
	r := rand.New(rand.NewPCG(1, 2))
	var pool [][]string
	for _, s := range append(verbSpellings[:7:7], optionSpellings...) {
		pool = append(pool, s.forms()...)
	}
	for range count {
		words := verbSpellings[r.IntN(7)].forms()[0]
		for range r.IntN(6) {
			words = concat(words, pool[r.IntN(len(pool))])
		}
		cases = append(cases, words)
	}
	return cases
}
