// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

// What [RunICount] sends: not so many new flows that xdplb's tables run full, or that it takes them for a flood.
const (
	icountRounds  = 5
	icountPackets = 1 << 13 // of one case in one round, and before the first one
	icountFlows   = 1 << 12 // established
	icountRoom    = 1 << 22 // for flows: so much that few share a bucket, since which ones do depends on random numbers

	icountServices = 16
)

var (
	icountReal   = netip.MustParseAddr("192.0.2.1")   // the first real server's
	icountClient = netip.MustParseAddr("203.0.113.1") // of the established flows
	icountMAC    = [6]byte{2, 0, 0, 0, 0, 1}          // of whom nobody asks for an address
	// All flows are one client's: its address is written where TCP's acknowledgement number is. They are spread over
	// all services, because where one stands in the table of services depends on random numbers.
	icountTuple = spreadOver(Tuple{
		Client: ethernetHeader + ip4Header + 8, Port: ethernetHeader + ip4Header, HopLimit: ethernetHeader + 8,
		Number: ethernetHeader + ip4Header + 4,
	}, icountServices)
)

// RunICount counts the instructions of the whole way of a packet, in the current namespaces ([Isolate]): through XDP
// programs, the kernel's forwarding, and LVS. The machine must be a qemu guest with one CPU whose clock counts
// instructions (-icount shift=0): 1 ns of it is one instruction. ipvsadm must be there, and the kernel's modules loaded.
// Error: when a packet did not arrive, or the rounds of a case differ.
func RunICount() (report ICountReport, err error) {
	base, err := LoadBaselines()
	if err != nil {
		return ICountReport{}, err
	}
	defer base.Close()
	drop, err := addUplink("drop", "dropnet")
	if err != nil {
		return ICountReport{}, err
	}
	floor, err := addUplink("floor", "floornet")
	if err != nil {
		return ICountReport{}, err
	}
	for program, to := range map[*ebpf.Program]uplink{base.Empty.Program: drop, base.Floor.Program: floor} {
		held, err := attachNative(program, to.link)
		if err != nil {
			return ICountReport{}, err
		}
		defer held.Close()
	}
	director, err := attachDirector(PinDir, datapath.Capacity{Flows: icountRoom}, icountBalanced)
	if err != nil {
		return ICountReport{}, err
	}
	defer func() { err = errors.Join(err, director.Close()) }()
	stack, err := newStack()
	if err != nil {
		return ICountReport{}, err
	}
	chain, err := newChain(drop, floor, director.uplink, stack.in)
	if err != nil {
		return ICountReport{}, err
	}
	defer func() { err = errors.Join(err, chain.close()) }()
	idle, err := KeepAttached(chain.objects.Programs["generate"])
	if err != nil {
		return ICountReport{}, err
	}
	defer func() { err = errors.Join(err, idle.Close()) }()

	baselines := []*Case{
		(&road{chain, drop, drop.link}).hit("xdp-drop", "thrown away by an XDP program: generator and veth alone", lb.RR),
		(&road{chain, floor, floor.peer}).hit("floor", "both MACs rewritten and sent back", lb.RR),
	}
	rows, err := countInstructions(slices.Concat(baselines,
		xdplbCases(&road{chain, director.uplink, director.uplink.peer}),
		stack.cases(&road{chain, stack.in, stack.out.peer})))
	if err != nil {
		return ICountReport{}, err
	}
	if err := errors.Join(director.verifyConnections(2*icountOpened), stack.verify()); err != nil {
		return ICountReport{}, err
	}
	return newICountReport(ThisMachine(), rows), nil
}

// road is a way that packets take: sent into the network's end of an uplink, they arrive at an interface, in one chain
// of softirqs.
type road struct {
	chain *chain
	in    uplink
	end   netlink.Link
}

// send runs the generator on live frames. All must have arrived when that returns: what is done later is not counted.
func (r *road) send(generate *ebpf.Program, options *ebpf.RunOptions) (Verdict, time.Duration, error) {
	options.Flags, options.BatchSize = liveFrames, liveBatch
	before, err := received(r.end)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if _, err := generate.Run(options); err != nil {
		return 0, 0, err
	}
	elapsed := time.Since(start)
	after, err := received(r.end)
	if err != nil {
		return 0, 0, err
	}
	if after-before != uint64(options.Repeat) {
		return 0, 0, fmt.Errorf("%w: %d of %d arrived at %s", errLost, after-before, options.Repeat, r.end.Attrs().Name)
	}
	return TX, elapsed, nil // the kernel reports no verdict
}

