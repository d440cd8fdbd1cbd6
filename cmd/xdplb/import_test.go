// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"
	"time"

	"xdplb/internal/datapath"
	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

func TestJudgeConnection(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort
	hop := lb.NextHop{MAC: [6]byte{2, 0, 0, 0, 0, 8}, Ifindex: 2}
	state, err := lb.NewState([]lb.Service{
		{ServiceKey: lb.ServiceKey{Addr: at("172.10.0.9:80"), Protocol: lb.TCP}, Scheduler: lb.RR, Backends: []lb.Backend{
			{Addr: netip.MustParseAddr("192.168.60.8"), Hop: hop}, {Addr: netip.MustParseAddr("192.168.60.9")},
		}},
		{ServiceKey: lb.ServiceKey{Addr: at("172.10.0.9:80"), Protocol: lb.UDP}, Scheduler: lb.RR, Backends: []lb.Backend{
			{Addr: netip.MustParseAddr("192.168.60.8"), Hop: hop},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	const client, web, real1, silent, gone = "203.0.113.1:4000", "172.10.0.9:80", "192.168.60.8:80", "192.168.60.9:80", "192.168.60.7:80"
	for _, test := range []struct {
		state, client, vip, backend string
		left                        int // seconds
		verdict                     ipvsadm.Verdict
		ours                        datapath.ConnectionState
	}{
		{"ESTABLISHED", client, web, real1, 900, ipvsadm.Taken, datapath.StateEstablished},
		{"ESTABLISHED", client, web, real1, 1, ipvsadm.Taken, datapath.StateEstablished},
		{"ESTABLISHED", client, web, real1, 3600, ipvsadm.Approximated, datapath.StateEstablished},
		{"ESTABLISHED", client, web, real1, 0, ipvsadm.LeftOut, ""},
		{"SYN_RECV", client, web, real1, 60, ipvsadm.Taken, datapath.StateSYN},
		{"SYN_SENT", client, web, real1, 60, ipvsadm.Approximated, datapath.StateSYN},
		{"SYNACK", client, web, real1, 60, ipvsadm.Approximated, datapath.StateSYN},
		{"FIN_WAIT", client, web, real1, 120, ipvsadm.Taken, datapath.StateFIN},
		{"TIME_WAIT", client, web, real1, 120, ipvsadm.Taken, datapath.StateTimeWait},
		{"CLOSE_WAIT", client, web, real1, 60, ipvsadm.Approximated, datapath.StateFIN},
		{"LAST_ACK", client, web, real1, 30, ipvsadm.Approximated, datapath.StateFIN},
		{"CLOSE", client, web, real1, 10, ipvsadm.Taken, datapath.StateClosed},
		{"NONE", client, web, real1, 2, ipvsadm.LeftOut, ""},
		{"LISTEN", client, web, real1, 120, ipvsadm.LeftOut, ""},
		{"NONE", "203.0.113.1:0", web, real1, 300, ipvsadm.LeftOut, ""},
		{"ESTABLISHED", client, "172.10.0.9:81", "192.168.60.8:81", 900, ipvsadm.LeftOut, ""},
		{"ESTABLISHED", client, web, "192.168.60.8:8080", 900, ipvsadm.Refused, ""},
		{"ESTABLISHED", client, web, gone, 900, ipvsadm.Refused, ""},
		{"ESTABLISHED", client, web, silent, 900, ipvsadm.Refused, ""},
		{"FIN_WAIT", client, web, gone, 120, ipvsadm.LeftOut, ""},
		{"CLOSE", client, web, silent, 10, ipvsadm.LeftOut, ""},
		{"UDP", client, web, real1, 300, ipvsadm.Taken, datapath.StateUDP},
	} {
		c := ipvsadm.Connection{
			Protocol: lb.TCP, State: test.state, Left: time.Duration(test.left) * time.Second,
			Client: at(test.client), VIP: at(test.vip), Backend: at(test.backend),
		}
		if test.state == "UDP" {
			c.Protocol = lb.UDP
		}
		var want datapath.Connection
		if test.ours != "" {
			want = datapath.Connection{
				Service: lb.ServiceKey{Addr: c.VIP, Protocol: c.Protocol}, Client: c.Client, VIPPort: 80,
				Backend: c.Backend.Addr(), State: test.ours, Left: c.Left,
			}
		}
		ours, verdict, why := judgeConnection(c, &state)
		if verdict != test.verdict || ours != want || (why == "") != (verdict == ipvsadm.Taken) {
			t.Errorf("%s %s -> %s: %s (%s) %+v, want %s %+v", test.state, test.client, test.backend, verdict, why, ours, test.verdict, want)
		}
	}
}
