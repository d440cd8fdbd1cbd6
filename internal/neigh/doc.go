// SPDX-License-Identifier: Apache-2.0

// Package neigh finds the Ethernet address behind an IP address of a directly connected network: it asks the kernel
// which attached interface (or VLAN device on one) reaches the address, and the kernel's neighbour table for its
// hardware address. Where the table has no confirmed entry, the kernel is made to ask the segment (ARP, or neighbour
// discovery for IPv6); this package sends no packet of its own. It also lists the addresses that this host itself has.
//
// All functions act on the network namespace of the calling thread and start no goroutine.
package neigh
