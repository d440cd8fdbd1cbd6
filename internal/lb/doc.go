// SPDX-License-Identifier: Apache-2.0

// Package lb is the load balancer's domain: virtual services, their backends, validation, and the difference
// between two states. It is pure: it imports nothing of the kernel, does no I/O, and every value can be compared
// with == or cmp.Diff.
//
// The words are LVS's. A virtual service is (address, port, protocol); a backend is one of its real servers. A
// backend has no port of its own: in direct routing the frame's IP payload is not touched, so the real server
// listens on the service's port.
package lb
