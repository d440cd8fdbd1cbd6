// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"xdplb/internal/lb"
)

// TestLoadSize opens 16 M flows to 10,000 services of ten backends each. At half of what the table was made for no flow
// may be lost; at all of it, those that are must be counted.
func TestLoadSize(t *testing.T) {
	const flows, services, backends = 16 << 20, 10_000, 10
	f := newStreams(t, Capacity{Flows: flows, Services: services, Backends: services * backends},
		flows, services, services*backends+1)
	f.serve(t, backends, lb.RR)
	for _, blocks := range []uint32{flows / blockFlows / 2, flows / blockFlows} {
		f.onLanes(t, func(l *lane) error {
			for block := range blocks {
				if l != f.lanes[block%2] || f.isConnected(block*blockFlows, 1) {
					continue
				}
				if err := l.open(block); err != nil {
					return err
				}
			}
			return nil
		})
		f.onLanes(t, func(l *lane) error {
			for range 100 {
				if err := l.roam(l.random.Uint32N(blocks), blockFlows, 8192); err != nil {
					return err
				}
			}
			return nil
		})
		f.compareWithCounters(t, blocks*blockFlows, backends)
	}
}

// compareWithCounters holds what was opened against what is counted and what is remembered.
func (f *streams) compareWithCounters(t testing.TB, flows, backends uint32) {
	t.Helper()
	d, err := Open(pinDir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	counted, err := d.Counters()
	if err != nil {
		t.Fatal(err)
	}
	opened := make([]uint64, f.services+1)
	for flow := range flows {
		service := f.serviceOf(flow)
		opened[service]++
		if home := f.tracks.values[flow].Home; (home-1)/backends+1 != service {
			t.Fatalf("flow %d of service %d is with backend %d", flow, service, home)
		}
	}
	status, again := f.status(t), uint64(0)
	for port := range f.services {
		got, want := counted[f.key(port+1)].Connections, opened[port+1]
		if got < want {
			t.Fatalf("service %d counted %d connections of %d", port+1, got, want)
		}
		again += got - want
	}
	if again > status.Evictions.Embryonic {
		t.Errorf("%d connections too many counted, %d were opened again", again, status.Evictions.Embryonic)
	}
	evicted := status.Evictions.Established
	if status.Live != int(flows)-int(evicted) || flows <= d.meta.Flows/2 && evicted > 0 {
		t.Errorf("%d flows opened: %+v", flows, status)
	}
	if stopped := f.eachFlow(t, flows); uint64(stopped) > evicted {
		t.Errorf("packets of %d flows did not arrive, %d flows were evicted", stopped, evicted)
	}
	t.Logf("%d flows: %+v, %+v", flows, status, f.losses(t))
}
