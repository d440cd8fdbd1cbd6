// SPDX-License-Identifier: Apache-2.0

package ipvsadm_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

// FuzzRules restores any text, to a table that is not empty: it is done wholly or changes nothing, what comes of it is valid,
// and comes back from what is saved of it.
func FuzzRules(f *testing.F) {
	f.Add(cut(golden(f, "lvs/20-save-n.txt")))
	f.Add("ipvsadm -As rr -t1.2.3.4:80 # x\r\n\n--add-server --tcp-service=1.2.3.4:80 -gw0 -r 1.2.3.5:80\n-E -t 1.2.3.4:80 -s mh\n")
	f.Add("-A -t [2001:db8::64]:80 -s sh\n-a -t [2001:db8::64]:80 -r 2001:db8::8\n-d -t [2001:db8::64]:80 -r [2001:db8::8]:80\n-C\n")
	f.Add("-A -u 1.2.3.4 -p7 -M 255.255.0.0 -ob flag-3\n-a -u 1.2.3.4 -r 1.2.3.5:0 -x9 -y=8\n--set 1 0 -- 3\n-Z\n")
	f.Add("-d -t 172.10.0.9:80 -r 192.168.60.9\n-D -u 172.10.0.10:53\n-D -u 172.10.0.10:53\n")
	f.Fuzz(func(t *testing.T, text string) {
		before := parse(t, "-A -t 172.10.0.9:80 -s rr\n-a -t 172.10.0.9:80 -r 192.168.60.9 -x 100\n-A -u 172.10.0.10:53 -s mh -o\n")
		state := before.Clone()
		rules, err := ipvsadm.ParseRules(strings.NewReader(text), "ipvsadm", ipvsadm.Names{})
		if err == nil {
			_, err = rules.Edit(&state)
		}
		if err == nil {
			state.Timeouts = lb.Timeouts{} // have no place in a saved file
			checkSave(t, state)
			return
		}
		if !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("error without a line: %v", err)
		}
		if diff := cmp.Diff(before, state, byValue); diff != "" {
			t.Errorf("refused by %v, but changed (-want +got):\n%s", err, diff)
		}
	})
}

// FuzzSave saves states of everything that there is.
func FuzzSave(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		checkSave(t, randomState(t, rand.New(rand.NewPCG(seed, 0))))
	})
}

// checkSave saves a state and restores it.
func checkSave(t *testing.T, state lb.State) {
	t.Helper()
	if err := state.Validate(); err != nil {
		t.Fatalf("a state that is not valid: %v", err)
	}
	saved := save(t, state)
	again := parse(t, saved)
	if diff := cmp.Diff(state, again, byValue); diff != "" {
		t.Errorf("saved as\n%sand restored (-want +got):\n%s", saved, diff)
	}
	if diff := cmp.Diff(saved, save(t, again)); diff != "" {
		t.Errorf("saved twice (-want +got):\n%s", diff)
	}
}

func randomState(t testing.TB, r *rand.Rand) lb.State {
	var services []lb.Service
	for i := range 1 + r.IntN(8) {
		v6 := r.IntN(3) == 0
		service := lb.Service{
			ServiceKey: lb.ServiceKey{
				Addr:     netip.AddrPortFrom(randomAddr(r, v6, byte(i)), uint16(r.IntN(1<<16))),
				Protocol: []lb.Protocol{lb.TCP, lb.UDP, lb.SCTP}[r.IntN(3)],
			},
			Scheduler: lb.Schedulers()[r.IntN(len(lb.Schedulers()))],
			Flags:     lb.SchedulerFlags(r.IntN(8)),
			OnRemoval: lb.Removal(r.IntN(2)),
		}
		service.OnePacket = service.Protocol == lb.UDP && r.IntN(2) == 0
		if bits := service.Addr.Addr().BitLen(); r.IntN(2) == 0 || service.Addr.Port() == 0 {
			service.Persistence = lb.Persistence{
				Timeout: time.Duration(1+r.IntN(86400*31)) * time.Second, Prefix: uint8(1 + r.IntN(bits)),
			}
		}
		for j := range r.IntN(4) {
			upper := r.Uint32N(lb.MaxThreshold)
			service.Backends = append(service.Backends, lb.Backend{
				Addr: randomAddr(r, v6, byte(100+j)), Weight: r.Uint32N(lb.MaxWeight), Upper: upper, Lower: r.Uint32N(upper + 1),
			})
		}
		services = append(services, service)
	}
	state, err := lb.NewState(services)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// randomAddr is one of many addresses, of which no two with different last bytes are the same.
func randomAddr(r *rand.Rand, v6 bool, last byte) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 8: byte(r.IntN(2)), 15: last})
	}
	return netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), last})
}

// FuzzCommand does any command line to a table: there is no panic, an error changes nothing, and what is done is valid.
func FuzzCommand(f *testing.F) {
	for _, e := range transcript(f) {
		f.Add(strings.Join(strings.Fields(e.command), "\x00"))
	}
	for _, words := range []string{"-At1.2.3.4:80\x00-p\x00-s=rr", "-Ln=", "-a\x00-t\x00[::1]:80\x00-r\x00\x00-w -1", "--set\x00--\x00-1\x002\x003", "-A\x00-b,"} {
		f.Add("ipvsadm\x00" + words)
	}
	f.Fuzz(func(t *testing.T, line string) {
		command, err := ipvsadm.ParseCommand(strings.Split(line, "\x00"), ipvsadm.Names{Port: portByName})
		if err != nil {
			checkFailure(t, err)
			return
		}
		state := parse(t, "-A -t 172.10.0.9:80 -s rr\n-a -t 172.10.0.9:80 -r 192.168.60.9 -x 100\n-A -u 172.10.0.10:53 -s mh -o\n")
		if !command.Changes() {
			if command.Verb == ipvsadm.VerbList || command.Verb == ipvsadm.VerbSave {
				checkFailure(t, command.Print(io.Discard, ipvsadm.View{State: state}))
			}
			return
		}
		before := state.Clone()
		_, err = command.Edit(&state)
		checkFailure(t, err)
		if err != nil && cmp.Diff(before, state, byValue) != "" {
			t.Errorf("refused by %v, but changed", err)
		}
		if err := state.Validate(); err != nil {
			t.Errorf("accepted, but not valid: %v", err)
		}
	})
}

// checkFailure checks that an error, if it is one, has a text and an exit status of ipvsadm's.
func checkFailure(t testing.TB, err error) {
	t.Helper()
	var failure *ipvsadm.Failure
	if err != nil && (!errors.As(err, &failure) || failure.Text == "" || failure.Status != 1 && failure.Status != 2 && failure.Status != 255) {
		t.Errorf("got %#v, want a failure with a text and an exit status", err)
	}
}
