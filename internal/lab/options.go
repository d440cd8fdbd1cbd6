// SPDX-License-Identifier: Apache-2.0

package lab

import "fmt"

// ARPMode is the way in which the router is kept from learning a real server's MAC address for the VIP.
type ARPMode string

// The ways, of which the first three work.
const (
	ARPStatic ARPMode = "static" // a permanent neighbour entry on the router; the real servers do nothing
	ARPSysctl ARPMode = "sysctl" // arp_ignore and arp_announce on the real servers
	ARPFilter ARPMode = "filter" // an nftables arp-family filter on the real servers
	ARPNone   ARPMode = "none"   // nothing: the real servers answer for the VIP, and requests miss the director
)

// ParseARPMode reads one of the four words. The error says only which there are.
func ParseARPMode(word string) (ARPMode, error) {
	switch mode := ARPMode(word); mode {
	case ARPStatic, ARPSysctl, ARPFilter, ARPNone:
		return mode, nil
	}
	return "", fmt.Errorf("want %s, %s, %s or %s", ARPStatic, ARPSysctl, ARPFilter, ARPNone)
}

// MaxBackends is the number of real servers for which a segment has addresses.
const MaxBackends = 200

// Options say which cluster is raised. The zero value is the reference cluster without web servers.
type Options struct {
	Backends    int     `json:"backends"`     // real servers on the directors' segment, 1 to MaxBackends; 0 means 2
	FarBackends int     `json:"far_backends"` // real servers on a second segment, behind the directors' eth1
	IPv6        bool    `json:"ipv6"`         // IPv6 addresses beside the IPv4 ones; without it IPv6 is off
	ARP         ARPMode `json:"arp"`          // "" means ARPSysctl
	Directors   int     `json:"directors"`    // 1 or 2; 0 means 1
	WebServers  bool    `json:"web_servers"`  // nginx on every real server
	LocalNodes  bool    `json:"local_nodes"`  // and on every director too, if on any host
	Bare        bool    `json:"bare"`         // the real servers are plain hosts yet: no VIP, no default route
}

// complete fills in the defaults and refuses what no cluster can have.
func (o Options) complete() (Options, error) {
	if o.Backends == 0 {
		o.Backends = 2
	}
	if o.Directors == 0 {
		o.Directors = 1
	}
	if o.ARP == "" {
		o.ARP = ARPSysctl
	}
	if o.Backends < 1 || o.Backends > MaxBackends {
		return o, fmt.Errorf("%d backends: want 1 to %d", o.Backends, MaxBackends)
	}
	if o.FarBackends < 0 || o.FarBackends > MaxBackends {
		return o, fmt.Errorf("%d far backends: want 0 to %d", o.FarBackends, MaxBackends)
	}
	if o.Directors != 1 && o.Directors != 2 {
		return o, fmt.Errorf("%d directors: want 1 or 2", o.Directors)
	}
	if _, err := ParseARPMode(string(o.ARP)); err != nil {
		return o, fmt.Errorf("ARP mode %q: %w", o.ARP, err)
	}
	return o, nil
}
