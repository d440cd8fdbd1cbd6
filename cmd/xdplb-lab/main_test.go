// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"xdplb/internal/datapath"
	"xdplb/internal/lab"
	"xdplb/internal/testenv"
)

// command runs one command line in this process.
func command(args ...string) (status int, stdout, stderr string) { return withInput("", args...) }

// withInput runs one command line in this process, with something on standard input.
func withInput(input string, args ...string) (status int, stdout, stderr string) {
	var out, talk strings.Builder
	status = run("xdplb-lab", args, strings.NewReader(input), &out, &talk)
	return status, out.String(), talk.String()
}

// unaligned makes all runs of blanks one.
func unaligned(text string) string {
	var lines strings.Builder
	for line := range strings.Lines(text) {
		lines.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return lines.String()
}

// TestUsage wants wrong command lines refused with the word that is wrong, before anything is done.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{}, "xdplb-lab: which command? up, down, status, exec, shell or demo\nhint: xdplb-lab help\n"},
		{[]string{"help", "upp"}, "xdplb-lab: unknown command \"upp\"\nhint: xdplb-lab help\n"},
		{[]string{"upp"}, "xdplb-lab: unknown command \"upp\"\nhint: xdplb-lab help\n"},
		{[]string{"up", "now"}, "xdplb-lab: unexpected argument \"now\"\nhint: xdplb-lab help up\n"},
		{[]string{"up", "--arp", "loud"},
			"xdplb-lab: --arp \"loud\": want static, sysctl, filter or none\nhint: xdplb-lab help up\n"},
		{[]string{"up", "--backends", "two"}, "xdplb-lab: --backends \"two\": must be an integer\nhint: xdplb-lab help up\n"},
		{[]string{"up", "--backends"}, "xdplb-lab: --backends needs a value, N\nhint: xdplb-lab help up\n"},
		{[]string{"up", "--backends", "0"}, "xdplb-lab: --backends 0: want 1 to 200\nhint: xdplb-lab help up\n"},
		{[]string{"up", "--directors", "3"}, "xdplb-lab: --directors 3: want 1 or 2\nhint: xdplb-lab help up\n"},
		{[]string{"exec"}, "xdplb-lab: HOST is missing\nhint: xdplb-lab help exec\n"},
		{[]string{"exec", "client", "--"}, "xdplb-lab: COMMAND is missing\nhint: xdplb-lab help exec\n"},
		{[]string{"shell"}, "xdplb-lab: HOST is missing\nhint: xdplb-lab help shell\n"},
		{[]string{"shell", "client", "bash"}, "xdplb-lab: unexpected argument \"bash\"\nhint: xdplb-lab help shell\n"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			t.Parallel()
			status, stdout, stderr := command(test.args...)
			if status != exitUsage || stdout != "" {
				t.Errorf("status %d, standard output %q, want %d and nothing", status, stdout, exitUsage)
			}
			if diff := cmp.Diff(test.want, stderr); diff != "" {
				t.Errorf("standard error (-want +got):\n%s", diff)
			}
		})
	}
}

// TestFullDevice wants what cannot be written said.
func TestFullDevice(t *testing.T) {
	t.Parallel()
	full := testenv.Full(t)
	for _, args := range [][]string{{"--help"}, {"help", "up"}, {"completion", "bash"}} {
		var talk strings.Builder
		status := run("xdplb-lab", args, strings.NewReader(""), full, &talk)
		if want := "xdplb-lab: writing to standard output: no space left on device\n"; status != exitFailed || talk.String() != want {
			t.Errorf("%v: status %d, %q, want %d, %q", args, status, talk.String(), exitFailed, want)
		}
	}
}

// TestHelp wants every command explained, by "help" and --help alike, and not in the words of the library.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, cmd := range append(rootCommand(&environment{}).Commands(), rootCommand(&environment{})) {
		path := strings.Fields(cmd.CommandPath())[1:]
		status, got, stderr := command(append([]string{"help"}, path...)...)
		want := cmd.Long + "\n\nUsage:\n  " + cmd.CommandPath()
		if status != exitDone || stderr != "" || !strings.HasPrefix(got, want) || strings.Contains(got, "help for") {
			t.Errorf("help %v: status %d\n%s%s\nwant at first\n%s", path, status, got, stderr, want)
		}
		for line := range strings.Lines(got) {
			if len(strings.TrimSuffix(line, "\n")) > 120 {
				t.Errorf("help %v: longer than 120 columns: %s", path, line)
			}
		}
		if _, same, _ := command(append(path, "--help")...); same != got {
			t.Errorf("%v --help is not what help says (-help +--help):\n%s", path, cmp.Diff(got, same))
		}
	}
}

