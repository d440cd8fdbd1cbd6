// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
)

// Reason is why packets met their verdict, and how many did. Every packet that the program sees counts under one.
type Reason struct {
	Name    string // "no_service"
	Verdict string // "TX", "REDIRECT", "PASS" (to the director's own stack) or "DROP"
	Meaning string // a sentence fragment
	Packets uint64
}

// reasonTexts describes enum reason, in its order. The verdicts are those of bpf/count.h.
func reasonTexts() [xdplbReasonREASON_COUNT]Reason {
	return [...]Reason{
		xdplbReasonREASON_TX:                 {"tx", "TX", "sent to a backend out of the same interface", 0},
		xdplbReasonREASON_REDIRECT:           {"redirect", "REDIRECT", "sent to a backend out of another interface", 0},
		xdplbReasonREASON_LOCAL:              {"local", "PASS", "for a backend that is the director itself", 0},
		xdplbReasonREASON_NOT_IP:             {"not_ip", "PASS", "not IP: ARP, LLDP, more than two VLAN tags", 0},
		xdplbReasonREASON_OTHER_PROTOCOL:     {"other_protocol", "PASS", "IP, but neither TCP, UDP, SCTP nor an ICMP error", 0},
		xdplbReasonREASON_NO_SERVICE:         {"no_service", "PASS", "there is no service with this address, port and protocol", 0},
		xdplbReasonREASON_OTHER_HOST:         {"other_host", "PASS", "for a service, but addressed to another host's MAC", 0},
		xdplbReasonREASON_MALFORMED:          {"malformed", "PASS", "lengths or offsets that do not fit together", 0},
		xdplbReasonREASON_NO_BACKEND:         {"no_backend", "PASS", "no backend of the service takes new connections", 0},
		xdplbReasonREASON_NO_CONNECTION:      {"no_connection", "PASS", "TCP or SCTP that neither opens a connection nor belongs to a known one", 0},
		xdplbReasonREASON_ICMP_UNMATCHED:     {"icmp_unmatched", "PASS", "an ICMP error about no known connection", 0},
		xdplbReasonREASON_FRAGMENT_UNMATCHED: {"fragment_unmatched", "PASS", "a later fragment whose first one was not seen", 0},
		xdplbReasonREASON_TTL_EXCEEDED:       {"ttl_exceeded", "DROP", "TTL or hop limit used up", 0},
		xdplbReasonREASON_NO_NEIGHBOUR:       {"no_neighbour", "DROP", "the backend's MAC address is not known", 0},
		xdplbReasonREASON_FLOW_TABLE_FULL:    {"flow_table_full", "DROP", "the new connection got no place in the flow table", 0},
		xdplbReasonREASON_TOO_BIG:            {"too_big", "DROP", "larger than the MTU towards the backend", 0},
		xdplbReasonREASON_NO_HEADROOM:        {"no_headroom", "DROP", "no room in the frame for a VLAN tag", 0},
		xdplbReasonREASON_INTERNAL:           {"internal", "DROP", "a bug of xdplb, please report it", 0},
	}
}

// Reasons reads how many packets met which verdict, in the order of a packet's walk.
func (d *Datapath) Reasons() ([]Reason, error) {
	reasons := reasonTexts()
	for i := range reasons {
		var perCPU []uint64
		if err := d.maps.Reasons.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("reading the counter of %s: %w", reasons[i].Name, err)
		}
		for _, packets := range perCPU {
			reasons[i].Packets += packets
		}
	}
	return reasons[:], nil
}
