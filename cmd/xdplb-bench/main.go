// SPDX-License-Identifier: Apache-2.0

// Command xdplb-bench measures what a packet costs xdplb, beside an XDP program that does nothing but transmit: by
// BPF_PROG_TEST_RUN, or with --live by real frames over a pair of virtual interfaces. With --grow it measures how that,
// control operations and the kernel's memory grow with flows, services and backends. It needs root and nothing else:
// it works in namespaces of its own, touches no interface and no pin of the machine, and leaves nothing behind.
//
// Exit status: 0 measured, 1 failed (also when one packet met a wrong verdict or was lost), 2 wrong usage.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"xdplb/internal/bench"
	"xdplb/internal/help"
	"xdplb/internal/output"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// options is the command line.
type options struct {
	live     bool
	grow     bool
	json     bool
	rounds   int
	batch    time.Duration
	flows    uint32
	services int
	backends int
	repeats  int
	out      string
	cpu      int
	only     string
}

// run executes one command line and returns its exit status.
func run(args []string, to, stderr io.Writer) int {
	stdout := &output.Writer{To: to}
	status := choose(args, stdout, stderr)
	if status == exitDone && stdout.Failed() {
		return fail(stderr, stdout.Check(nil), exitFailed)
	}
	return status
}

// choose parses the command line and measures.
func choose(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "icount" {
		return runICount(args[1:], stdout, stderr)
	}
	var o options
	flags := pflag.NewFlagSet("xdplb-bench", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.BoolVar(&o.live, "live", false, "send real frames over a veth pair, on one CPU")
	flags.BoolVar(&o.grow, "grow", false, "measure how costs grow with flows, services and backends")
	flags.BoolVar(&o.json, "json", false, "print JSON, with the figures of each round")
	flags.IntVar(&o.rounds, "rounds", 0, "measure each case `N` times (default 25, with --grow 9)")
	flags.DurationVar(&o.batch, "batch", 0, "measure for `TIME` per case and round (default 12ms, with --live 100ms)")
	flags.Uint32Var(&o.flows, "flows", 0,
		"leave out cases of more than `N` flows (default 1048576, with --grow 4194304)")
	flags.IntVar(&o.cpu, "cpu", runtime.NumCPU()-1, "run on CPU `N`")
	flags.StringVar(&o.only, "only", "", "only cases whose name matches the regular expression `RE`")
	flags.IntVar(&o.services, "services", 10_000, "with --grow: up to `N` services of 10 backends")
	flags.IntVar(&o.backends, "backends", 10_000, "with --grow: up to `N` backends of one service")
	flags.IntVar(&o.repeats, "repeats", 3, "with --grow: time each control operation `N` times")
	flags.StringVar(&o.out, "out", "build/grow", "with --grow: write tables, JSON, CSV and SVG into `DIR`")
	flags.SetOutput(stderr)
	flags.Usage = func() {}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			fmt.Fprintf(stdout, "Usage: xdplb-bench [flags]\n\n%s", flags.FlagUsages())
			return exitDone
		}
		return fail(stderr, help.FlagError(err), exitUsage)
	}
	o.complete(flags)
	only, err := o.check(flags.Args())
	if err != nil {
		return fail(stderr, err, exitUsage)
	}
	if err := measure(o, only, stdout, stderr); err != nil {
		return fail(stderr, err, exitFailed)
	}
	return exitDone
}

func fail(stderr io.Writer, err error, status int) int {
	fmt.Fprintf(stderr, "xdplb-bench: %v\n", err)
	return status
}

// complete fills in what the command line leaves to the kind of measurement.
func (o *options) complete(flags *pflag.FlagSet) {
	rounds, batch, most := 25, 12*time.Millisecond, uint32(1<<20)
	switch {
	case o.live:
		batch = 100 * time.Millisecond
	case o.grow:
		rounds, most = 9, 1<<22
	}
	if !flags.Changed("rounds") {
		o.rounds = rounds
	}
	if !flags.Changed("batch") {
		o.batch = batch
	}
	if !flags.Changed("flows") {
		o.flows = most
	}
}

