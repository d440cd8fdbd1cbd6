// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"errors"
	"fmt"
)

// What an edit or a parse can be refused for; test with errors.Is. The error itself names the service, the backend or
// the word.
var (
	ErrExists   = errors.New("already exists")
	ErrNotFound = errors.New("does not exist")
	ErrInvalid  = errors.New("invalid")
)

// invalidError is an ErrInvalid whose message needs no "invalid" in front.
type invalidError string

func (e invalidError) Error() string { return string(e) }

// Is makes errors.Is(err, ErrInvalid) true.
func (e invalidError) Is(target error) bool { return target == ErrInvalid }

func invalidf(format string, args ...any) error {
	return invalidError(fmt.Sprintf(format, args...))
}

// ValueError is an ErrInvalid about a word that was given as a value. A caller that knows the value by another name, such as
// that of a flag, says that in place of Noun.
type ValueError struct {
	Noun string // what the word stands for: "weight"
	Rest string // the word, and what is wrong with it: "-1: want 0 to 2147483647"
}

func (e *ValueError) Error() string { return e.Noun + " " + e.Rest }

// Is makes errors.Is(err, ErrInvalid) true.
func (e *ValueError) Is(target error) bool { return target == ErrInvalid }

// valuef makes a ValueError, of which the format is the rest.
func valuef(noun, format string, args ...any) error {
	return &ValueError{Noun: noun, Rest: fmt.Sprintf(format, args...)}
}
