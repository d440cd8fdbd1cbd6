// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"xdplb/internal/testenv"
)

var update = flag.Bool("update", false, "write what the commands print into the stories' files")

func TestMain(m *testing.M) {
	// Stories wait most of the time, for hosts that do not answer and locks that are not free: more at once than there
	// are CPUs. An explicit -parallel comes later and wins.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){
		"xdplb": mortal, "ipvsadm": main, "ipvsadm-save": main, "ipvsadm-restore": main,
	})
}

// TestStories runs testdata/*.txtar, each on a host of its own: network and mount namespaces with an empty BPF
// filesystem. The commands that they have beside testscript's are below.
func TestStories(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Command("ip"))
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireUniqueNames:  true,
		RequireExplicitExec: false,
		UpdateScripts:       *update,
		Setup: func(script *testscript.Env) error {
			testenv.Namespace(script.T().(testing.TB))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"segment": segment,
			"refused": refused,
			"hold":    hold,
			"release": release,
			"many":    many,
			"schema":  schema,
			"killed":  killed,
			"lvs":     lvs,
		},
	})
}

// segment plugs an interface of the director into an Ethernet segment on which one host has the other addresses:
//
//	segment eth0 192.168.60.4/24 : 192.168.60.8/24 192.168.60.9/24
//
// The director's MAC address is 02:00:00:00:00:04, the host's 02:00:00:00:00:08, its namespace real-eth0.
func segment(script *testscript.TestScript, neg bool, args []string) {
	usage := "usage: segment INTERFACE ADDRESS/LENGTH... : ADDRESS/LENGTH..."
	own, others, ok := strings.Cut(strings.Join(args, " "), " : ")
	words := strings.Fields(own)
	if neg || !ok || len(words) < 2 {
		script.Fatalf("%s", usage)
	}
	name := words[0]
	host := "real-" + name
	ip := func(command string) {
		script.Check(script.Exec("ip", strings.Fields(command)...))
	}
	ip("netns add " + host)
	ip("link add " + name + " address 02:00:00:00:00:04 type veth peer name eth0 address 02:00:00:00:00:08 netns " + host)
	assign := func(ip func(string), device string, addresses []string) {
		ip("link set " + device + " up")
		for _, address := range addresses {
			command := "addr add " + address + " dev " + device
			if strings.Contains(address, ":") {
				command += " nodad"
			}
			ip(command)
		}
	}
	assign(ip, name, words[1:])
	assign(func(command string) { ip("-n " + host + " " + command) }, "eth0", strings.Fields(others))
}

// refused runs xdplb and checks that it exits with a status, says a text on standard error, prints nothing, and has
// changed nothing:
//
//	refused 2 '--scheduler "foo"' service add 172.10.0.9:80 --scheduler foo
func refused(script *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		script.Fatalf("usage: refused STATUS TEXT [XDPLB-ARGUMENT...]")
	}
	want, err := strconv.Atoi(args[0])
	script.Check(err)
	text := args[1]

	before := configuration()
	err = script.Exec("xdplb", args[2:]...)
	stdout, stderr := script.ReadFile("stdout"), script.ReadFile("stderr")
	after := configuration()

	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		script.Fatalf("got %v, want exit status %d; it said:\n%s", err, want, stderr)
	}
	if !strings.Contains(stderr, text) {
		script.Fatalf("it said:\n%swant in it:\n%s", stderr, text)
	}
	if !strings.HasPrefix(stderr, "xdplb: ") || strings.Count(stderr, "\nhint: ") > 1 {
		script.Fatalf("an error begins with \"xdplb: \" and has at most one hint:\n%s", stderr)
	}
	if stdout != "" {
		script.Fatalf("a refused command printed:\n%s", stdout)
	}
	if before != after {
		script.Fatalf("a refused command changed something; before:\n%s\nafter:\n%s", before, after)
	}
}

// hold takes the exclusive lock of a directory, as another writer would, until release; $HOLDER is its process id.
func hold(script *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		script.Fatalf("usage: hold DIRECTORY")
	}
	dir, err := os.Open(args[0])
	script.Check(err)
	script.Check(unix.Flock(int(dir.Fd()), unix.LOCK_EX))
	script.Defer(func() { dir.Close() })
	script.Setenv("HOLDER", strconv.Itoa(os.Getpid()))
	script.Setenv("LOCKED", strconv.Itoa(int(dir.Fd())))
}

// release lets go of the lock that hold has taken.
func release(script *testscript.TestScript, neg bool, args []string) {
	fd, err := strconv.Atoi(script.Getenv("LOCKED"))
	script.Check(err)
	script.Check(unix.Flock(fd, unix.LOCK_UN))
}

// many writes a file in ipvsadm's format with a number of services 10.0.x.y:80, each with the same two backends.
func many(script *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		script.Fatalf("usage: many SERVICES FILE")
	}
	count, err := strconv.Atoi(args[0])
	script.Check(err)
	var rules strings.Builder
	for i := range count {
		service := fmt.Sprintf("10.0.%d.%d:80", i/100, i%100+1)
		fmt.Fprintf(&rules, "-A -t %s -s rr\n", service)
		for _, backend := range []string{"192.168.60.8", "192.168.60.9"} {
			fmt.Fprintf(&rules, "-a -t %s -r %s:80 -g -w 1\n", service, backend)
		}
	}
	script.Check(os.WriteFile(script.MkAbs(args[1]), []byte(rules.String()), 0o644))
}

// schema makes the pins ones of another version.
func schema(script *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		script.Fatalf("usage: schema NUMBER")
	}
	number, err := strconv.ParseUint(args[0], 10, 32)
	script.Check(err)
	meta, err := ebpf.LoadPinnedMap("/sys/fs/bpf/xdplb/meta", nil)
	script.Check(err)
	defer meta.Close()
	value, err := meta.LookupBytes(uint32(0)) // struct meta: the schema, and then what else the pins were made with
	script.Check(err)
	binary.NativeEndian.PutUint32(value, uint32(number))
	script.Check(meta.Put(uint32(0), value))
}

// configuration is all that a command can change, as text; before the first attach, it is an error text.
func configuration() string {
	var all strings.Builder
	for _, command := range []string{"save", "backend list", "vip list"} {
		// The script's thread is this one, and the command inherits its namespaces.
		text, _ := exec.Command("xdplb", strings.Fields(command)...).CombinedOutput()
		all.Write(text)
	}
	return all.String()
}
