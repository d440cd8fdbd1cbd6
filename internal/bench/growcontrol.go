// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

// backendsEach is how many backends each of many services has.
const backendsEach = 10

// weightChanges is how many weights are changed one after the other in each repeat.
const weightChanges = 2

// ControlRow is what control operations take on a configuration, in milliseconds (medians), and the kernel's memory.
type ControlRow struct {
	Services  int    `json:"services"`
	Backends  int    `json:"backends"` // of each service, and of no other
	Scheduler string `json:"scheduler"`
	// Attach is the first attachment, with empty tables of this size.
	Attach float64 `json:"attach_ms"`
	// Apply is the whole configuration from nothing, in one change.
	Apply float64 `json:"apply_ms"`
	// Seen is one backend's weight, from the beginning of the change until packets are scheduled by it.
	Seen float64 `json:"weight_seen_ms"`
	// Changed is the same until the change has cleaned up.
	Changed float64 `json:"weight_changed_ms"`
	// List is the command "xdplb list --json"; 0: not timed.
	List   float64 `json:"list_ms"`
	Memory uint64  `json:"memory_bytes"`

	scheduler lb.Scheduler
}

func newControlRow(services, backends int, scheduler lb.Scheduler) ControlRow {
	return ControlRow{Services: services, Backends: backends, Scheduler: scheduler.String(), scheduler: scheduler}
}

// controlRows measures the configurations.
func controlRows(plan GrowPlan) ([]ControlRow, error) {
	var shapes []ControlRow
	for _, services := range upTo(plan.Services, 1, 10, 100, 1000) {
		shapes = append(shapes, newControlRow(services, backendsEach, lb.RR))
	}
	// as many backends in a tenth of the services
	wide := max(1, plan.Services/10)
	for _, scheduler := range []lb.Scheduler{lb.RR, lb.MH} {
		shapes = append(shapes, newControlRow(wide, 10*backendsEach, scheduler))
	}
	for i := range shapes {
		row := &shapes[i]
		plan.say("control: %d services of %d backends, %s", row.Services, row.Backends, row.Scheduler)
		if err := row.measure(plan); err != nil {
			return nil, err
		}
	}
	return shapes, nil
}

// times are those of one kind of operation, in milliseconds.
type times []float64

func (t *times) add(took time.Duration) { *t = append(*t, milliseconds(took)) }

func (t times) median() float64 {
	if len(t) == 0 {
		return 0
	}
	return quantile(t, 0.5)
}

// operations are the times of each kind.
type operations struct {
	attach, apply, seen, changed, list times
}

func (r *ControlRow) measure(plan GrowPlan) error {
	var took operations
	for range plan.Repeats {
		if err := r.once(plan, &took); err != nil {
			return fmt.Errorf("%d services of %d backends, %s: %w", r.Services, r.Backends, r.Scheduler, err)
		}
	}
	r.Attach, r.Apply, r.List = took.attach.median(), took.apply.median(), took.list.median()
	r.Seen, r.Changed = took.seen.median(), took.changed.median()
	return nil
}

// once builds the configuration from nothing, measures, and takes it away.
func (r *ControlRow) once(plan GrowPlan, took *operations) (err error) {
	capacity := datapath.Capacity{
		Flows: plan.Room, Services: uint32(r.Services), Backends: uint32(r.Services * r.Backends),
	}
	d, err := newDirector(PinDir, 1, capacity, r.services)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	took.attach.add(d.attachTook)
	took.apply.add(d.applyTook)

	idle, err := KeepAttached(d.Programs()...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, idle.Close()) }()
	for i := range weightChanges {
		seen, changed, err := d.changeWeight(r.key(r.Services-1), uint32(1-i%2))
		if err != nil {
			return err
		}
		took.seen.add(seen)
		took.changed.add(changed)
	}
	if plan.Xdplb != "" {
		listed, err := d.list(plan.Xdplb)
		if err != nil {
			return err
		}
		took.list.add(listed)
	}
	r.Memory, err = d.memory()
	return err
}

// list runs the command line's listing and says how long that took.
func (d *Director) list(xdplb string) (time.Duration, error) {
	var complaint bytes.Buffer
	command := exec.Command(xdplb, "--pin-dir", d.pinDir, "list", "--json")
	command.Stderr = &complaint
	start := time.Now()
	if err := command.Run(); err != nil {
		return 0, fmt.Errorf("running %s: %w: %s", command, err, bytes.TrimSpace(complaint.Bytes()))
	}
	return time.Since(start), nil
}

// key is the key of a service, of which none shares its backends with another.
func (r *ControlRow) key(service int) lb.ServiceKey {
	return growService(lb.RR, 1+service)
}

// services are the row's. All backends of the last one have the weight 0.
func (r *ControlRow) services(up uplink) []lb.Service {
	all := up.backends(firstBackend, r.Services*r.Backends)
	services := make([]lb.Service, r.Services)
	for i := range services {
		backends := all[:r.Backends:r.Backends]
		all = all[r.Backends:]
		services[i] = lb.Service{ServiceKey: r.key(i), Scheduler: r.scheduler, Backends: backends}
	}
	for i := range services[r.Services-1].Backends {
		services[r.Services-1].Backends[i].Weight = 0
	}
	return services
}