// TestNotRoot wants who lacks root to be told so.
func TestNotRoot(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Root, testenv.Command("nginx"))
	runtime.LockOSThread() // which the raw system call changes alone, and which ends with the test
	const nobody = 65534
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
		t.Fatal(errno)
	}
	for _, name := range []string{"up", "down"} {
		status, _, stderr := command(name)
		if want := "xdplb-lab: network namespaces need root\nhint: run it with sudo\n"; status != exitFailed || stderr != want {
			t.Errorf("%s: status %d, %q, want %d, %q", name, status, stderr, exitFailed, want)
		}
	}
	if _, err := lab.Private(t.Context(), lab.Options{}); !errors.Is(err, lab.ErrNotRoot) {
		t.Errorf("what the demo raises: %v, want %v", err, lab.ErrNotRoot)
	}
}

// TestStory walks a user through a cluster: up, twice, look, run commands, down, twice.
func TestStory(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Command("nginx"))
	testenv.Namespace(t)
	// wants checks one command line by its status and by words that its outputs hold.
	wants := func(status int, stdout, stderr string, args ...string) {
		t.Helper()
		gotStatus, gotOut, gotErr := command(args...)
		if gotStatus != status || !strings.Contains(gotOut, stdout) || !strings.Contains(gotErr, stderr) {
			t.Errorf("%v: status %d\nstdout: %s\nstderr: %s\nwant %d, %q, %q",
				args, gotStatus, gotOut, gotErr, status, stdout, stderr)
		}
	}
	wants(exitFailed, "", "the cluster is not up\nhint: raise it: xdplb-lab up\n", "status")
	wants(exitFailed, "", "the cluster is not up", "exec", "client", "--", "true")
	wants(exitDone, "", "the cluster is not up", "down")

	options := []string{"--backends", "3", "--directors", "2", "--ipv6", "--arp", "filter"}
	up := append([]string{"up"}, options...)
	wants(exitDone, "\n  xdplb-lab exec director -- xdplb backend add 192.168.60.8\n", "", up...)
	wants(exitDone, "real3", "the cluster is up already\n", up...)
	wants(exitFailed, "", "the cluster is up already\nhint: take it down first: xdplb-lab down\n", "up")
	onDirector(t, func(pinDir string) error {
		_, err := datapath.Attach(pinDir, "eth0", datapath.Auto, datapath.Capacity{Flows: 1024, Services: 16, Backends: 16})
		return err
	})
	if _, out, _ := command(up...); !strings.Contains(out, "eth0 carries xdplb (XDP, native)") || strings.Contains(out, "xdplb attach") {
		t.Errorf("the director is set up, and up says\n%s", out)
	}
	onDirector(t, datapath.DetachAll)

	_, drawing, _ := command("status")
	want := `HOST            ADDRESSES                                 STATE
client          eth0 10.10.0.1/8
                     2001:db8:10::1/64
router          eth0 10.10.0.88/8
                     2001:db8:10::88/64
                eth1 172.10.0.1/16 192.168.60.1/24
                     2001:db8:60::1/64 2001:db8:ac::1/64
switch
  +- director   eth0 172.10.0.9/16 192.168.60.4/24        xdplb is not attached
                     2001:db8:60::4/64 2001:db8:ac::9/64
  +- director2  eth0 192.168.60.5/24                      xdplb is not attached
                     2001:db8:60::5/64
  +- real1      lo 172.10.0.9                             nginx runs
                   2001:db8:ac::9
                eth0 192.168.60.8/24
                     2001:db8:60::8/64
  +- real2      lo 172.10.0.9                             nginx runs
                   2001:db8:ac::9
                eth0 192.168.60.9/24
                     2001:db8:60::9/64
  +- real3      lo 172.10.0.9                             nginx runs
                   2001:db8:ac::9
                eth0 192.168.60.10/24
                     2001:db8:60::10/64
`
	if diff := cmp.Diff(want, drawing); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	wants(exitDone, "director2 /run/xdplb-lab/bpf/director2\n", "",
		"exec", "director2", "--", "sh", "-c", "echo $XDPLB_LAB_HOST $XDPLB_PIN_DIR")
	wants(exitDone, "real2\n", "", "exec", "client", "curl", "-sS", "http://192.168.60.9/")
	wants(7, "", "", "exec", "client", "--", "sh", "-c", "exit 7")
	wants(128+9, "", "", "exec", "client", "--", "sh", "-c", "kill -9 $$")
	wants(exitFailed, "", `no host "real4": there are client, router, switch, director`, "exec", "real4", "--", "true")
	wants(exitFailed, "", `no host "real4"`, "shell", "real4")
	status, out, talk := withInput("ip -o -4 address show dev eth0 | cut -d ' ' -f 7\necho $XDPLB_PIN_DIR\nexit 7\n", "shell", "real2")
	if diff := cmp.Diff("192.168.60.9/24\n/run/xdplb-lab/bpf/real2\n", unaligned(out)); status != 7 || diff != "" {
		t.Errorf("a shell on real2: status %d, want 7; %s\n(-want +got):\n%s", status, talk, diff)
	}

	wants(exitDone, "", "", "down")
	wants(exitFailed, "", "not up", "status")
	if left, err := filepath.Glob("/run/*/*"); err != nil || len(left) > 0 {
		t.Errorf("left after down: %v (%v)", left, err)
	}
}

