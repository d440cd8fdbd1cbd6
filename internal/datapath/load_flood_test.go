// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"testing"

	"xdplb/internal/lb"
)

// TestLoadFlood sends ten million SYNs of random clients while more than 10,000 established flows send. All packets of
// these must reach the backend that they reached before.
func TestLoadFlood(t *testing.T) {
	for _, c := range []struct {
		name       string
		services   uint32
		schedulers []lb.Scheduler
		syns       int
		floods     bool
	}{
		// each service in flood mode: what its hash places
		{"few services", 2, []lb.Scheduler{lb.RR, lb.MH}, 10_000_000, true},
		// each perhaps below the rate: the flow table's own defence, with several SYNs a tick for each of its entries
		{"many services", 1000, []lb.Scheduler{lb.RR}, 3_000_000, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			const strides, burst, backends = 5, 16_384, 10
			f := newStreams(t, Capacity{Flows: 1 << 17, Services: c.services, Backends: backends * c.services},
				blockFlows, c.services, backends*c.services+1)
			f.serve(t, backends, c.schedulers...)
			send := func(l *lane) (err error) {
				for stride := range uint32(strides) {
					err = errors.Join(err, l.openStride(0, stride))
				}
				return err
			}
			f.onLanes(t, func(l *lane) error {
				if l != f.lanes[0] { // the other's SYNs would make it a flood already
					return nil
				}
				return send(l)
			})
			f.onLanes(t, func(l *lane) (err error) {
				for n := 0; n < c.syns/2 && err == nil; n += burst {
					err = errors.Join(l.flood(burst), send(l))
				}
				return err
			})
			w, lost, status := f.allArrive(t), f.losses(t), f.status(t)
			t.Logf("%d packets; %+v, %+v", w.Packets, lost, status)
			if stopped := f.eachFlow(t, strides*strideFlows); stopped > 0 || w.Moves > 0 || status.Evictions.Established > 0 {
				t.Errorf("%d of %d established flows stopped, %d moved", stopped, strides*strideFlows, w.Moves)
			}
			if c.floods && status.Floods == 0 || !c.floods && status.Evictions.Embryonic == 0 {
				t.Errorf("%+v: this test shows nothing", status)
			}
		})
	}
}
