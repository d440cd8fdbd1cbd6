// SPDX-License-Identifier: Apache-2.0

// Package help makes xdplb, xdplb-lab and xdplb-bench explain themselves in one form and voice: the command "help", the
// flag --help, the command "completion", and errors about flags.
package help

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Install puts the package's commands into a program in place of cobra's. They belong to the group of that id, "" if
// there are no groups. The error of unknown is what "help" says of a word that is no command of the given one.
func Install(root *cobra.Command, group string, unknown func(cmd *cobra.Command, word string) error) {
	help := command(unknown)
	completion := completionCommand(root.Name())
	help.GroupID, completion.GroupID = group, group
	root.SetHelpCommand(help)
	root.SetHelpFunc(printHelp)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(completion)
}

// For is the command line that explains a command: "xdplb help backend add".
func For(cmd *cobra.Command) string {
	program, words, _ := strings.Cut(cmd.CommandPath(), " ")
	if words == "help" {
		words = ""
	}
	return strings.TrimSpace(program + " help " + words)
}

// command is "help"; unlike cobra's, it fails for a topic that there is not.
func command(unknown func(*cobra.Command, string) error) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Explain a command",
		Long:  "Explain the program, or a command of it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return unknown(topic, rest[0])
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
	case hasFlags(cmd.LocalNonPersistentFlags(), func(flag *pflag.Flag) bool { return !mentions(cmd.Use, flag) }):
		line += " [flags]"
	}
	return line
}

// mentions says whether a usage line has a flag in it already.
func mentions(use string, flag *pflag.Flag) bool {
	words := strings.FieldsFunc(use, func(r rune) bool { return strings.ContainsRune(" []|", r) })
	return slices.Contains(words, "--"+flag.Name) || flag.Shorthand != "" && slices.Contains(words, "-"+flag.Shorthand)
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
	if !hasFlags(flags, worthHelp) {
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
	_ = table.Flush() // the program looks once whether its output was written
}

// hasFlags says whether there is a flag that is worth help and wanted.
func hasFlags(flags *pflag.FlagSet, wanted func(*pflag.Flag) bool) (any bool) {
	flags.VisitAll(func(flag *pflag.Flag) { any = any || worthHelp(flag) && wanted(flag) })
	return any
}

// worthHelp leaves out --help, which its reader knows.
func worthHelp(flag *pflag.Flag) bool {
	return !flag.Hidden && flag.Name != "help"
}
