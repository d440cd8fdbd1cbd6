// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"slices"
	"strings"
)

// Scheduler is the way in which a service chooses the backend of a new flow. The zero value is not valid.
type Scheduler uint8

// The schedulers, with LVS's names (kernel: net/netfilter/ipvs/ip_vs_<name>.c). The numbers are kept in pinned maps.
const (
	RR    Scheduler = iota + 1 // rr: round robin over the backends, whatever their weights (0 excepted)
	WRR                        // wrr: round robin in proportion to the weights
	SH                         // sh: by a hash of the client's address
	MH                         // mh: by a Maglev table and a hash of the client's address
	LC                         // lc: least connections
	WLC                        // wlc: least connections in proportion to the weights
	LBLC                       // lblc: by the destination, to its backend unless that is overloaded; for caches
	LBLCR                      // lblcr: by the destination, to its set of backends; for caches
	DH                         // dh: by a hash of the destination's address
	SED                        // sed: shortest expected delay
	NQ                         // nq: an idle backend, or else the shortest expected delay
	FO                         // fo: the backend with the greatest weight
	OVF                        // ovf: the backend with the greatest weight that has fewer connections than weight
	TWOS                       // twos: the less loaded of two drawn in proportion to the weights
)

// DefaultScheduler is what a service gets that names no scheduler, as in LVS.
const DefaultScheduler = WLC

// schedulerNames are by number.
var schedulerNames = [...]string{
	RR: "rr", WRR: "wrr", SH: "sh", MH: "mh", LC: "lc", WLC: "wlc", LBLC: "lblc", LBLCR: "lblcr", DH: "dh", SED: "sed",
	NQ: "nq", FO: "fo", OVF: "ovf", TWOS: "twos",
}

// Schedulers returns all schedulers, in the order in which messages and help list them.
func Schedulers() []Scheduler {
	return []Scheduler{RR, WRR, LC, WLC, LBLC, LBLCR, DH, SH, SED, NQ, FO, OVF, MH, TWOS}
}

// String returns LVS's name of the scheduler: "rr".
func (s Scheduler) String() string {
	if s != 0 && int(s) < len(schedulerNames) {
		return schedulerNames[s]
	}
	return fmt.Sprintf("scheduler %d", uint8(s))
}

// wantScheduler is the tail of every message about a scheduler that is none.
const wantScheduler = "want rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos"

// ParseScheduler reads a scheduler's name as LVS writes it. The error is an ErrInvalid and names the word.
func ParseScheduler(word string) (Scheduler, error) {
	for _, s := range Schedulers() {
		if s.String() == word {
			return s, nil
		}
	}
	return 0, valuef("unknown scheduler", "%q: %s", word, wantScheduler)
}

func (s Scheduler) validate() error {
	if !slices.Contains(Schedulers(), s) {
		return invalidf("%s is unknown: %s", s, wantScheduler)
	}
	return nil
}

// SchedulerFlags are three switches whose meaning is the scheduler's (IP_VS_SVC_F_SCHED1 to 3 in the kernel's
// include/uapi/linux/ip_vs.h). Schedulers that know no flags ignore them, as in LVS.
type SchedulerFlags uint8

// The flags.
const (
	Flag1 SchedulerFlags = 1 << iota
	Flag2
	Flag3

	SHFallback = Flag1 // sh: another backend where the hashed one has reached its threshold
	SHPort     = Flag2 // sh: hash the client's port too
	MHFallback = Flag1 // mh: another backend where the hashed one has reached its threshold
	MHPort     = Flag2 // mh: hash the client's port too
)

const allFlags = Flag1 | Flag2 | Flag3

// names are the flags' names under a scheduler, from the first to the last.
func (s Scheduler) flagNames() [3]string {
	switch s {
	case SH:
		return [3]string{"sh-fallback", "sh-port", "flag-3"}
	case MH:
		return [3]string{"mh-fallback", "mh-port", "flag-3"}
	}
	return [3]string{"flag-1", "flag-2", "flag-3"}
}

// FlagNames writes flags as LVS does: "sh-fallback,sh-port", or "" without any. What has no meaning for the scheduler
// shows as flag-1 to flag-3.
func (s Scheduler) FlagNames(flags SchedulerFlags) string {
	var names []string
	for i, name := range s.flagNames() {
		if flags&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// ParseSchedulerFlag finds a flag by LVS's name, and the scheduler that alone has it, if it is one's ("flag-2" is any's).
func ParseSchedulerFlag(word string) (flag SchedulerFlags, of Scheduler, known bool) {
	for i, name := range RR.flagNames() {
		if name == word {
			return 1 << i, 0, true
		}
		for _, of := range []Scheduler{SH, MH} {
			if of.flagNames()[i] == word {
				return 1 << i, of, true
			}
		}
	}
	return 0, 0, false
}

// wantFlags says which flags a scheduler has, of those that mean something to it.
func (s Scheduler) wantFlags() string {
	if names := s.flagNames(); names != RR.flagNames() {
		return "want " + names[0] + " or " + names[1]
	}
	return s.String() + " has none"
}

// ParseSchedulerFlags reads the flags of a scheduler as LVS writes them: "sh-fallback,sh-port", "" for none. The error is an
// ErrInvalid and names the word.
func (s Scheduler) ParseSchedulerFlags(words string) (flags SchedulerFlags, err error) {
	for word := range strings.FieldsFuncSeq(words, func(r rune) bool { return r == ',' }) {
		flag, of, known := ParseSchedulerFlag(word)
		switch {
		case !known:
			return 0, valuef("unknown scheduler flag", "%q: %s", word, s.wantFlags())
		case of != 0 && of != s:
			return 0, invalidf("scheduler flag %s is for %s, not %s", word, of, s)
		}
		flags |= flag
	}
	return flags, nil
}
