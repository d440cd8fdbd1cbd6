// SPDX-License-Identifier: Apache-2.0

// Command xdplb-lab raises the reference cluster (a client, a router, a director and real servers with nginx, each a
// network namespace of this machine) for trying xdplb on, and takes it away again. "xdplb-lab demo" walks through it.
//
// Standard output is data, standard error is talk. Exit status: 0 done, 1 failed, 2 wrong usage; exec and shell end
// with the status of what they ran.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"xdplb/internal/help"
	"xdplb/internal/lab"
	"xdplb/internal/output"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(typed(os.Args[0], os.Getenv("SUDO_COMMAND")), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// typed is how the user calls this program, so that what it says to type can be pasted: with its path, and with sudo if
// that has run it, or make, but not if it has run a shell.
func typed(program, sudoCommand string) string {
	command, _, _ := strings.Cut(sudoCommand, " ")
	switch filepath.Base(command) {
	case "xdplb-lab", "make":
		return "sudo " + program
	}
	return program
}

// environment is what a command acts in.
type environment struct {
	program string // how the user has called it
	stdin   io.Reader
	stdout  *output.Writer
	stderr  io.Writer
	begun   bool // the command line was right and the command has begun
}

// action makes a cobra RunE of a command's own function.
func (env *environment) action(do func(args []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		env.begun = true
		return do(args)
	}
}

// statusError ends xdplb-lab with the exit status of a command that it ran, and without a word: the command has spoken.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// run executes one command line and returns its exit status.
func run(program string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	env := &environment{program: program, stdin: stdin, stdout: &output.Writer{To: stdout}, stderr: stderr}
	root := rootCommand(env)
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err = env.stdout.Check(err); err == nil {
		return exitDone
	}
	var ran statusError
	if errors.As(err, &ran) {
		return int(ran)
	}
	fmt.Fprintf(stderr, "xdplb-lab: %v\n", err)
	if !env.begun && !env.stdout.Failed() {
		fmt.Fprintf(stderr, "hint: %s\n", help.For(cmd))
		return exitUsage
	}
	if text := env.hint(err); text != "" {
		fmt.Fprintf(stderr, "hint: %s\n", text)
	}
	return exitFailed
}

// rootCommand is the table of all commands.
func rootCommand(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "xdplb-lab",
		Short: "The reference cluster on one machine, for trying xdplb",
		Long: `xdplb-lab raises a whole cluster on this machine: client, router, director and real servers with nginx. Each host
is a network namespace, xdplb-client, xdplb-router and so on, and nothing of it touches the machine's own network.
It stays up until "xdplb-lab down".`,
		Example: `  xdplb-lab up
  xdplb-lab exec director -- xdplb attach eth0
  xdplb-lab exec director -- xdplb service add 172.10.0.9:80 --scheduler rr
  xdplb-lab exec director -- xdplb backend add 192.168.60.8
  xdplb-lab exec client -- curl http://172.10.0.9/
  xdplb-lab down`,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return errors.New("which command? up, down, status, exec, shell or demo")
		},
	}
	root.SetIn(env.stdin)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return help.FlagError(err) })
	root.AddCommand(upCommand(env), downCommand(env), statusCommand(env),
		execCommand(env), shellCommand(env), demoCommand(env))
	help.Install(root, "", unknownCommand)
	return root
}

func unknownCommand(_ *cobra.Command, word string) error {
	return fmt.Errorf("unknown command %q", word)
}

// noArguments refuses arguments.
func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q", args[0])
	}
	return nil
}

// hint says in one line what to do about an error, or nothing.
func (env *environment) hint(err error) string {
	var (
		up      *lab.UpError
		foreign *lab.ForeignNamespaceError
		inside  *lab.InsideError
		busy    *lab.BusyError
	)
	switch {
	case errors.Is(err, lab.ErrNotRoot):
		return "run it with sudo"
	case errors.Is(err, lab.ErrDown):
		return "raise it: " + env.program + " up"
	case errors.Is(err, lab.ErrInterrupted):
		return "clear them away: " + env.program + " down"
	case errors.As(err, &up):
		return "take it down first: " + env.program + " down"
	case errors.As(err, &foreign):
		return "if nobody needs it, delete it: ip netns del " + foreign.Name
	case errors.As(err, &inside):
		return "leave its shell and try again"
	case errors.As(err, &busy):
		return "wait for it to end and try again"
	}
	return ""
}