// onDirector acts on the director of the cluster that is up.
func onDirector(t *testing.T, do func(pinDir string) error) {
	t.Helper()
	l, err := lab.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	director := l.Host("director")
	if err := director.Do(func() error { return do(director.PinDir()) }); err != nil {
		t.Fatal(err)
	}
}

// TestTyped wants what is said to type to be what the user has typed.
func TestTyped(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ program, sudo, want string }{
		{"build/xdplb-lab", "", "build/xdplb-lab"},
		{"build/xdplb-lab", "/src/xdplb/build/xdplb-lab up --ipv6", "sudo build/xdplb-lab"},
		{"build/xdplb-lab", "/usr/bin/make demo", "sudo build/xdplb-lab"},
		{"xdplb-lab", "/bin/bash", "xdplb-lab"},
	} {
		if got := typed(test.program, test.sudo); got != test.want {
			t.Errorf("%s by sudo %q: got %q, want %q", test.program, test.sudo, got, test.want)
		}
	}
}

// TestARPProblem types what "up --arp none" says to type, until the router has a real server's MAC address for the VIP.
func TestARPProblem(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Command("nginx"), testenv.Command("curl"))
	testenv.Namespace(t)
	defer command("down")
	_, out, _ := command("up", "--arp", "none")
	_, hint, found := strings.Cut(out, "\nNothing keeps the real servers from answering ARP for the VIP.")
	if !found {
		t.Fatalf("up says\n%s", out)
	}
	const director = "02:00:c0:a8:3c:04"
	if !strings.Contains(hint, director) {
		t.Errorf("the hint does not name the director's MAC address:\n%s", hint)
	}
	var last string
	for range 20 { // the fastest answer is forgotten, the last stays
		for line := range strings.Lines(hint) {
			if words := strings.Fields(line); len(words) > 0 && words[0] == "xdplb-lab" {
				_, last, _ = command(words[1:]...)
			}
		}
		if strings.Contains(last, "lladdr") && !strings.Contains(last, director) {
			return
		}
	}
	t.Errorf("the router knows the VIP at last as %q, want a real server's MAC address", last)
}

// TestFindProgram wants the demo to show what its commands say.
func TestFindProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"xdplb": 0o755, "other": 0o755} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := findProgram(filepath.Join(dir, "xdplb")); err != nil || got != dir {
		t.Errorf("findProgram: %q, %v, want %q", got, err, dir)
	}
	for _, name := range []string{"other", "sub/xdplb"} {
		if got, err := findProgram(filepath.Join(dir, name)); err == nil {
			t.Errorf("findProgram(%s): %q, want an error", name, got)
		}
	}
}
