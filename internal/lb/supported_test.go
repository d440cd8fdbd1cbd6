// SPDX-License-Identifier: Apache-2.0

package lb_test

import (
	"errors"
	"testing"
	"time"

	"xdplb/internal/lb"
)

// What the data plane lacks is refused by name; each case loses its refusal when the data plane gets it.
func TestSupported(t *testing.T) {
	t.Parallel()
	const service, later = "service TCP 172.10.0.9:80: ", ": xdplb's data plane does not have it yet"
	for _, tt := range []struct {
		edit func(*lb.Service)
		want string
	}{
		{func(s *lb.Service) { s.Scheduler = lb.MH }, ""},
		{func(s *lb.Service) { s.Scheduler, s.Flags = lb.SH, lb.SHPort }, ""},
		{func(s *lb.Service) { s.Protocol = lb.SCTP }, ""},
		{func(s *lb.Service) { s.Persistence.Timeout = time.Minute }, ""},
		{func(s *lb.Service) { s.Protocol, s.OnePacket = lb.UDP, true }, ""},
		{func(s *lb.Service) { s.Protocol, s.OnePacket, s.Persistence.Timeout = lb.UDP, true, time.Minute },
			"service UDP 172.10.0.9:80: one-packet scheduling of a persistent service" + later},
		{func(s *lb.Service) { s.Backends[0].Addr = addr("172.10.0.9") }, ""},
	} {
		state := reference(t)
		tt.edit(&state.Services[0])
		checkSupported(t, state, tt.want)
	}
}

func checkSupported(t testing.TB, state lb.State, want string) {
	t.Helper()
	if err := state.Validate(); err != nil {
		t.Fatal(err)
	}
	switch err := lb.Supported(state); {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && (!errors.Is(err, lb.ErrUnsupported) || err.Error() != want):
		t.Errorf("\n got %v\nwant %s", err, want)
	}
}
