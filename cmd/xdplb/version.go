// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by packagers: go build -ldflags "-X main.version=1.2.3". Otherwise it is what Go knows about the
// source tree. The linker's flag is the reason for a package-level variable; nothing writes it.
var version string

func versionCommand(env *environment) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    `Print the version of xdplb, and of the layout of its pinned maps: only pins of the same schema can be used.`,
		Example: `  xdplb version --json`,
		Args:    takes(),
		RunE: env.action(func([]string) error {
			view := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{buildVersion(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if asJSON {
				return env.json(view)
			}
			_, err := fmt.Fprintf(env.stdout, "xdplb %s (%s, %s)\n", view.Version, view.Go, view.Platform)
			return err
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