// check finds what is wrong with the options.
func (o *options) check(words []string) (*regexp.Regexp, error) {
	if len(words) > 0 {
		return nil, fmt.Errorf("unexpected word %q", words[0])
	}
	switch {
	case o.live && o.grow:
		return nil, errors.New("--live and --grow: want one of them")
	case o.grow && o.only != "":
		return nil, errors.New("--only: --grow measures no cases")
	case o.services < 1 || o.services > 10_000:
		return nil, fmt.Errorf("--services %d: want 1 to 10000", o.services)
	case o.backends < 2 || o.backends > 10_000:
		return nil, fmt.Errorf("--backends %d: want 2 to 10000", o.backends)
	case o.repeats < 1:
		return nil, fmt.Errorf("--repeats %d: want at least 1", o.repeats)
	case o.rounds < 1:
		return nil, fmt.Errorf("--rounds %d: want at least 1", o.rounds)
	case o.batch < time.Millisecond:
		return nil, fmt.Errorf("--batch %s: want at least 1ms", o.batch)
	case o.flows < 1 || o.flows > 1<<26:
		return nil, fmt.Errorf("--flows %d: want 1 to %d", o.flows, 1<<26)
	case o.cpu < 0 || o.cpu >= runtime.NumCPU():
		return nil, fmt.Errorf("--cpu %d: want 0 to %d", o.cpu, runtime.NumCPU()-1)
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return nil, fmt.Errorf("--only: %w", err)
	}
	return only, nil
}

// movedFrom is the environment variable by which the command, begun anew, knows that it has moved: it names the network
// namespace that it came from.
const movedFrom = "XDPLB_BENCH_MOVED_FROM"

// isolate begins the command anew in namespaces of its own, whole, with all threads, and without the signals by which
// Go preempts goroutines: each would interrupt a measurement.
func isolate() error {
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("finding the network namespace: %w", err)
	}
	if from := os.Getenv(movedFrom); from != "" && from != here {
		return nil
	}
	runtime.LockOSThread()
	if err := bench.Isolate(); err != nil {
		return err
	}
	environment := append(os.Environ(), movedFrom+"="+here, "GODEBUG=asyncpreemptoff=1")
	if err := syscall.Exec("/proc/self/exe", os.Args, environment); err != nil {
		return fmt.Errorf("beginning anew in the namespaces: %w", err)
	}
	return nil
}

// result is a report of either kind.
type result interface {
	Write(io.Writer) error
}

func measure(o options, only *regexp.Regexp, stdout, stderr io.Writer) error {
	if err := isolate(); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := bench.PinCPU(o.cpu); err != nil {
		return err
	}
	plan := bench.Plan{Rounds: o.rounds, Batch: o.batch}
	report, err := o.report(plan, only, stderr)
	if err != nil {
		return err
	}
	if o.json {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	return report.Write(stdout)
}

func (o *options) report(plan bench.Plan, only *regexp.Regexp, stderr io.Writer) (result, error) {
	switch {
	case o.live:
		return bench.RunLive(plan, o.flows, only)
	case o.grow:
		return o.reportGrowth(plan, stderr)
	}
	return bench.Run(plan, o.flows, only)
}

func (o *options) reportGrowth(plan bench.Plan, stderr io.Writer) (result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding xdplb beside this command: %w", err)
	}
	report, err := bench.RunGrow(bench.GrowPlan{
		Plan: plan, Flows: o.flows, Services: o.services, Backends: o.backends, Repeats: o.repeats,
		Xdplb: filepath.Join(filepath.Dir(self), "xdplb"), Progress: stderr,
	})
	if err != nil {
		return nil, err
	}
	return report, report.WriteFiles(o.out)
}
