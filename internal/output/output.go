// SPDX-License-Identifier: Apache-2.0

// Package output is standard output that remembers when it could not be written, so that no command has to look at each
// line that it prints, and none that printed half of its data says that all is well.
//
// A standard output that is closed (">&-") cannot be told from one that goes to /dev/null: Go's runtime opens that in its
// place.
package output

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Writer writes to another writer until that fails once, and fails from then on.
type Writer struct {
	To     io.Writer // commands that xdplb runs inherit it itself
	failed error
}

func (w *Writer) Write(data []byte) (int, error) {
	if w.failed != nil {
		return 0, w.failed
	}
	n, err := w.To.Write(data)
	if err != nil {
		if path := new(fs.PathError); errors.As(err, &path) {
			err = path.Err // which file it is, the shell knows
		}
		w.failed = fmt.Errorf("writing to standard output: %w", err)
	}
	return n, w.failed
}

// Failed says whether something could not be written.
func (w *Writer) Failed() bool { return w.failed != nil }

// Check is how a command that printed has ended: with its own error, with that of printing, or with both.
func (w *Writer) Check(err error) error {
	switch {
	case w.failed == nil || errors.Is(err, w.failed):
		return err
	case err == nil:
		return w.failed
	}
	return fmt.Errorf("%w; %w", err, w.failed)
}
