// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"xdplb/internal/lab"
)

func execCommand(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec HOST -- COMMAND [ARGUMENT...]",
		Short: "Run a command on a host",
		Long: `Run a command on a host of the cluster, and end with its exit status. Only its network is the host's; files and
processes are this machine's. The directory of xdplb-lab comes first in PATH, and XDPLB_PIN_DIR is the host's own.`,
		Example: `  xdplb-lab exec director -- xdplb list -n
  xdplb-lab exec client -- curl http://172.10.0.9/
  xdplb-lab exec router -- ip neigh`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return errors.New("HOST is missing")
			case len(commandOf(args)) == 0:
				return errors.New("COMMAND is missing")
			}
			return nil
		},
		RunE:              env.action(func(args []string) error { return env.exec(args[0], commandOf(args)) }),
		ValidArgsFunction: completeHost,
	}
	// What follows HOST belongs to COMMAND, with or without the two dashes.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// commandOf returns what follows HOST, without the dashes.
func commandOf(args []string) []string {
	if len(args) > 1 && args[1] == "--" {
		return args[2:]
	}
	return args[1:]
}

// exec runs the command on the host of that name.
func (env *environment) exec(host string, command []string, more ...string) error {
	l, err := lab.Open()
	if err != nil {
		return err
	}
	defer l.Close()
	h, err := l.Find(host)
	if err != nil {
		return err
	}
	path, err := ownPath()
	if err != nil {
		return err
	}
	cmd := h.Command(context.Background(), command[0], command[1:]...)
	cmd.Env = append(append(cmd.Env, "PATH="+path), more...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = env.stdin, env.stdout.To, env.stderr
	return relay(cmd)
}

// ownPath is PATH with the directory of this executable in front: xdplb is built beside xdplb-lab.
func ownPath() (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the directory of xdplb-lab: %w", err)
	}
	return filepath.Dir(own) + string(os.PathListSeparator) + os.Getenv("PATH"), nil
}

// relay runs a command in this process's place: it gets the signals that are sent to this process alone, and its exit
// status becomes a [statusError], 128 plus the signal's number if it was killed.
func relay(cmd *exec.Cmd) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case received := <-signals:
			if received == syscall.SIGTERM || received == syscall.SIGHUP {
				// If it has just ended, there is nobody left to tell. The others come from the terminal, to both.
				_ = cmd.Process.Signal(received)
			}
		case err := <-ended:
			return exitStatus(err)
		}
	}
}

// exitStatus makes a statusError of a command that ended badly.
func exitStatus(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return statusError(128 + int(status.Signal()))
	}
	return statusError(exit.ExitCode())
}

// completeHost completes the first argument.
func completeHost(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	l, err := lab.Open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer l.Close()
	var names []cobra.Completion
	for _, h := range l.Hosts() {
		names = append(names, h.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
