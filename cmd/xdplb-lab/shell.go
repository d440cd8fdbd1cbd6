// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func shellCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "shell HOST",
		Short: "Open a shell on a host",
		Long: `Open $SHELL (or /bin/sh) on a host of the cluster, and end with its exit status. Only its network is the host's;
files and processes are this machine's. "xdplb-lab down" ends it too.`,
		Example: `  xdplb-lab shell director`,
		Args: func(_ *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return errors.New("HOST is missing")
			case 1:
				return nil
			}
			return fmt.Errorf("unexpected argument %q", args[1])
		},
		RunE:              env.action(func(args []string) error { return env.shell(args[0]) }),
		ValidArgsFunction: completeHost,
	}
}

// shell tells the host by the prompt, where the shell does not set its own.
func (env *environment) shell(host string) error {
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	return env.exec(host, []string{shell}, "PS1="+host+"# ")
}
