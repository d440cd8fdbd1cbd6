// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/netip"
	"strconv"
	"time"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
)

// serviceView and backendView are a state as --json prints it. Field names are part of the command line: they may be
// added to, not changed.
type serviceView struct {
	Protocol  string        `json:"protocol"`
	Address   netip.Addr    `json:"address"`
	Port      uint16        `json:"port"`
	Ports     string        `json:"ports,omitempty"` // all of them, if there are several: "443,8000-8099"
	Scheduler string        `json:"scheduler"`
	Persists  int64         `json:"persistent_seconds,omitempty"` // left out: the service is not persistent
	Prefix    *uint8        `json:"persistent_prefix,omitempty"`  // bits of an address that make a client
	Expires   bool          `json:"expire_quiescent,omitempty"`
	Flags     string        `json:"scheduler_flags,omitempty"` // as ipvsadm writes them
	OnePacket bool          `json:"one_packet,omitempty"`
	OnRemoval string        `json:"on_removal,omitempty"` // left out: reschedule
	Total     *trafficView  `json:"total,omitempty"`
	PerSecond *trafficView  `json:"per_second,omitempty"`
	Backends  []backendView `json:"backends"`
}

type backendView struct {
	Service   string       `json:"service,omitempty"` // "TCP 172.10.0.9:80"; left out where it stands in its service
	Address   netip.Addr   `json:"address"`
	Weight    uint32       `json:"weight"`
	Upper     uint32       `json:"upper_threshold,omitempty"`
	Lower     uint32       `json:"lower_threshold,omitempty"`
	Interface string       `json:"interface"`
	VLAN      uint16       `json:"vlan,omitempty"`
	MAC       string       `json:"mac"` // "": not known
	Static    bool         `json:"static"`
	Local     bool         `json:"local,omitempty"` // the director itself
	Active    *uint64      `json:"active_connections,omitempty"`
	Inactive  *uint64      `json:"inactive_connections,omitempty"`
	Templates *uint64      `json:"persistent_connections,omitempty"` // persistence templates, if the service is persistent
	Total     *trafficView `json:"total,omitempty"`
	PerSecond *trafficView `json:"per_second,omitempty"`
}

// trafficView is what clients sent; bytes are of IP.
type trafficView struct {
	Connections uint64 `json:"connections"`
	Packets     uint64 `json:"packets"`
	Bytes       uint64 `json:"bytes"`
}

func serviceViews(state lb.State, attached interfaces) []serviceView {
	views := make([]serviceView, 0, len(state.Services))
	for _, s := range state.Services {
		view := serviceView{
			Protocol:  s.Protocol.String(),
			Address:   s.Addr.Addr(),
			Port:      s.Addr.Port(),
			Ports:     string(s.Ports),
			Scheduler: s.Scheduler.String(),
			Flags:     s.Scheduler.FlagNames(s.Flags),
			OnePacket: s.OnePacket,
			Backends:  make([]backendView, 0, len(s.Backends)),
		}
		if s.OnRemoval != lb.Reschedule {
			view.OnRemoval = s.OnRemoval.String()
		}
		if p := s.Persistence; p.Timeout != 0 {
			view.Persists, view.Prefix, view.Expires = int64(p.Timeout/time.Second), &p.Prefix, p.ExpireQuiescent
		}
		for _, b := range s.Backends {
			view.Backends = append(view.Backends, newBackendView(b, attached))
		}
		views = append(views, view)
	}
	return views
}

// views are the reading's services with their traffic, as set puts it into each.
func (r reading) views(set func(*serviceView, datapath.ServiceStats)) []serviceView {
	views := serviceViews(r.state, r.attached)
	for i := range views {
		set(&views[i], r.traffic[r.state.Services[i].ServiceKey])
	}
	return views
}

func (v *serviceView) setTotals(stats datapath.ServiceStats) {
	total := trafficView(stats.Counters)
	v.Total = &total
	for i := range v.Backends {
		b := &v.Backends[i]
		of := stats.Backends[b.Address]
		total := trafficView(of.Counters)
		b.Total, b.Active, b.Inactive = &total, &of.Active, &of.Inactive
		if v.Persists != 0 {
			b.Templates = &of.Persistent
		}
	}
}

func (v *serviceView) setRates(rates datapath.ServiceStats) {
	rate := trafficView(rates.Counters)
	v.PerSecond = &rate
	for i := range v.Backends {
		b := &v.Backends[i]
		rate := trafficView(rates.Backends[b.Address].Counters)
		b.PerSecond = &rate
	}
}

// backendViews are the backends of all services, each with the name of its service.
func backendViews(state lb.State, attached interfaces) []backendView {
	views := []backendView{}
	for _, s := range state.Services {
		for _, b := range s.Backends {
			view := newBackendView(b, attached)
			view.Service = s.ServiceKey.String()
			views = append(views, view)
		}
	}
	return views
}

func newBackendView(b lb.Backend, attached interfaces) backendView {
	view := backendView{
		Address:   b.Addr,
		Weight:    b.Weight,
		Upper:     b.Upper,
		Lower:     b.Lower,
		Interface: attached.name(b.Hop.Ifindex),
		VLAN:      b.Hop.VLAN,
		Static:    b.Hop.Static,
		Local:     b.Hop.Local,
	}
	if b.Hop.MAC != [6]byte{} {
		view.MAC = net.HardwareAddr(b.Hop.MAC[:]).String()
	}
	return view
}

// row is the backend as a line of "backend list".
func (v backendView) row() []string {
	dash := func(word string) string {
		if word == "" || word == "0" {
			return "-"
		}
		return word
	}
	mac, found := v.MAC, "on the segment"
	switch {
	case v.Local:
		mac, found = "-", "local"
	case v.Static:
		found = "by hand"
	case mac == "":
		mac, found = "unknown", "-"
	}
	return []string{
		v.Service, v.Address.String(), strconv.FormatUint(uint64(v.Weight), 10), dash(v.Interface),
		dash(strconv.Itoa(int(v.VLAN))), mac, found,
	}
}
