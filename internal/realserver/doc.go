// SPDX-License-Identifier: Apache-2.0

// Package realserver turns a host into a real server of a direct-routing cluster: it puts the VIPs on the loopback
// interface, keeps the host from answering or sending ARP for them, and sets the way back to the clients.
//
// # What keeps a VIP silent
//
// IPv4, mode [Sysctl]: arp_ignore=1 (answer ARP only for addresses of the receiving interface) and arp_announce=2
// (never send ARP with a sender that is not of the outgoing interface), on "all" and on lo. The kernel takes the
// larger of "all" and the receiving or sending interface, so that lo alone would change nothing. The values are
// written under /proc/sys, because netlink has no "all", and /proc/sys/net shows the network namespace of the thread
// that opens it, as netlink does.
//
// IPv4, mode [Filter]: an nftables table "arp xdplb" drops ARP that asks for a VIP, drops announcements of a VIP, and
// in ARP that goes out with a VIP as sender puts the host's own address (RIP) there.
//
// IPv6: nothing needs to be switched off. Linux answers a neighbour solicitation only for addresses of the receiving
// interface and takes its source from the sending one (net/ipv6/ndisc.c), and lo does no duplicate address detection.
//
// # The record
//
// Before each change, what was there before is written to a record (atomically, mode 0600), so that [Teardown] can
// put it back after a crash at any point. The record lives under /run and names the boot that it belongs to, since
// everything that it describes dies with the kernel. Its name has the network namespace's cookie, which the kernel
// gives to no other namespace until the next boot: hosts in namespaces share /run.
package realserver
