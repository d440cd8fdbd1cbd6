// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"time"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

// reading is everything that a listing shows, of one moment.
type reading struct {
	at       time.Time
	state    lb.State
	attached interfaces
	traffic  traffic
}

// traffic is what was counted, by service.
type traffic map[lb.ServiceKey]datapath.ServiceStats

// read takes a reading with one of datapath's two ways to read counters.
func (env *environment) read(counters func(*datapath.Datapath) (map[lb.ServiceKey]datapath.ServiceStats, error)) (r reading, err error) {
	err = env.view(func(dp *datapath.Datapath) error {
		if r.state, err = dp.Snapshot(); err != nil {
			return err
		}
		if r.attached, err = dp.Interfaces(); err != nil {
			return err
		}
		r.traffic, err = counters(dp)
		r.at = time.Now()
		return err
	})
	return r, err
}

// readRates takes two readings and returns the second, with traffic per second in place of its counters. The lock is not
// held between them.
func (env *environment) readRates() (reading, error) {
	first, err := env.read((*datapath.Datapath).Counters)
	if err != nil {
		return reading{}, err
	}
	select {
	case <-env.ctx.Done():
		return reading{}, env.ctx.Err()
	case <-time.After(ratePeriod):
	}
	second, err := env.read((*datapath.Datapath).Counters)
	if err != nil {
		return reading{}, err
	}
	second.traffic = second.traffic.since(first.traffic, second.at.Sub(first.at))
	return second, nil
}

// since is what was counted since an earlier reading, per second. What was not there then, or has been deleted and added
// again since, began at 0.
func (t traffic) since(before traffic, passed time.Duration) traffic {
	perSecond := func(now, before datapath.Counters) datapath.Counters {
		if now.Connections < before.Connections || now.Packets < before.Packets || now.Bytes < before.Bytes {
			before = datapath.Counters{}
		}
		rate := func(now, before uint64) uint64 { return uint64(float64(now-before)/passed.Seconds() + 0.5) }
		return datapath.Counters{
			Connections: rate(now.Connections, before.Connections),
			Packets:     rate(now.Packets, before.Packets),
			Bytes:       rate(now.Bytes, before.Bytes),
		}
	}
	rates := make(traffic, len(t))
	for key, service := range t {
		old := before[key]
		backends := make(map[netip.Addr]datapath.BackendStats, len(service.Backends))
		for addr, backend := range service.Backends {
			backends[addr] = datapath.BackendStats{Counters: perSecond(backend.Counters, old.Backends[addr].Counters)}
		}
		rates[key] = datapath.ServiceStats{Counters: perSecond(service.Counters, old.Counters), Backends: backends}
	}
	return rates
}
