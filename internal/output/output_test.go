// SPDX-License-Identifier: Apache-2.0

package output

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"xdplb/internal/testenv"
)

func TestFullDevice(t *testing.T) {
	t.Parallel()
	w := &Writer{To: testenv.Full(t)}
	_, err := fmt.Fprintln(w, "a line")
	const want = "writing to standard output: no space left on device"
	if !errors.Is(err, syscall.ENOSPC) || err.Error() != want || !w.Failed() {
		t.Fatalf("got %v, want %s", err, want)
	}

	var later strings.Builder
	w.To = &later
	if _, again := fmt.Fprintln(w, "a line after a lost one"); again != err || later.Len() > 0 {
		t.Errorf("after a failure: got %v, and %q was written", again, later.String())
	}

	own := errors.New("its own")
	for _, check := range []struct {
		err  error
		want string
	}{
		{nil, want},
		{own, "its own; " + want},
		{fmt.Errorf("listing: %w", err), "listing: " + want},
	} {
		if got := w.Check(check.err); got.Error() != check.want {
			t.Errorf("%v: got %v, want %s", check.err, got, check.want)
		}
	}
}

func TestWritten(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	w := &Writer{To: &text}
	fmt.Fprint(w, "one, ")
	fmt.Fprint(w, "two")
	if err := w.Check(nil); err != nil || w.Failed() || text.String() != "one, two" {
		t.Errorf("got %q, %v", text.String(), err)
	}
}
