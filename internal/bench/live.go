// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// liveFrames is BPF_F_TEST_XDP_LIVE_FRAMES of linux/bpf.h: what the program returns is done to the frame.
const liveFrames = 1 << 1

// liveBatch is how many frames the kernel makes at a time; it also bounds how many are on their way.
const liveBatch = 64

// settle is for how long no frame may come back before those that are missing count as lost.
const settle = 2 * time.Second

// chain is the way of live frames: the generator sends them into the network's end of an uplink, the program on the
// other end sends them back, and the sink on the network's end counts and drops them. All of it happens on one CPU, in
// one chain of softirqs, so that no queue can overflow. The sink must be there for another reason too: veth throws away
// what comes by XDP_TX where the receiving end has no XDP program.
type chain struct {
	objects  *ebpf.Collection
	attached []link.Link
}

// newChain loads the generator and puts sinks on the network's end of each uplink. It binds the calling thread, to which
// the caller has locked its goroutine, to a CPU: softirqs that have begun on one CPU go on there, and a generator that has
// moved to another outruns them until veth's queue of 256 frames overflows.
func newChain(uplinks ...uplink) (*chain, error) {
	if err := stay(); err != nil {
		return nil, err
	}
	spec, err := loadLive()
	if err != nil {
		return nil, err
	}
	objects, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("loading the generator: %w", err)
	}
	c := &chain{objects: objects}
	for _, uplink := range uplinks {
		held, err := attachNative(objects.Programs["sink"], uplink.peer)
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		c.attached = append(c.attached, held)
	}
	return c, nil
}

func (c *chain) close() error {
	var errs []error
	for _, held := range c.attached {
		errs = append(errs, held.Close())
	}
	c.objects.Close()
	return errors.Join(errs...)
}

// generator is a case whose program makes the frames of another case and sends them into an uplink's network's end.
func (c *chain) generator(frames *Case, into uplink) *Case {
	return &Case{
		Name: frames.Name, What: frames.What, Warm: frames.Warm, Prepare: frames.Prepare, Send: c.send,
		Program: c.objects.Programs["generate"], Want: TX, Frame: frames.Frame, Tuple: frames.Tuple,
		Driver: c.objects.Variables["driver"], Ifindex: into.peer.Attrs().Index,
	}
}

// errLost means that not every frame came back.
var errLost = errors.New("frames were lost")

// send runs the generator on live frames and sees to it that all come back.
func (c *chain) send(generate *ebpf.Program, options *ebpf.RunOptions) (Verdict, time.Duration, error) {
	options.Flags, options.BatchSize = liveFrames, liveBatch
	before, err := c.arrived()
	if err != nil {
		return 0, 0, err
	}
	// By the clock: part of the work is done in softirqs, which may not count as this thread's time.
	start := time.Now()
	if _, err := generate.Run(options); err != nil {
		return 0, 0, err
	}
	elapsed := time.Since(start)
	frames, err := c.settled(before, int(options.Repeat))
	if err != nil {
		return 0, 0, err
	}
	if lost := int(options.Repeat) - frames; lost > 0 {
		return 0, 0, fmt.Errorf("%w: %d of %d", errLost, lost, options.Repeat)
	}
	return TX, elapsed, nil // the kernel reports no verdict, the driver has judged them
}

// arrived is how many frames have come back, over all uplinks.
func (c *chain) arrived() (uint64, error) {
	var perCPU []uint64
	if err := c.objects.Maps["arrived"].Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("reading how many frames came back: %w", err)
	}
	var sum uint64
	for _, frames := range perCPU {
		sum += frames
	}
	return sum, nil
}

// settled waits for frames to come back and returns how many did.
func (c *chain) settled(before uint64, frames int) (int, error) {
	last, moved := before, time.Now()
	for {
		now, err := c.arrived()
		if err != nil {
			return 0, err
		}
		if now != last {
			last, moved = now, time.Now()
		}
		if now-before >= uint64(frames) || time.Since(moved) > settle {
			return int(now - before), nil
		}
		time.Sleep(time.Millisecond)
	}
}

// LiveReport is the result of [RunLive].
type LiveReport struct {
	Machine Machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	BatchMS float64   `json:"batch_ms"`
	Rows    []LiveRow `json:"rows"`
}

