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
