// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpCommand is "xdplb help"; unlike cobra's, it fails for a topic that there is not.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND...]",
		Short:   "Explain a command",
		Long:    "Explain xdplb, or a command.",
		Example: `  xdplb help backend add`,
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return unknownCommand(topic, rest[0])
			}
			return topic.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []cobra.Completion
			if topic, _, err := cmd.Root().Find(args); err == nil {
				for _, sub := range topic.Commands() {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// printHelp prints what "help" and --help say about a command: as cobra's own template does, but without what is the
// same for every command.
func printHelp(cmd *cobra.Command, _ []string) {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s\n\nUsage:\n  %s\n", strings.TrimSpace(cmd.Long), usageLine(cmd))
	printCommands(out, cmd)
	if cmd.HasExample() {
		fmt.Fprintf(out, "\nExamples:\n%s\n", cmd.Example)
	}
	title := "Flags"
	if !cmd.HasParent() {
		title = "Flags of every command"
	}
	printFlags(out, title, cmd.LocalFlags())
}

// usageLine is "xdplb backend add ADDRESS [flags]".
func usageLine(cmd *cobra.Command) string {
	line := cmd.CommandPath()
	if _, words, ok := strings.Cut(cmd.Use, " "); ok {
		line += " " + words
	}
	switch {
	case cmd.HasAvailableSubCommands():
		line += " COMMAND"
	case hasFlags(cmd.LocalNonPersistentFlags()):
		line += " [flags]"
	}
	return line
}

// printCommands lists the subcommands, by group if they have groups.
func printCommands(out io.Writer, cmd *cobra.Command) {
	groups := cmd.Groups()
	if len(groups) == 0 {
		groups = []*cobra.Group{{Title: "Commands:"}}
	}
	if !cmd.HasAvailableSubCommands() {
		return
	}
	for _, group := range groups {
		fmt.Fprintf(out, "\n%s\n", group.Title)
		for _, sub := range cmd.Commands() {
			if (sub.IsAvailableCommand() || sub.Name() == "help") && sub.GroupID == group.ID {
				fmt.Fprintf(out, "  %-12s %s\n", sub.Name(), sub.Short)
			}
		}
	}
}

func printFlags(out io.Writer, title string, flags *pflag.FlagSet) {
	if !hasFlags(flags) {
		return
	}
	fmt.Fprintf(out, "\n%s:\n", title)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	flags.VisitAll(func(flag *pflag.Flag) {
		if !worthHelp(flag) {
			return
		}
		kind, text := pflag.UnquoteUsage(flag)
		name := "--" + flag.Name
		if flag.Shorthand != "" {
			name = "-" + flag.Shorthand + ", " + name
		}
		if flag.Value.Type() != "bool" {
			name += " " + kind
			if flag.DefValue != "" && flag.DefValue != "0" && flag.DefValue != "[]" {
				text += " (default " + flag.DefValue + ")"
			}
		}
		fmt.Fprintf(table, "  %s\t%s\n", name, text)
	})
	_ = table.Flush() // help has nowhere to complain to
}

func hasFlags(flags *pflag.FlagSet) (any bool) {
	flags.VisitAll(func(flag *pflag.Flag) { any = any || worthHelp(flag) })
	return any
}

// worthHelp leaves out --help, which its reader knows.
func worthHelp(flag *pflag.Flag) bool {
	return !flag.Hidden && flag.Name != "help"
}