// received is how many frames have come to an interface.
func received(link netlink.Link) (uint64, error) {
	now, err := netlink.LinkByIndex(link.Attrs().Index)
	if err != nil {
		return 0, fmt.Errorf("reading the counters of %s: %w", link.Attrs().Name, err)
	}
	return now.Attrs().Statistics.RxPackets, nil
}

// newCase is TCP segments of a client with a source port for each flow. The kernel's own forwarding verifies the IP
// header's checksum, which the driver does not correct: so it gets the sequence number to change in the address's place.
func (r *road) newCase(name, what string, client netip.Addr, to netip.AddrPort, flags byte) *Case {
	c := r.chain.generator(&Case{Name: name, What: what, Tuple: icountTuple}, r.in)
	c.Frame, c.Send = r.frame(client, to, flags), r.send
	return c
}

func (r *road) frame(client netip.Addr, to netip.AddrPort, flags byte) []byte {
	packet := datagram4{from: client, to: to.Addr(), protocol: protocolTCP}
	return ethernet(r.in.mac(), 0, etherTypeIP4, packet.build(segment(1024, to.Port(), flags)))
}

// hit is packets of established flows, which a SYN and an ACK of each has opened.
func (r *road) hit(name, what string, scheduler lb.Scheduler) *Case {
	service := growService(scheduler, 1).Addr
	c := r.newCase(name, what, icountClient, service, tcpACK)
	c.Tuple.Flows = icountFlows
	c.Prepare = func() error {
		for _, flags := range []byte{tcpSYN, tcpACK} {
			open := r.newCase(name, "", icountClient, service, flags)
			open.Tuple.New = true
			if _, err := open.run(icountFlows); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

// fresh is SYNs, each of a flow of its own. Each round has another client, since LVS does not schedule what comes from
// the ports 0 and 20 (FTP's data), which the driver comes to after more flows than one round has.
func (r *road) fresh(name, what string, scheduler lb.Scheduler) *Case {
	client, service := icountClient, growService(scheduler, 1).Addr
	c := r.newCase(name, what, client, service, tcpSYN)
	c.Tuple.New = true
	c.Before = func() error {
		client = client.Next()
		c.Frame, c.sequence = r.frame(client, service, tcpSYN), 0
		return nil
	}
	return c
}

// errUnsteady means that something else than instructions was counted. What the kernel does from time to time, as LVS
// when it computes rates, falls into few rounds: so the smallest round is the figure, and half of them may be larger.
var errUnsteady = errors.New("rounds differ by more than 2 %: is the clock an instruction counter?")

// countInstructions measures one case after the other, in this order.
func countInstructions(cases []*Case) ([]ICountRow, error) {
	var rows []ICountRow
	for _, c := range cases {
		if c.Prepare != nil {
			if err := c.Prepare(); err != nil {
				return nil, fmt.Errorf("%s: preparing: %w", c.Name, err)
			}
		}
		row := ICountRow{Name: c.Name, What: c.What}
		for range 1 + icountRounds {
			if err := c.before(); err != nil {
				return nil, err
			}
			elapsed, err := c.run(icountPackets)
			if err != nil {
				return nil, err
			}
			row.Rounds = append(row.Rounds, float64(elapsed.Nanoseconds())/icountPackets)
		}
		row.Rounds = row.Rounds[1:] // the first was there to warm up
		row.Instructions = slices.Min(row.Rounds)
		if quantile(row.Rounds, 0.5) > row.Instructions*(1+tolerance) {
			return nil, fmt.Errorf("%s: %w: %.1f", c.Name, errUnsteady, row.Rounds)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// icountBalanced are as many services of each scheduler as LVS gets.
func icountBalanced(up uplink) []lb.Service {
	backends := up.backends(icountReal, Backends)
	var services []lb.Service
	for _, scheduler := range []lb.Scheduler{lb.RR, lb.MH} {
		for port := 1; port <= icountServices; port++ {
			services = append(services, lb.Service{
				ServiceKey: growService(scheduler, port), Scheduler: scheduler, Backends: backends,
			})
		}
	}
	return services
}

func xdplbCases(road *road) []*Case {
	return []*Case{
		road.hit(xdplbHit, "xdplb, rr, established flow", lb.RR),
		road.fresh(xdplbNew, "xdplb, rr, new flow", lb.RR),
		road.hit("xdplb-mh-hit", "xdplb, mh, established flow", lb.MH),
		road.fresh("xdplb-mh-new", "xdplb, mh, new flow", lb.MH),
	}
}

// icountOpened is how many connections the cases of one scheduler open.
const icountOpened = icountFlows + (1+icountRounds)*icountPackets
