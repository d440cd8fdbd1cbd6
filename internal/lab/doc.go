// SPDX-License-Identifier: Apache-2.0

// Package lab raises the reference cluster on one machine: every host is a network namespace, every cable a veth pair,
// the switch a bridge in a namespace of its own. The cluster lives until [Down], whoever dies meanwhile; tests call
// [New], which puts it into namespaces that vanish with the test.
//
// # Hosts
//
//	host        interface  IPv4                          IPv6 (Options.IPv6)
//	client      eth0       10.10.0.1/8                   2001:db8:10::1/64
//	router      eth0       10.10.0.88/8                  2001:db8:10::88/64
//	            eth1       172.10.0.1/16                 2001:db8:ac::1/64
//	                       192.168.60.1/24               2001:db8:60::1/64
//	            eth2       192.168.61.1/24               2001:db8:61::1/64   (FarBackends)
//	director    eth0       192.168.60.4/24 (DIP)         2001:db8:60::4/64
//	                       172.10.0.9/16 (VIP)           2001:db8:ac::9/64
//	            eth1       192.168.61.4/24               2001:db8:61::4/64   (FarBackends)
//	director2   eth0       192.168.60.5/24               2001:db8:60::5/64   (Directors: 2; the VIP waits for a failover)
//	            eth1       192.168.61.5/24               2001:db8:61::5/64   (Directors: 2 and FarBackends)
//	real1...    eth0       192.168.60.8/24 and up (RIP)  2001:db8:60::8/64 and up
//	            lo         172.10.0.9/32 (VIP)           2001:db8:ac::9/128
//	far1...     eth0       192.168.61.8/24 and up        2001:db8:61::8/64 and up
//	            lo         172.10.0.9/32 (VIP)           2001:db8:ac::9/128
//
// An IPv6 address ends in the decimal digits of its IPv4 sister's last byte, so that real3 is 192.168.60.10 and
// 2001:db8:60::10. The MAC address of an interface is 02:00 followed by its first IPv4 address. The client and the
// router share a cable; the rest is plugged into the namespace "switch", by ports named after the hosts, and the far
// real servers with one interface of each director and of the router into "switch2". Client and real servers have a
// default route through the router; the directors need none.
//
// Every host is a named network namespace, xdplb-<host>, as `ip netns` shows it. State, web servers' files and the
// directors' pins are in /run/xdplb-lab.
//
// # What a veth needs
//
// A frame that leaves a veth by XDP_TX, or by XDP_REDIRECT to it, is thrown away unless the peer runs an XDP program
// (drivers/net/veth.c: veth_xdp_xmit), so the switch's ports towards the directors carry one that passes everything. It
// is the reason why this package, too, imports cilium/ebpf. And a locally made packet crosses a veth with its checksum
// unfinished, which nobody finishes once XDP has sent it on: transmit checksum offload is off where traffic starts that
// a director may forward, on the client and the directors.
package lab
