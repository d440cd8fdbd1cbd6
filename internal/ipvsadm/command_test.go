// SPDX-License-Identifier: Apache-2.0

package ipvsadm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

// What ipvsadm takes and xdplb does not is declined in one line, with the option and what to do, by exit status 2.
func TestDeclined(t *testing.T) {
	t.Parallel()
	const directRouting = ": xdplb forwards by direct routing only: use -g, with the VIP on the real server's lo"
	const marks = "-f: firewall marks are set after XDP has seen a packet: name the service with -t, -u or --sctp-service"
	const sync = ": xdplb has no connection synchronisation: let a second director place connections alike, with -s mh"
	for line, want := range map[string]string{
		"-a -t 1.2.3.4:80 -r 1.2.3.5 -m":                  "-m" + directRouting,
		"-e -t 1.2.3.4:80 -r 1.2.3.5:8080 --masquerading": "-m" + directRouting,
		"-a -t 1.2.3.4:80 -r 1.2.3.5 -i --tun-type ipip":  "-i" + directRouting,
		"-a -t 1.2.3.4:80 -r [2001:db8::8]:80 --ipip":     "-i" + directRouting,
		"-A -f 7":                      marks,
		"-E -f 7 -6 -s rr":             marks,
		"-D --fwmark-service=7":        marks,
		"-L -n -f 7":                   marks,
		"-Z -f 7":                      marks,
		"-d -f 7 -r 1.2.3.5":           marks,
		"-A -t 1.2.3.4:80 -p --pe sip": "--pe: xdplb has no persistence engines: use -p without it, which goes by the client's address",
		"--start-daemon master --mcast-interface eth0":             "--start-daemon" + sync,
		"--stop-daemon backup":                                     "--stop-daemon" + sync,
		"-A -t 1.2.3.4:80 -p -M 24":                                "-M 24: ipvsadm would take it for the netmask 0.0.0.24: for /24 write -M 255.255.255.0",
		"-A -M 32 -t 1.2.3.4:80":                                   "-M 32: ipvsadm would take it for the netmask 0.0.0.32: for /32 write -M 255.255.255.255",
		"-A -t 1.2.3.4:80 -p -M 255.0.255.0":                       "-M 255.0.255.0: the netmask 255.0.255.0 is not leading ones and then zeros, as in 255.255.255.0",
		"-A -t 1.2.3.4:80 -p -M 64":                                "-M 64: the netmask 0.0.0.64 is not leading ones and then zeros, as in 255.255.255.0",
		"-a -f 7 -r 1.2.3.5 -m":                                    marks, // the first counts
		"-a -r 1.2.3.5 -m -f 7":                                    "-m" + directRouting,
		"--start-daemon=backup --mcast-group ff02::1 --syncid=255": "--start-daemon" + sync,
	} {
		_, err := ipvsadm.ParseCommand(append([]string{"ipvsadm"}, strings.Fields(line)...), ipvsadm.Names{})
		var failure *ipvsadm.Failure
		if !errors.As(err, &failure) {
			t.Errorf("%s: got %v, want a failure", line, err)
			continue
		}
		if diff := cmp.Diff(ipvsadm.Failure{Text: want, Status: 2, Ours: true}, *failure); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
}

// A default that is set by hand is the default, a zero keeps what there is, and clearing the table is not about
// timeouts.
func TestSetTimeouts(t *testing.T) {
	t.Parallel()
	var d director
	for _, step := range []struct{ command, want string }{
		{"-L --timeout", "900 120 300"},
		{"--set 600 0 200", "600 120 200"},
		{"--set 0 60 0", "600 60 200"},
		{"-C", "600 60 200"},
		{"--set 900 120 300", "900 120 300"},
	} {
		d.run(append([]string{"ipvsadm"}, strings.Fields(step.command)...))
		got := d.run([]string{"ipvsadm", "-L", "--timeout"})
		if diff := cmp.Diff(outcome{Out: "Timeout (tcp tcpfin udp): " + step.want + "\n"}, got); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", step.command, diff)
		}
	}
	if d.state.Timeouts != (lb.Timeouts{}) {
		t.Errorf("the defaults are kept as %+v, want zeros", d.state.Timeouts)
	}
}

// Rules are all done or none, and warnings name their line.
func TestRulesAreAtomic(t *testing.T) {
	t.Parallel()
	state := parse(t, "-A -t 172.10.0.9:80 -s rr\n-a -t 172.10.0.9:80 -r 192.168.60.8\n")
	before := state.Clone()
	edit := func(text string) ([]string, error) {
		rules, err := ipvsadm.ParseRules(strings.NewReader(text), "ipvsadm", ipvsadm.Names{})
		if err != nil {
			t.Fatal(err)
		}
		return rules.Edit(&state)
	}
	_, err := edit("-C\n-A -t 172.10.0.9:80 -s rr\n--set 1 2 3\n-A -t 172.10.0.9:80 -s rr\n-Z\n")
	var line *ipvsadm.LineError
	if !errors.As(err, &line) || line.Line != 4 || line.Text != "-A -t 172.10.0.9:80 -s rr" {
		t.Errorf("got %v, want an error about line 4", err)
	}
	if diff := cmp.Diff(before, state, byValue); diff != "" {
		t.Errorf("rules that failed have changed something (-before +after):\n%s", diff)
	}
	warnings, err := edit("\n-a -t 172.10.0.9:80 -r 192.168.60.9:8080\n-a -t 172.10.0.9:80 -r 192.168.60.10:80\n")
	want := []string{"line 2: real server 192.168.60.9: direct routing cannot change the port 80 to 8080: the real server must listen on 80"}
	if diff := cmp.Diff(want, warnings); diff != "" || err != nil {
		t.Errorf("warnings, %v (-want +got):\n%s", err, diff)
	}
}

func TestConnectionsWithEngines(t *testing.T) {
	t.Parallel()
	var d director
	got := d.run([]string{"ipvsadm", "-L", "-n", "-c", "--persistent-conn"})
	want := outcome{Out: "IPVS connection entries\n" +
		"pro expire state       source             virtual            destination        pe name          pe_data\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
