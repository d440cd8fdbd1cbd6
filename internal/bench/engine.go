// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Verdict is what a program returns for a packet (enum xdp_action of linux/bpf.h).
type Verdict uint32

// The verdicts.
const (
	Aborted Verdict = iota
	Drop
	Pass
	TX
	Redirect
)

// String returns the verdict's name as the kernel writes it, without XDP_: "TX".
func (v Verdict) String() string {
	names := []string{"ABORTED", "DROP", "PASS", "TX", "REDIRECT"}
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("verdict %d", uint32(v))
}

// Case is one row: a program, the frame that it gets, and the verdict that every packet must meet.
type Case struct {
	Name    string
	What    string // in words
	Program *ebpf.Program
	Want    Verdict
	Frame   []byte
	Ifindex int // of the interface that the frame comes in by; 0: lo. It must carry a native XDP program.

	// Driver is the variable of the driver around the program (bpf/bench/driver.h). nil: the program runs bare, and only
	// the verdict of a batch's last run is seen.
	Driver *ebpf.Variable
	Tuple  Tuple // what the driver makes of the frame

	// Send runs the program and returns its last verdict and how long it took; nil: by BPF_PROG_TEST_RUN alone.
	Send func(*ebpf.Program, *ebpf.RunOptions) (Verdict, time.Duration, error)

	// Warm packets are sent before each batch: more flows than one batch touches would otherwise always be cold.
	Warm int
	// Prepare runs once, before the first batch; Before, before each batch. Both are optional.
	Prepare, Before func() error

	random, sequence uint64 // the driver's state, from batch to batch
}

// Tuple says which flows a case's packets belong to, and where their fields lie in the frame (bytes from its start).
type Tuple struct {
	Client, Port, HopLimit uint16 // of the last 32 bits of the client's address, its port, TTL or hop limit
	Base                   uint32 // last 32 bits of the first client's address; 16 flows share an address
	Number                 uint16 // of TCP's sequence number, which differs from packet to packet
	Flows                  uint32 // how many flows, in random order; a power of two
	New                    bool   // each packet is a flow of its own instead

	// Services is how many services, on ports from 1 on, the flows are evenly spread over; 0: that of the frame.
	Services uint32
	Service  uint16 // of the service's port
}

// xdpMD is struct xdp_md of linux/bpf.h, the context that BPF_PROG_TEST_RUN takes.
type xdpMD struct {
	Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32
}

func (c *Case) context() any {
	if c.Ifindex == 0 {
		return nil
	}
	return xdpMD{DataEnd: uint32(len(c.Frame)), IngressIfindex: uint32(c.Ifindex)}
}

// retries is how often a batch is begun anew that a signal has interrupted.
const retries = 10

// run sends packets and returns how long that took. Whatever did not go right in every single packet is an error.
func (c *Case) run(packets int) (time.Duration, error) {
	for range retries {
		interrupted := false
		options := ebpf.RunOptions{
			Data:    c.Frame,
			Context: c.context(),
			Repeat:  uint32(packets),
			//lint:ignore SA1019 nothing else tells that the call was interrupted, and run again
			Reset: func() { interrupted = true },
		}
		if err := c.setKnobs(); err != nil {
			return 0, err
		}
		send := c.Send
		if send == nil {
			send = timedRun
		}
		last, elapsed, err := send(c.Program, &options)
		if err != nil {
			return 0, fmt.Errorf("%s: running %d packets: %w", c.Name, packets, err)
		}
		if interrupted {
			continue
		}
		return elapsed, c.check(packets, last)
	}
	return 0, fmt.Errorf("%s: interrupted %d times: is GODEBUG=asyncpreemptoff=1 set?", c.Name, retries)
}

// timedRun measures the thread's own time, not the clock's: what other processes take in between does not count.
func timedRun(program *ebpf.Program, options *ebpf.RunOptions) (Verdict, time.Duration, error) {
	start, err := threadTime()
	if err != nil {
		return 0, 0, err
	}
	last, err := program.Run(options)
	if err != nil {
		return 0, 0, err
	}
	end, err := threadTime()
	return Verdict(last), end - start, err
}

// threadTime is how long the calling thread has run, in user space and in the kernel, in nanoseconds exactly.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("reading the thread's time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

func (c *Case) setKnobs() error {
	if c.Driver == nil {
		return nil
	}
	if err := c.Driver.Set(c.knobs()); err != nil {
		return fmt.Errorf("%s: setting the driver: %w", c.Name, err)
	}
	return nil
}

