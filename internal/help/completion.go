// SPDX-License-Identifier: Apache-2.0

package help

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
)

// completionCommand is "completion" of the program of that name.
func completionCommand(program string) *cobra.Command {
	shells := []cobra.Completion{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a script with which a shell completes commands",
		Long: `Print a script with which bash, zsh or fish completes commands, flags, and what there is to name. It is run in the
current shell, or stored where every new one finds it; bash needs the package bash-completion for it.`,
		Example: fmt.Sprintf(`  source <(%[1]s completion bash)                            # this shell
  %[1]s completion bash > /etc/bash_completion.d/%[1]s
  %[1]s completion zsh > /usr/local/share/zsh/site-functions/_%[1]s
  %[1]s completion fish > /etc/fish/completions/%[1]s.fish`, program),
		ValidArgsFunction: cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp),
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return errors.New("SHELL is missing")
			case len(args) > 1:
				return fmt.Errorf("unexpected argument %q", args[1])
			case !slices.Contains(shells, args[0]):
				return fmt.Errorf("unknown shell %q: want bash, zsh or fish", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			write := map[string]func(io.Writer) error{
				"bash": func(w io.Writer) error { return cmd.Root().GenBashCompletionV2(w, true) },
				"zsh":  cmd.Root().GenZshCompletion,
				"fish": func(w io.Writer) error { return cmd.Root().GenFishCompletion(w, true) },
			}
			return write[args[0]](cmd.OutOrStdout())
		},
	}
}
