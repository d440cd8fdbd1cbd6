// SPDX-License-Identifier: Apache-2.0

// Command xdplb is the operator's hand on the load balancer: it attaches the XDP program to interfaces, edits and
// lists the virtual services and their backends, and sets up real servers. It keeps no state of its own: every command
// reads the pinned maps, and those that write go through datapath.Change.
//
// Each noun of the command line is a file: "xdplb backend add" is in backend.go. Standard output is data, standard
// error is talk, and success says nothing. Exit status: 0 done, 1 failed or refused, 2 wrong usage, which is whatever
// is wrong with the command line itself and could be known without looking at the machine.
//
// Called through a link by the name ipvsadm, ipvsadm-save or ipvsadm-restore, it is that tool of LVS's: ipvsadm.go.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"xdplb/internal/datapath"
	"xdplb/internal/help"
	"xdplb/internal/output"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run executes one command line, of which the first word is the program's name, and returns its exit status.
func run(words []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// The first signal ends waiting, but lets a change of the tables that has begun come to its end; the second kills.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	env := &environment{ctx: ctx, stdin: stdin, stdout: &output.Writer{To: stdout}, stderr: stderr, pinDir: defaultPinDir()}
	if tool := personality(words[0]); tool != nil {
		return env.runAsLVS(tool, words)
	}
	root := rootCommand(env)
	root.SetArgs(words[1:])
	cmd, err := root.ExecuteC()
	if err = env.stdout.Check(err); err == nil {
		return exitDone
	}
	status := exitFailed
	if !env.begun && !env.stdout.Failed() || isUsage(err) {
		status = exitUsage
		err = withHint(err, help.For(cmd))
	}
	fmt.Fprintf(stderr, "xdplb: %v\n", err)
	if text := hint(err); text != "" {
		fmt.Fprintf(stderr, "hint: %s\n", text)
	}
	return status
}

// rootCommand is the table of all commands.
func rootCommand(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "xdplb",
		Short: "A layer-4 load balancer on XDP, in direct-routing mode",
		Long: `xdplb is a layer-4 load balancer in direct-routing (DR) mode, as LVS with "ipvsadm -g". On the director, an XDP
program gives every frame for a virtual service (VIP, port, protocol) the MAC address of a backend, and sends it back
to the segment. The backend, a real server that holds the VIP silently on its loopback interface, answers the client
directly.

The configuration lives in pinned BPF maps: it stays when a command ends, and is gone after a reboot. "xdplb save"
prints it for a file, "xdplb restore" and "xdplb apply" read one.`,
		Example: `  # on each real server: hold the VIP without answering ARP for it
  xdplb realserver setup 172.10.0.9 --gateway 192.168.60.1

  # on the director
  xdplb vip add 172.10.0.9 --dev eth0
  xdplb attach eth0
  xdplb service add 172.10.0.9:80 --scheduler rr
  xdplb backend add 192.168.60.8
  xdplb backend add 192.168.60.9
  xdplb list -n`,
		Args:          subcommand,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return noCommand(cmd) },
	}
	root.SetIn(env.stdin)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	root.SetFlagErrorFunc(flagError)
	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.StringVar(&env.pinDir, "pin-dir", defaultPinDir(), "`DIRECTORY` of the pinned maps, on a BPF filesystem (or XDPLB_PIN_DIR)")
	flags.StringVar(&env.netns, "netns", "", "act in the network namespace `NAME`, as made by \"ip netns add\"")

	group := func(id, title string, commands ...*cobra.Command) {
		root.AddGroup(&cobra.Group{ID: id, Title: title})
		for _, command := range commands {
			command.GroupID = id
			root.AddCommand(command)
		}
	}
	group("director", "Director:",
		attachCommand(env), detachCommand(env), vipCommand(env), statusCommand(env))
	group("tables", "Services and backends:",
		serviceCommand(env), backendCommand(env), listCommand(env), connectionsCommand(env), timeoutsCommand(env), zeroCommand(env), flushCommand(env))
	group("files", "Whole configurations:",
		saveCommand(env), restoreCommand(env), applyCommand(env), importCommand(env))
	group("servers", "Real servers:",
		realserverCommand(env))
	group("other", "Other:",
		versionCommand(env))
	help.Install(root, "other", unknownCommand)
	return root
}

func defaultPinDir() string {
	if dir := os.Getenv("XDPLB_PIN_DIR"); dir != "" {
		return dir
	}
	return datapath.DefaultPinDir
}
