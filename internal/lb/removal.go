// SPDX-License-Identifier: Apache-2.0

package lb

import "fmt"

// Removal is what becomes of the live connections of a backend that is removed from a service that goes on.
type Removal uint8

// The ways.
const (
	Reschedule Removal = iota // their next packets are scheduled as those of new connections are
	Keep                      // they stay with the backend until they time out; new ones do not come to it
)

// String is the word for it: "keep".
func (r Removal) String() string {
	switch r {
	case Reschedule:
		return "reschedule"
	case Keep:
		return "keep"
	}
	return fmt.Sprintf("removal %d", uint8(r))
}

// ParseRemoval reads the word. The error is an ErrInvalid and names it.
func ParseRemoval(word string) (Removal, error) {
	for _, r := range []Removal{Reschedule, Keep} {
		if r.String() == word {
			return r, nil
		}
	}
	return 0, valuef("on-removal", "%q: want reschedule or keep", word)
}