// changeWeight sets the weight of the first backend of a service whose other backends have the weight 0. So each new
// flow shows whether packets see the change: it is forwarded with the weight 1, and passed to the stack with 0.
// Another thread opens one flow after the other while the change is made.
func (d *Director) changeWeight(key lb.ServiceKey, weight uint32) (seen, changed time.Duration, err error) {
	want := Pass
	if weight > 0 {
		want = TX
	}
	observer, err := d.observe(key, want)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	_, err = datapath.ChangeService(d.pinDir, key, func(state *lb.State) error {
		return state.SetService(key, func(service *lb.Service) error {
			service.Backends[0].Weight = weight
			return nil
		})
	})
	changed = time.Since(start)
	if err != nil {
		err = fmt.Errorf("changing a weight: %w", err)
	}
	at, observed := observer.wait()
	return at.Sub(start), changed, errors.Join(err, observed)
}

const (
	observePause = 20 * time.Microsecond // between two packets: who never pauses delays the kernel's grace periods
	observeLimit = 30 * time.Second
)

// observer waits, on a thread of its own, for the first packet that meets a verdict.
type observer struct {
	done chan struct{}
	at   time.Time
	err  error
}

// observe starts an observer of new flows to a service, which do not meet the verdict yet.
func (d *Director) observe(key lb.ServiceKey, want Verdict) (*observer, error) {
	c := d.newCase("observer", "", want, d.tcp4(key, 0, tcpSYN), tuple4.of(clientsNew, 0).fresh())
	c.sequence = d.observed
	_, err := c.run(1)
	d.observed = c.sequence
	if !errors.Is(err, errVerdict) {
		return nil, errors.Join(errors.New("packets see a change before it is made"), err)
	}
	namespace, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	o := &observer{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		defer unix.Close(namespace)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if o.err = unix.Setns(namespace, unix.CLONE_NEWNET); o.err != nil {
			return
		}
		o.at, o.err = c.until(time.Now().Add(observeLimit))
		d.observed = c.sequence
	}()
	return o, nil
}

func (o *observer) wait() (time.Time, error) {
	<-o.done
	return o.at, o.err
}

// until sends packets, one by one, until one meets the case's verdict, and says when that was.
func (c *Case) until(limit time.Time) (time.Time, error) {
	for {
		_, err := c.run(1)
		now := time.Now()
		if err == nil || !errors.Is(err, errVerdict) {
			return now, err
		}
		if now.After(limit) {
			return now, fmt.Errorf("no packet has seen the change: %w", err)
		}
		time.Sleep(observePause)
	}
}

// memory is what the kernel holds for xdplb, in bytes.
func (d *Director) memory() (uint64, error) {
	view, err := datapath.Open(d.pinDir)
	if err != nil {
		return 0, err
	}
	defer view.Close()
	status, err := view.Status()
	return status.Memory, err
}

// controlCurve shows the rows of services with few backends.
func controlCurve(rows []ControlRow) Curve {
	curve := Curve{
		Name: "control", Title: "Control operations, as services grow", Y: "milliseconds",
		X: fmt.Sprintf("services of %d backends", backendsEach),
	}
	for _, line := range []struct {
		name string
		of   func(ControlRow) float64
	}{
		{"apply all", func(r ControlRow) float64 { return r.Apply }},
		{"list --json", func(r ControlRow) float64 { return r.List }},
		{"one weight, done", func(r ControlRow) float64 { return r.Changed }},
		{"one weight, seen", func(r ControlRow) float64 { return r.Seen }},
	} {
		curve.Lines = append(curve.Lines, Line{Name: line.name, Points: narrow(rows, line.of)})
	}
	return curve
}

// narrow makes points of the rows of services with few backends.
func narrow(rows []ControlRow, y func(ControlRow) float64) []Point {
	var points []Point
	for _, row := range rows {
		if row.Backends == backendsEach {
			points = append(points, Point{X: float64(row.Services), Y: y(row)})
		}
	}
	return points
}

const mebibyte = 1 << 20

func memoryCurve(rows []ControlRow, room uint32) Curve {
	return Curve{
		Name:  "memory-services",
		Title: fmt.Sprintf("Kernel memory with room for %d flows, as services grow", room),
		X:     fmt.Sprintf("services of %d backends", backendsEach), Y: "MiB",
		Lines: []Line{{Name: "rr", Points: narrow(rows, func(r ControlRow) float64 { return float64(r.Memory) / mebibyte })}},
	}
}

// capacityCurve attaches with ever more room for flows.
func capacityCurve(plan GrowPlan) (Curve, error) {
	curve := Curve{
		Name: "memory-flows", Title: "Kernel memory, as the room for flows grows", X: "flows that can be remembered", Y: "MiB",
	}
	line := Line{Name: "no services"}
	for flows := min(plan.Flows, 1<<12); flows <= plan.Flows; flows *= 4 {
		plan.say("memory: room for %d flows", flows)
		bytes, err := memoryOf(flows)
		if err != nil {
			return Curve{}, err
		}
		line.Points = append(line.Points, Point{X: float64(flows), Y: float64(bytes) / mebibyte})
	}
	curve.Lines = []Line{line}
	return curve, nil
}

// memoryOf is the memory of an attachment with room for so many flows.
func memoryOf(flows uint32) (bytes uint64, err error) {
	capacity := datapath.Capacity{Flows: flows, Services: 16, Backends: 4096}
	d, err := newDirector(PinDir, flows, capacity, func(uplink) []lb.Service { return nil })
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.memory()
}
