// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/pflag"

	"xdplb/internal/bench"
	"xdplb/internal/help"
)

// icountOptions is the command line behind the word icount.
type icountOptions struct {
	report   string
	expected string
	update   bool
	json     bool
}

// runICount is "xdplb-bench icount". In the guest that scripts/icount/run boots it counts and prints JSON; with
// --report it says what such JSON means. It returns the exit status.
func runICount(args []string, stdout, stderr io.Writer) int {
	var o icountOptions
	flags := pflag.NewFlagSet("xdplb-bench icount", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.StringVar(&o.report, "report", "", "count nothing: read what was counted from `FILE`")
	flags.StringVar(&o.expected, "expected", "", "with --report: compare with `FILE`, and fail if xdplb takes 2 % more")
	flags.BoolVar(&o.update, "update", false, "with --expected: write FILE instead")
	flags.BoolVar(&o.json, "json", false, "with --report: print JSON, with the figures of each round")
	flags.SetOutput(stderr)
	flags.Usage = func() {}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			fmt.Fprintf(stdout, "Usage: xdplb-bench icount [flags]\n\n%s", flags.FlagUsages())
			return exitDone
		}
		return fail(stderr, help.FlagError(err), exitUsage)
	}
	if err := o.check(flags.Args()); err != nil {
		return fail(stderr, err, exitUsage)
	}
	do := o.judge
	if o.report == "" {
		do = count
	}
	if err := do(stdout, stderr); err != nil {
		return fail(stderr, err, exitFailed)
	}
	return exitDone
}

func (o icountOptions) check(words []string) error {
	switch {
	case len(words) > 0:
		return fmt.Errorf("unexpected word %q", words[0])
	case o.report == "" && (o.expected != "" || o.json):
		return errors.New("--expected and --json need --report")
	case o.update && o.expected == "":
		return errors.New("--update needs --expected")
	}
	return nil
}

func count(stdout, _ io.Writer) error {
	if err := isolate(); err != nil {
		return err
	}
	runtime.LockOSThread()
	report, err := bench.RunICount()
	if err != nil {
		return err
	}
	return writeJSON(stdout, report)
}

// judge prints the report, and compares it. With --json the comparison is talk.
func (o icountOptions) judge(stdout, stderr io.Writer) error {
	var report bench.ICountReport
	if err := readJSON(o.report, &report); err != nil {
		return err
	}
	talk := stdout
	if o.json {
		talk = stderr
		if err := writeJSON(stdout, report); err != nil {
			return err
		}
	} else if err := report.Write(stdout); err != nil {
		return err
	}
	if o.expected == "" {
		return nil
	}
	if o.update {
		var text bytes.Buffer
		if err := writeJSON(&text, report.Expected()); err != nil {
			return err
		}
		return os.WriteFile(o.expected, text.Bytes(), 0o644)
	}
	var expected bench.ICountExpected
	if err := readJSON(o.expected, &expected); err != nil {
		return err
	}
	fmt.Fprintln(talk)
	return expected.Compare(talk, report)
}

func readJSON(path string, to any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, to); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

func writeJSON(w io.Writer, from any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(from)
}
