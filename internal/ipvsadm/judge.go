// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"xdplb/internal/lb"
)

// Verdict says how well xdplb can go on with what a line of LVS's says.
type Verdict string

// The verdicts.
const (
	Taken        Verdict = "taken"        // as it is
	Approximated Verdict = "approximated" // with a difference
	LeftOut      Verdict = "left out"     // nothing is lost without it
	Refused      Verdict = "refused"
)

// Judgement is what becomes of one line.
type Judgement struct {
	Line    int
	Text    string
	Verdict Verdict
	Why     string // "" if taken
}

func (j Judgement) String() string {
	if j.Why == "" {
		return fmt.Sprintf("%d: %s: %s", j.Line, j.Verdict, j.Text)
	}
	return fmt.Sprintf("%d: %s: %s: %s", j.Line, j.Verdict, j.Text, j.Why)
}

// JudgeRules does every line of a saved configuration that xdplb can do to a state, and tells of each what became of it;
// blank lines and comments are none. The error is the reader's.
func JudgeRules(r io.Reader, names Names, state *lb.State, tell func(Judgement)) error {
	return eachLine(r, func(line int, text string) {
		words := split(text)
		if len(words) == 0 {
			return
		}
		verdict, why := judgeRule(words, names, state)
		tell(Judgement{line, strings.Join(words, " "), verdict, why})
	})
}

// eachLine visits the lines that are not blank.
func eachLine(r io.Reader, visit func(line int, text string)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	line := 1
	for ; lines.Scan(); line++ {
		if text := strings.TrimSpace(lines.Text()); text != "" {
			visit(line, text)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("line %d: %w", line, err)
	}
	return nil
}

func judgeRule(words []string, names Names, state *lb.State) (Verdict, string) {
	command, err := parseRule(append([]string{"ipvsadm"}, words...), names)
	if err != nil {
		return Refused, err.Error()
	}
	warnings, err := command.Edit(state)
	if err != nil {
		return Refused, err.Error()
	}
	if command.Verb == VerbZero {
		return LeftOut, "counters begin at zero"
	}
	if command.Verb == VerbAddService || command.Verb == VerbEditService {
		switch scheduler := command.Service.Scheduler; scheduler {
		case lb.SH, lb.DH, lb.MH:
			warnings = append(warnings, fmt.Sprintf(
				"%s has another hash than LVS: a client's new connections may go to another real server", scheduler))
		}
	}
	if len(warnings) > 0 {
		return Approximated, strings.Join(warnings, "; ")
	}
	return Taken, ""
}
