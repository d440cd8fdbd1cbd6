// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"xdplb/internal/lb"
)

func TestFindPort(t *testing.T) {
	t.Parallel()
	const file = `# a comment
http		80/tcp		www	# WorldWideWeb HTTP
broken
broken2		x/tcp
domain		53/tcp
domain		53/udp
large		65536/tcp
www		81/udp
`
	for _, tt := range []struct {
		name     string
		protocol lb.Protocol
		want     uint16 // 0: not found
	}{
		{"http", lb.TCP, 80}, {"www", lb.TCP, 80}, {"www", lb.UDP, 81}, {"http", lb.UDP, 0}, {"domain", lb.UDP, 53},
		{"domain", lb.SCTP, 0}, {"WorldWideWeb", lb.TCP, 0}, {"broken", lb.TCP, 0}, {"broken2", lb.TCP, 0},
		{"large", lb.TCP, 0}, {"", lb.TCP, 0}, {"80/tcp", lb.TCP, 0}, {"http", 0, 0},
	} {
		got, found := findPort(strings.NewReader(file), tt.name, tt.protocol)
		if got != tt.want || found != (tt.want != 0) {
			t.Errorf("%q, %s: got %d, %v, want %d", tt.name, tt.protocol, got, found, tt.want)
		}
	}
}
