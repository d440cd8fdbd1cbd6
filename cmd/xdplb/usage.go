// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"xdplb/internal/help"
)

// usageError is something wrong with the command line itself, found after cobra has accepted it.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usage marks an error as the command line's fault; nil stays nil.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

func isUsage(err error) bool {
	var u usageError
	return errors.As(err, &u)
}

// takes checks the positional arguments against their names: "ADDRESS", "[FILE]" (may be left out), "VIP..." (one or
// more).
func takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		for i, name := range names {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return fmt.Errorf("%s is missing", strings.TrimSuffix(name, "..."))
			}
			if strings.HasSuffix(name, "...") {
				return nil
			}
		}
		if len(args) > len(names) {
			return unexpected(cmd, args[len(names)])
		}
		return nil
	}
}

// unexpected refuses an argument, which may be the value of a flag that takes its value only behind an equals sign.
func unexpected(cmd *cobra.Command, word string) error {
	err := fmt.Errorf("unexpected argument %q", word)
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if flag.NoOptDefVal != "" && flag.Value.Type() != "bool" {
			err = withHint(err, fmt.Sprintf("a value for --%[1]s is written --%[1]s=%[2]s", flag.Name, word))
		}
	})
	return err
}

// noun makes the parent of verbs. By itself it is short for the verb "list", if there is one.
func noun(parent *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	parent.Args = subcommand
	parent.RunE = func(cmd *cobra.Command, _ []string) error { return noCommand(cmd) }
	for _, verb := range verbs {
		parent.AddCommand(verb)
		if verb.Name() == "list" {
			parent.RunE = verb.RunE
		}
	}
	return parent
}

// subcommand is the Args of a command that has subcommands: a word that arrives there is none of them.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return nil
}

func noCommand(cmd *cobra.Command) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return usagef("which command? %s", strings.Join(names, ", "))
}

// unknownCommand names the word and, if one is close to it, the command that was probably meant.
func unknownCommand(cmd *cobra.Command, word string) error {
	err := usagef("unknown command %q for %q", word, cmd.CommandPath())
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		return withHint(err, fmt.Sprintf("did you mean %q?", cmd.CommandPath()+" "+near[0]))
	}
	return err
}

// flagError explains what pflag refuses. A flag after a misspelt command is unknown because the command is.
func flagError(cmd *cobra.Command, err error) error {
	if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 {
		return unknownCommand(cmd, cmd.Flags().Arg(0))
	}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && unknown.GetSpecifiedName() == "version" {
		err = withHint(err, "xdplb version")
	}
	return help.FlagError(err)
}

// parsed is a flag whose value is made from its word by a function, of which the error is a lb.ValueError or says only what
// is wanted. It implements pflag.Value.
type parsed[T any] struct {
	to    *T
	word  string
	kind  string
	parse func(string) (T, error)
}

func (p *parsed[T]) String() string { return p.word }
func (p *parsed[T]) Type() string   { return p.kind }

func (p *parsed[T]) Set(word string) error {
	value, err := p.parse(word)
	if err != nil {
		return err
	}
	*p.to, p.word = value, word
	return nil
}

// parsedVar adds a flag that is parsed by a function. initial is what help shows as the default of *to, which must
// already have it; kind is the word for the value in help.
func parsedVar[T any](flags *pflag.FlagSet, to *T, name, kind, initial, help string, parse func(string) (T, error)) {
	flags.Var(&parsed[T]{to: to, word: initial, kind: kind, parse: parse}, name, help)
}

// requireFlag makes a flag, one in a command, one that must be given. It looks before cobra does, to say it in the
// words of takes.
func requireFlag(cmd *cobra.Command, name string) {
	if err := cmd.MarkFlagRequired(name); err != nil {
		panic(err) // there is no such flag: a mistake in this program
	}
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if !cmd.Flags().Changed(name) {
			return usagef("--%s is missing", name)
		}
		return nil
	}
}

// requireAnyFlag makes flags, one group in a command, of which at least one must be given, as requireFlag does.
func requireAnyFlag(cmd *cobra.Command, names ...string) {
	cmd.MarkFlagsOneRequired(names...)
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if !slices.ContainsFunc(names, cmd.Flags().Changed) {
			return usagef("nothing to change: give --%s or --%s", strings.Join(names[:len(names)-1], ", --"), names[len(names)-1])
		}
		return nil
	}
}

// exclusive makes flags, of which no more than one can be given, a group. It looks before cobra does, to say it in fewer
// words.
func exclusive(cmd *cobra.Command, names ...string) {
	cmd.MarkFlagsMutuallyExclusive(names...)
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if before != nil {
			if err := before(cmd, args); err != nil {
				return err
			}
		}
		given := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !cmd.Flags().Changed(name) })
		if len(given) > 1 {
			return usagef("--%s and --%s exclude each other", given[0], given[1])
		}
		return nil
	}
}
