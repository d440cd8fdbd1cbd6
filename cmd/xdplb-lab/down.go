// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"xdplb/internal/lab"
)

func downCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take the cluster away",
		Long: `End every process on the cluster's hosts and remove its network namespaces, pins and files; also what an
interrupted "up" or "down" left. Without a cluster there is nothing to do.`,
		Args: noArguments,
		RunE: env.action(func([]string) error {
			err := lab.Down()
			if errors.Is(err, lab.ErrDown) {
				fmt.Fprintln(env.stderr, err)
				return nil
			}
			return err
		}),
	}
}
