// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"xdplb/internal/lb"
)

// maxLine bounds a line, in bytes.
const maxLine = 64 << 10

// Rules are commands from a file or standard input, such as a saved configuration.
type Rules []rule

type rule struct {
	line    int
	text    string
	command Command
}

// LineError is why Rules are not done. Err is the reader's, or a *Failure.
type LineError struct {
	Line int
	Text string // of the line
	Err  error
}

func (e *LineError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("line %d: %s", e.Line, e.Err)
	}
	return fmt.Sprintf("line %d: %s (%s)", e.Line, e.Err, e.Text)
}

func (e *LineError) Unwrap() error { return e.Err }

// ParseRules reads lines of ipvsadm's options. Blank lines, carriage returns and the word "ipvsadm" are left out, as
// ipvsadm does, and so are comments, from a word that begins with # to the end. Lines that change nothing are refused.
// The error is a *LineError about the first line that is wrong.
func ParseRules(r io.Reader, program string, names Names) (Rules, error) {
	var rules Rules
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 1
	for ; lines.Scan(); n++ {
		text := lines.Text()
		words := split(text)
		if len(words) == 0 {
			continue
		}
		command, err := parseRule(append([]string{program}, words...), names)
		if err != nil {
			return nil, &LineError{n, strings.TrimSpace(text), err}
		}
		rules = append(rules, rule{n, strings.TrimSpace(text), command})
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, &LineError{Line: n, Err: fail("longer than %d bytes", maxLine)}
	case err != nil:
		return nil, &LineError{Line: n, Err: err}
	}
	return rules, nil
}

// split takes a line apart into words.
func split(line string) []string {
	words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' })
	if i := slices.IndexFunc(words, func(word string) bool { return strings.HasPrefix(word, "#") }); i >= 0 {
		words = words[:i]
	}
	return slices.DeleteFunc(words, func(word string) bool { return word == "ipvsadm" })
}

// The options of saved rules that ipvsadm does not have.
const (
	portsOption   = "--port"
	removalOption = "--on-removal"
)

func parseRule(words []string, names Names) (Command, error) {
	words, ranges, err := takeOption(words, portsOption, lb.ParsePorts)
	if err != nil {
		return Command{}, err
	}
	words, removal, err := takeOption(words, removalOption, lb.ParseRemoval)
	if err != nil {
		return Command{}, err
	}
	command, err := ParseCommand(words, names)
	switch {
	case err != nil:
		return Command{}, err
	case ranges != nil && command.Verb != VerbAddService && command.Verb != VerbEditService:
		return Command{}, refuse("%s: it is for -A and -E", portsOption)
	case removal != nil && command.Verb != VerbAddService && command.Verb != VerbEditService:
		return Command{}, refuse("%s: it is for -A and -E", removalOption)
	case command.Verb == VerbRestore:
		return Command{}, noCommand(words[0])
	case !command.Changes():
		return Command{}, refuse("%s: a restore does all of its lines or none, and prints nothing", words[1])
	}
	if ranges != nil {
		command.Service.Ports = lb.NewPorts(command.Service.Addr.Port(), *ranges...)
	}
	command.OnRemoval = removal
	return command, nil
}

// takeOption takes an option and its value out of a line; nil: it is not there.
func takeOption[T any](words []string, option string, parse func(string) (T, error)) (rest []string, value *T, err error) {
	at := slices.Index(words, option)
	if at < 0 {
		return words, nil, nil
	}
	if at+1 == len(words) {
		return nil, nil, refuse("%s: missing argument", option)
	}
	read, err := parse(words[at+1])
	var wrong *lb.ValueError
	switch {
	case errors.As(err, &wrong):
		return nil, nil, refuse("%s %s", option, wrong.Rest)
	case err != nil:
		return nil, nil, refuse("%s: %v", option, err)
	}
	return slices.Delete(slices.Clone(words), at, at+2), &read, nil
}

// Zeroed lists the services of a state, the one that all commands lead to, whose counters they zero.
func (r Rules) Zeroed(state lb.State) (keys []lb.ServiceKey) {
	for i := range state.Services {
		key := state.Services[i].ServiceKey
		if slices.ContainsFunc(r, func(r rule) bool { return r.command.zeroes(key) }) {
			keys = append(keys, key)
		}
	}
	return keys
}

// Edit does all commands to a state, or none. Warnings are as those of Command.Edit, each with its line. The error is a
// *LineError.
func (r Rules) Edit(state *lb.State) (warnings []string, err error) {
	edited := state.Clone()
	for _, rule := range r {
		more, err := rule.command.Edit(&edited)
		if err != nil {
			return nil, &LineError{rule.line, rule.text, err}
		}
		for _, warning := range more {
			warnings = append(warnings, fmt.Sprintf("line %d: %s", rule.line, warning))
		}
	}
	*state = edited
	return warnings, nil
}
