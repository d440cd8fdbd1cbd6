// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"fmt"
	"time"
)

// MaxTimeout is the longest idle timeout that LVS takes.
const MaxTimeout = 31 * 24 * time.Hour

// Timeouts are after how long without packets a flow is forgotten, in whole seconds up to MaxTimeout. Zero means LVS's
// default.
type Timeouts struct {
	TCP    time.Duration // established
	TCPFin time.Duration // after a FIN
	UDP    time.Duration
}

// OrDefault puts LVS's defaults where there is zero (kernel: ip_vs_proto_tcp.c, ip_vs_proto_udp.c).
func (t Timeouts) OrDefault() Timeouts {
	return Timeouts{
		TCP:    cmp.Or(t.TCP, 900*time.Second),
		TCPFin: cmp.Or(t.TCPFin, 120*time.Second),
		UDP:    cmp.Or(t.UDP, 300*time.Second),
	}
}

// With puts others in their places, as far as they are not zero.
func (t Timeouts) With(others Timeouts) Timeouts {
	return Timeouts{
		TCP: cmp.Or(others.TCP, t.TCP), TCPFin: cmp.Or(others.TCPFin, t.TCPFin), UDP: cmp.Or(others.UDP, t.UDP),
	}.WithoutDefaults()
}

// WithoutDefaults puts zero where there is LVS's default, which means the same: that is how a State has them.
func (t Timeouts) WithoutDefaults() Timeouts {
	defaults := Timeouts{}.OrDefault()
	unless := func(value, initial time.Duration) time.Duration {
		if value == initial {
			return 0
		}
		return value
	}
	return Timeouts{
		TCP:    unless(t.TCP, defaults.TCP),
		TCPFin: unless(t.TCPFin, defaults.TCPFin),
		UDP:    unless(t.UDP, defaults.UDP),
	}
}

// String is the three in seconds, as ipvsadm's --set takes them: "900 120 300".
func (t Timeouts) String() string {
	t = t.OrDefault()
	return fmt.Sprintf("%d %d %d", t.TCP/time.Second, t.TCPFin/time.Second, t.UDP/time.Second)
}

func (t Timeouts) validate() error {
	for _, timeout := range []time.Duration{t.TCP, t.TCPFin, t.UDP} {
		if timeout < 0 || timeout > MaxTimeout || timeout%time.Second != 0 {
			return invalidf("timeout %s: want whole seconds, 0s to %s", timeout, MaxTimeout)
		}
	}
	return nil
}
