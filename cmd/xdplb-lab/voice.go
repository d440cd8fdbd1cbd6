// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"xdplb/internal/output"
)

// voice is how the demo speaks.
type voice struct {
	w      io.Writer
	colour bool
}

// newVoice uses colours on a terminal only, and none if NO_COLOR is set (no-color.org).
func newVoice(w *output.Writer) voice {
	file, ok := w.To.(*os.File)
	colour := ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return voice{w: w, colour: colour}
}

// The colours: SGR parameters (ECMA-48).
const (
	bold  = "1"
	dim   = "2"
	green = "32"
)

func (v voice) paint(colour, text string) string {
	if !v.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// heading begins a step.
func (v voice) heading(text string) { fmt.Fprintf(v.w, "\n%s\n\n", v.paint(bold, "== "+text)) }

// lvs says what an operator of LVS would have typed on that host.
func (v voice) lvs(host string, lines ...string) {
	for _, line := range lines {
		fmt.Fprintln(v.w, v.paint(dim, "  with LVS, "+host+"# "+line))
	}
}

// command shows a command that runs now.
func (v voice) command(host, line string) {
	fmt.Fprintf(v.w, "  %s%s\n", host+"# ", v.paint(bold, line))
}

// output shows what a command said.
func (v voice) output(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprint(v.w, "    ", line)
	}
}

// say adds a sentence.
func (v voice) say(format string, args ...any) { fmt.Fprintf(v.w, "  "+format+"\n", args...) }

// right tells what has been checked.
func (v voice) right(format string, args ...any) {
	fmt.Fprintln(v.w, v.paint(green, "  ok: "+fmt.Sprintf(format, args...)))
}