// LiveRow is what was measured of one case.
type LiveRow struct {
	Name   string `json:"name"`
	What   string `json:"what"`
	Frames int    `json:"frames"` // sent, and all came back
	// Nanoseconds per packet, the generator's and the network's in them.
	Nanoseconds Spread `json:"ns"`
	// Mpps is million packets per second of one CPU at the median.
	Mpps float64 `json:"mpps"`
	// Share is the median, over the rounds, of the ratio to the floor of the same round.
	Share float64 `json:"share"`
	// Gross is ns per packet, of each round.
	Gross []float64 `json:"gross_ns"`
}

// RunLive sends live frames of the director's cases, those of established flows that only matches, through the attached
// program, and through the floor. Error: the first batch of which a frame was lost.
func RunLive(plan Plan, flows uint32, only *regexp.Regexp) (report LiveReport, err error) {
	base, err := LoadBaselines()
	if err != nil {
		return LiveReport{}, err
	}
	defer base.Close()
	director, err := NewDirector(PinDir, flows)
	if err != nil {
		return LiveReport{}, err
	}
	defer func() { err = errors.Join(err, director.Close()) }()
	floor, err := addUplink("floor", "floornet")
	if err != nil {
		return LiveReport{}, err
	}
	held, err := attachNative(base.Floor.Program, floor.link)
	if err != nil {
		return LiveReport{}, err
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	chain, err := newChain(floor, director.uplink)
	if err != nil {
		return LiveReport{}, err
	}
	defer func() { err = errors.Join(err, chain.close()) }()
	idle, err := KeepAttached(append(director.Programs(), chain.objects.Programs["generate"])...)
	if err != nil {
		return LiveReport{}, err
	}
	defer func() { err = errors.Join(err, idle.Close()) }()

	selected, err := selected(director.liveCases(), only)
	if err != nil {
		return LiveReport{}, err
	}
	first := *base.Driver
	first.Name, first.What = base.Floor.Name, base.Floor.What
	cases := []*Case{chain.generator(&first, floor)}
	for _, c := range selected {
		cases = append(cases, chain.generator(c, director.uplink))
	}
	if err := director.Fill(); err != nil {
		return LiveReport{}, err
	}
	samples, err := Measure(cases, plan)
	if err != nil {
		return LiveReport{}, err
	}
	return newLiveReport(ThisMachine(), plan, samples), director.Verify()
}

// liveCases are the cases of established flows.
func (d *Director) liveCases() []*Case {
	return append(d.hits("tcp-v4", serviceRR), d.hits("tcp-v4-mh", serviceMH)...)
}

// newLiveReport computes the rows. The first samples are those of the floor.
func newLiveReport(machine Machine, plan Plan, samples []Samples) LiveReport {
	report := LiveReport{
		Machine: machine, Rounds: plan.Rounds,
		BatchMS: float64(plan.Batch) / float64(time.Millisecond),
	}
	floor := samples[0].Gross
	for _, s := range samples {
		shares := combine(s.Gross, floor, func(gross, floor float64) float64 { return floor / gross })
		report.Rows = append(report.Rows, LiveRow{
			Name: s.Case.Name, What: s.Case.What, Frames: s.Packets * len(s.Gross),
			Nanoseconds: spread(s.Gross), Mpps: 1e3 / quantile(s.Gross, 0.5), Share: quantile(shares, 0.5), Gross: s.Gross,
		})
	}
	return report
}

// Write prints the report as a table.
func (r LiveReport) Write(w io.Writer) error {
	table := newTable("case", "ns min", "ns median", "Mpps", "share of floor", "packet")
	table.alignRight(1, 2, 3, 4)
	var frames int
	for _, row := range r.Rows {
		frames += row.Frames
		table.add(row.Name, number(row.Nanoseconds.Min), number(row.Nanoseconds.Median), fmt.Sprintf("%.2f", row.Mpps),
			fmt.Sprintf("%.2f", row.Share), row.What)
	}
	r.Machine.write(w)
	fmt.Fprintf(w, "%d rounds, %g ms per case and round, in random order; %d frames sent on one CPU, 0 lost\n\n",
		r.Rounds, r.BatchMS, frames)
	if err := table.write(w); err != nil {
		return err
	}
	_, err := fmt.Fprint(w, `
ns              per packet on its whole way: generator, veth, program, veth, sink
Mpps            million packets per second at the median
share of floor  median over the rounds of the floor's ns of the same round divided by ns: only this is comparable between runs
`)
	return err
}
