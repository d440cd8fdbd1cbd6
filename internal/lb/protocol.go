// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"strings"
)

// Protocol is an IP protocol number (IANA), one of TCP, UDP and SCTP.
type Protocol uint8

// The protocols that a service can have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the protocol's name in lower case: "tcp".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// ParseProtocol reads "tcp", "udp" or "sctp", in upper or lower case. The error is an ErrInvalid and names the word.
func ParseProtocol(word string) (Protocol, error) {
	switch strings.ToLower(word) {
	case "tcp":
		return TCP, nil
	case "udp":
		return UDP, nil
	case "sctp":
		return SCTP, nil
	}
	return 0, valuef("unknown protocol", "%q: want tcp, udp or sctp", word)
}

func (p Protocol) validate() error {
	if p != TCP && p != UDP && p != SCTP {
		return invalidf("%s: want tcp, udp or sctp", p)
	}
	return nil
}
