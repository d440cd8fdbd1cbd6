// SPDX-License-Identifier: Apache-2.0

// Command xdplb-bench measures what a packet costs xdplb, beside an XDP program that does nothing but transmit: by
// BPF_PROG_TEST_RUN, or with --live by real frames over a pair of virtual interfaces. It needs root and nothing else: it
// works in namespaces of its own, touches no interface and no pin of the machine, and leaves nothing behind.
//
// Exit status: 0 measured, 1 failed (also when one packet met a wrong verdict or was lost), 2 wrong usage.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"xdplb/internal/bench"
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
	live   bool
	json   bool
	rounds int
	batch  time.Duration
	flows  uint32
	cpu    int
	only   string
}

func run(args []string, stdout, stderr io.Writer) int {
	var o options
	flags := pflag.NewFlagSet("xdplb-bench", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.BoolVar(&o.live, "live", false, "send real frames over a veth pair, on one CPU")
	flags.BoolVar(&o.json, "json", false, "print JSON, with the figures of each round")
	flags.IntVar(&o.rounds, "rounds", 25, "measure each case `N` times")
	flags.DurationVar(&o.batch, "batch", 0, "measure for `TIME` per case and round (default 12ms, with --live 100ms)")
	flags.Uint32Var(&o.flows, "flows", 1<<20, "leave out cases of more than `N` flows; the tables take 1 KB of memory for each")
	flags.IntVar(&o.cpu, "cpu", runtime.NumCPU()-1, "run on CPU `N`")
	flags.StringVar(&o.only, "only", "", "only cases whose name matches the regular expression `RE`")
	flags.SetOutput(stderr)
	flags.Usage = func() {}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			fmt.Fprintf(stdout, "Usage: xdplb-bench [flags]\n\n%s", flags.FlagUsages())
			return exitDone
		}
		return fail(stderr, err, exitUsage)
	}
	only, err := o.check(flags.Args())
	if err != nil {
		return fail(stderr, err, exitUsage)
	}
	if err := measure(o, only, stdout); err != nil {
		return fail(stderr, err, exitFailed)
	}
	return exitDone
}

func fail(stderr io.Writer, err error, status int) int {
	fmt.Fprintf(stderr, "xdplb-bench: %v\n", err)
	return status
}

// check completes the options and finds what is wrong with them.
func (o *options) check(words []string) (*regexp.Regexp, error) {
	if len(words) > 0 {
		return nil, fmt.Errorf("unexpected word %q", words[0])
	}
	if o.batch == 0 {
		o.batch = 12 * time.Millisecond
		if o.live {
			o.batch = 100 * time.Millisecond
		}
	}
	switch {
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

func measure(o options, only *regexp.Regexp, stdout io.Writer) error {
	if err := isolate(); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := bench.PinCPU(o.cpu); err != nil {
		return err
	}
	plan := bench.Plan{Rounds: o.rounds, Batch: o.batch}
	var report result
	var err error
	if o.live {
		report, err = bench.RunLive(plan, o.flows, only)
	} else {
		report, err = bench.Run(plan, o.flows, only)
	}
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
