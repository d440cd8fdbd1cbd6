// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"slices"
)

// Scheduler is the way in which a service chooses the backend of a new flow. The zero value is not valid.
type Scheduler uint8

// The schedulers, with LVS's names (kernel: net/netfilter/ipvs/ip_vs_<name>.c).
const (
	RR  Scheduler = iota + 1 // rr: round robin over the backends, whatever their weights (0 excepted)
	WRR                      // wrr: round robin in proportion to the weights
	SH                       // sh: by a hash of the client's address
	MH                       // mh: by a Maglev table and a hash of the client's address, as LVS without mh-port
)

// DefaultScheduler is what a service gets that names no scheduler. LVS's default is wlc, which xdplb does not have
// yet; rr shares equally, as wlc does among equal backends with connections of equal length.
const DefaultScheduler = RR

// Schedulers returns all schedulers, in the order in which messages and help list them.
func Schedulers() []Scheduler {
	return []Scheduler{RR, WRR, SH, MH}
}

// String returns LVS's name of the scheduler: "rr".
func (s Scheduler) String() string {
	switch s {
	case RR:
		return "rr"
	case WRR:
		return "wrr"
	case SH:
		return "sh"
	case MH:
		return "mh"
	}
	return fmt.Sprintf("scheduler %d", uint8(s))
}

// wantScheduler is the tail of every message about a scheduler that is none.
const wantScheduler = "want rr, wrr, sh or mh"

// ParseScheduler reads a scheduler's name as LVS writes it. The error is an ErrInvalid, names the word, and tells apart
// what nobody knows and what only LVS has.
func ParseScheduler(word string) (Scheduler, error) {
	for _, s := range Schedulers() {
		if s.String() == word {
			return s, nil
		}
	}
	switch word {
	case "lc", "wlc", "lblc", "lblcr", "dh", "sed", "nq", "fo", "ovf", "twos":
		return 0, invalidf("LVS's scheduler %q is one that xdplb does not have yet: %s", word, wantScheduler)
	}
	return 0, invalidf("unknown scheduler %q: %s", word, wantScheduler)
}

func (s Scheduler) validate() error {
	if !slices.Contains(Schedulers(), s) {
		return invalidf("%s is unknown: %s", s, wantScheduler)
	}
	return nil
}
