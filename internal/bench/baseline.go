// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Baselines are the cases that the others are compared with; see bpf/bench/floor.c.
type Baselines struct {
	Empty  *Case // a program that does nothing: the cost of BPF_PROG_TEST_RUN itself
	Floor  *Case // rewrites both MACs and transmits
	Driver *Case // the driver with no program inside

	objects *ebpf.Collection
}

// LoadBaselines loads the programs, which must be kept attached while they are measured.
func LoadBaselines() (*Baselines, error) {
	spec, err := loadFloor()
	if err != nil {
		return nil, err
	}
	objects, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("loading the floor: %w", err)
	}
	frame := ethernet([6]byte{2, 0, 0, 0, 0, 1}, 0, etherTypeIP4,
		datagram4{from: clients4, to: vip4, protocol: protocolTCP}.build(segment(1024, 80, tcpACK)))
	return &Baselines{
		objects: objects,
		Empty: &Case{
			Name: "empty", What: "returns DROP: BPF_PROG_TEST_RUN itself", Want: Drop,
			Program: objects.Programs["empty_program"], Frame: frame,
		},
		Floor: &Case{
			Name: "floor", What: "rewrites both MACs and transmits", Want: TX,
			Program: objects.Programs["floor_program"], Frame: frame,
		},
		Driver: &Case{
			Name: "driver", What: "the driver alone", Want: TX,
			Program: objects.Programs["driver_alone"], Frame: frame,
			Driver: objects.Variables["driver"], Tuple: tuple4.of(clients4, 1),
		},
	}, nil
}

// Close unloads the programs.
func (b *Baselines) Close() {
	b.objects.Close()
}

// Programs returns the programs of all baselines.
func (b *Baselines) Programs() []*ebpf.Program {
	return []*ebpf.Program{b.Empty.Program, b.Floor.Program, b.Driver.Program}
}

// Cases returns all baselines, in the order in which [NewReport] wants them.
func (b *Baselines) Cases() []*Case {
	return []*Case{b.Empty, b.Floor, b.Driver}
}