// firstRandom is the generator's state before the first packet; any number but 0.
const firstRandom = 0x9e3779b97f4a7c15

func (c *Case) knobs() *floorKnobs {
	if c.random == 0 {
		c.random = firstRandom
	}
	k := &floorKnobs{
		Random:         c.random,
		Sequence:       c.sequence,
		MacsLow:        nativeEndian.Uint64(c.Frame[0:]),
		MacsHigh:       nativeEndian.Uint32(c.Frame[8:]),
		Expected:       uint32(c.Want),
		ClientBase:     c.Tuple.Base,
		ClientOffset:   c.Tuple.Client,
		PortOffset:     c.Tuple.Port,
		HopLimitOffset: c.Tuple.HopLimit,
		ServiceOffset:  c.Tuple.Service,
		NumberOffset:   c.Tuple.Number,
		Services:       c.Tuple.Services,
	}
	if c.Tuple.New {
		k.SequenceMask = math.MaxUint32
	} else {
		k.RandomMask = c.Tuple.Flows - 1
	}
	return k
}

// errVerdict means that a packet met a verdict that it should not.
var errVerdict = errors.New("wrong verdict")

func (c *Case) check(packets int, last Verdict) error {
	if c.Driver == nil {
		if last != c.Want {
			return fmt.Errorf("%s: %w: %s instead of %s", c.Name, errVerdict, last, c.Want)
		}
		return nil
	}
	var k floorKnobs
	if err := c.Driver.Get(&k); err != nil {
		return fmt.Errorf("%s: reading the driver: %w", c.Name, err)
	}
	c.random, c.sequence = k.Random, k.Sequence
	if k.Wrong != 0 {
		return fmt.Errorf("%s: %w: %d of %d packets did not meet %s, the last one met %s",
			c.Name, errVerdict, k.Wrong, packets, c.Want, last)
	}
	if k.Right != uint64(packets) {
		return fmt.Errorf("%s: %d packets ran instead of %d, the last one met %s", c.Name, k.Right, packets, last)
	}
	return nil
}

// Plan says how much is measured.
type Plan struct {
	Rounds int
	Batch  time.Duration // of one case in one round
}

// Samples is what was measured of a case.
type Samples struct {
	Case    *Case
	Packets int       // per batch
	Gross   []float64 // ns per packet, of each round
}

// Measure runs all cases, in random order, once in each round. Every program must be kept attached ([KeepAttached]),
// and the calling goroutine locked to its thread, whose time is measured. Error: the first batch with a packet that did
// not meet its case's verdict ends it.
func Measure(cases []*Case, plan Plan) ([]Samples, error) {
	samples := make([]Samples, len(cases))
	for i, c := range cases {
		if c.Prepare != nil {
			if err := c.Prepare(); err != nil {
				return nil, fmt.Errorf("%s: preparing: %w", c.Name, err)
			}
		}
		if err := c.before(); err != nil {
			return nil, err
		}
		packets, err := c.calibrate(plan.Batch)
		if err != nil {
			return nil, err
		}
		samples[i] = Samples{Case: c, Packets: packets}
	}
	for range plan.Rounds {
		for _, i := range rand.Perm(len(cases)) {
			if err := samples[i].measure(); err != nil {
				return nil, err
			}
		}
	}
	return samples, nil
}

// calibrate finds how many packets make up a batch.
func (c *Case) calibrate(batch time.Duration) (int, error) {
	packets := 64
	for {
		elapsed, err := c.run(packets)
		if err != nil {
			return 0, err
		}
		if elapsed < batch/4 {
			packets *= 4
			continue
		}
		again, err := c.run(packets) // the first may have been long because something else had the CPU
		if err != nil {
			return 0, err
		}
		return max(packets, int(float64(packets)*float64(batch)/float64(min(elapsed, again)))), nil
	}
}

func (c *Case) before() error {
	if c.Before == nil {
		return nil
	}
	if err := c.Before(); err != nil {
		return fmt.Errorf("%s: preparing a batch: %w", c.Name, err)
	}
	return nil
}

func (s *Samples) measure() error {
	if err := s.Case.before(); err != nil {
		return err
	}
	if s.Case.Warm > 0 {
		if _, err := s.Case.run(s.Case.Warm); err != nil {
			return err
		}
	}
	elapsed, err := s.Case.run(s.Packets)
	if err != nil {
		return err
	}
	s.Gross = append(s.Gross, float64(elapsed.Nanoseconds())/float64(s.Packets))
	return nil
}
