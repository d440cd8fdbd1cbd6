// SPDX-License-Identifier: Apache-2.0

package ipvsadm_test

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

// services is what Debian's /etc/services says about the names in the golden files.
var services = map[string]uint16{
	"http/tcp": 80, "https/tcp": 443, "https/udp": 443, "http-alt/tcp": 8080, "http-alt/udp": 8080,
	"domain/tcp": 53, "domain/udp": 53,
}

func portByName(name string, protocol lb.Protocol) (uint16, bool) {
	port, ok := services[name+"/"+protocol.String()]
	return port, ok
}

func nameOfPort(port uint16, protocol lb.Protocol) string {
	for name, number := range services {
		if word, ok := strings.CutSuffix(name, "/"+protocol.String()); ok && number == port {
			return word
		}
	}
	return ""
}

// outcome is what a command came to.
type outcome struct {
	Out, Err string
	Status   int
}

// director runs command lines on a state in memory.
type director struct {
	state    lb.State
	view     ipvsadm.View
	warnings []string // of the last command
}

func (d *director) run(words []string) outcome {
	d.warnings = nil
	var out strings.Builder
	err := func() error {
		command, err := ipvsadm.ParseCommand(words, ipvsadm.Names{Port: portByName})
		if err != nil {
			return err
		}
		if command.Changes() {
			d.warnings, err = command.Edit(&d.state)
			return err
		}
		view := d.view
		view.State, view.Size, view.Port = d.state, 4096, nameOfPort
		return command.Print(&out, view)
	}()
	var failure *ipvsadm.Failure
	switch {
	case err == nil:
		return outcome{Out: out.String()}
	case errors.As(err, &failure):
		return outcome{Out: out.String(), Err: failure.Text + "\n", Status: failure.Status}
	}
	return outcome{Err: err.Error(), Status: -1}
}

// exchange is a command of the transcript and its outcome.
type exchange struct {
	line    int
	command string
	outcome
}

// transcript reads the commands: "$ " the command, then its output; "! " its error; "? " its exit status.
func transcript(t testing.TB) (list []exchange) {
	t.Helper()
	for n, line := range strings.Split(strings.TrimSuffix(golden(t, "lvs/30-transcript.txt"), "\n"), "\n") {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			list = append(list, exchange{line: n + 1, command: command})
			continue
		}
		if list == nil {
			continue // the heading
		}
		last := &list[len(list)-1]
		switch {
		case strings.HasPrefix(line, "! "):
			last.Err += line[2:] + "\n"
		case strings.HasPrefix(line, "? "):
			if _, err := fmt.Sscan(line[2:], &last.Status); err != nil {
				t.Fatal(err)
			}
		default:
			last.Out += line + "\n"
		}
	}
	return list
}

var (
	savedThresholds = regexp.MustCompile(` -[xy] \d+`)
	serverPort      = regexp.MustCompile(` -[ae] .*:(\w+) -r \S+[\d\]]:(\w+)`)
)

// Every command that the real LVS was given, in order, has the same output, error and exit status here. There are three
// differences, on purpose: saved lines keep thresholds, a backend's port that LVS replaces in silence is warned about,
// and the order of --nosort is not that of the kernel's hash table.
func TestReplayTranscript(t *testing.T) {
	t.Parallel()
	var d director
	list, saves, warnings := transcript(t), 0, 0
	for _, e := range list {
		got := d.run(strings.Fields(e.command))
		if strings.HasPrefix(e.command, "ipvsadm -S") && savedThresholds.MatchString(got.Out) {
			saves++
			got.Out = savedThresholds.ReplaceAllString(got.Out, "")
		}
		if strings.Contains(e.command, "--nosort") {
			e.Out, got.Out = sorted(e.Out), sorted(got.Out)
		}
		if diff := cmp.Diff(e.outcome, got); diff != "" {
			t.Errorf("line %d: %s (-want +got):\n%s", e.line, e.command, diff)
		}
		ports := serverPort.FindStringSubmatch(e.command)
		want := e.Status == 0 && ports != nil && strings.Replace(ports[1], "http", "80", 1) != ports[2]
		if want != (d.warnings != nil) {
			t.Errorf("line %d: %s: warnings %q, want some: %v", e.line, e.command, d.warnings, want)
		}
		warnings += len(d.warnings)
	}
	if len(list) != 609 || saves == 0 || warnings == 0 {
		t.Errorf("%d commands, %d saves with thresholds, %d warnings: want 609, and some of the others", len(list), saves, warnings)
	}
}

// sorted puts a listing's services in order, and the backends of each.
func sorted(listing string) string {
	var services []string
	var backends []string
	flush := func() {
		slices.Sort(backends)
		if len(services) > 0 {
			services[len(services)-1] += strings.Join(backends, "")
		}
		backends = nil
	}
	for line := range strings.Lines(listing) {
		if strings.HasPrefix(line, "  ->") {
			backends = append(backends, line)
			continue
		}
		flush()
		services = append(services, line)
	}
	flush()
	slices.Sort(services)
	return strings.Join(services, "")
}

// The golden listings show services that xdplb declines: firewall marks, tunnels and masquerading. cut takes those
// lines, and no others, out of a golden file.
func cut(text string) string {
	var kept strings.Builder
	service := ""
	for _, line := range strings.SplitAfter(text, "\n") {
		if !strings.HasPrefix(line, "  ->") {
			service = line
		}
		foreign := strings.HasPrefix(service, "FWM ")
		for _, word := range []string{"192.168.60.102:443 ", "192.168.60.103:80 ", "192.168.60.100:3868 "} {
			foreign = foreign || line != service && strings.Contains(service, word)
		}
		for _, word := range []string{" -f ", " -i ", " -m "} {
			foreign = foreign || strings.Contains(line, word)
		}
		if !foreign {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// reference runs the commands behind the golden files.
func reference(t testing.TB) *director {
	t.Helper()
	d := new(director)
	for line := range strings.Lines(golden(t, "lvs/00-setup.sh.txt")) {
		got := d.run(strings.Fields(line))
		foreign := ""
		for _, option := range []string{"-f", "-i", "-m"} {
			if strings.Contains(line, " "+option+" ") || strings.HasSuffix(line, " "+option+"\n") {
				foreign = option
				break
			}
		}
		if foreign == "" && got != (outcome{}) {
			t.Fatalf("%s got %+v", line, got)
		}
		if foreign != "" && (got.Status != 2 || !strings.HasPrefix(got.Err, foreign+": ") || strings.Count(got.Err, "\n") != 1) {
			t.Fatalf("%s got %+v, want it to be declined for %s in one line", line, got, foreign)
		}
	}
	return d
}

func TestGoldenListings(t *testing.T) {
	t.Parallel()
	d := reference(t)
	nine := netip.MustParseAddr("192.168.60.9")
	d.view.Backend = func(_ lb.ServiceKey, addr netip.Addr) ipvsadm.Numbers {
		if addr == nine {
			return ipvsadm.Numbers{Active: 4, Inactive: 23, Persistent: 1,
				Connections: 2469134, Packets: 2222222202, Bytes: 3950617284360}
		}
		return ipvsadm.Numbers{Active: 3, Inactive: 22, Persistent: 1,
			Connections: 1234567, Packets: 1111111101, Bytes: 1975308642180}
	}
	perSecond := func(_ lb.ServiceKey, addr netip.Addr) ipvsadm.Numbers {
		if addr == nine {
			return ipvsadm.Numbers{Connections: 13, Packets: 3456, Bytes: 123456789}
		}
		return ipvsadm.Numbers{Connections: 12, Packets: 3456, Bytes: 123456789}
	}
	total := d.view.Backend
	for file, command := range map[string]string{
		"10-L-n.txt":             "-L -n",
		"11-stats.txt":           "-L -n --stats",
		"12-rate.txt":            "-L -n --rate",
		"13-stats-exact.txt":     "-L -n --stats --exact",
		"14-thresholds.txt":      "-L -n --thresholds",
		"15-persistent-conn.txt": "-L -n --persistent-conn",
		"16-tun-info.txt":        "-L -n --tun-info",
		"18-timeout.txt":         "-L --timeout",
		"19-L-n-one-service.txt": "-L -n -t 192.168.60.100:80",
		"20-save-n.txt":          "-S -n",
		"21-save-names.txt":      "-S",
	} {
		d.view.Backend = total
		if file == "12-rate.txt" {
			d.view.Backend = perSecond
		}
		d.view.Service = sumOf(d.view.Backend)
		got := d.run(append([]string{"ipvsadm"}, strings.Fields(command)...))
		if strings.HasPrefix(command, "-S") {
			got.Out = strings.Replace(got.Out, " -x 100 -y 50\n", "\n", 1) // ipvsadm loses them
		}
		if diff := cmp.Diff(outcome{Out: cut(golden(t, "lvs/"+file))}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

// sumOf is the sum of the numbers of a service's backends when the golden files were made, also of those that cut takes
// out: every service has one, and that on port 80 two.
func sumOf(backend func(lb.ServiceKey, netip.Addr) ipvsadm.Numbers) func(lb.ServiceKey) ipvsadm.Numbers {
	return func(key lb.ServiceKey) ipvsadm.Numbers {
		sum := backend(key, netip.Addr{})
		if key.Addr.String() == "192.168.60.100:80" {
			second := backend(key, netip.MustParseAddr("192.168.60.9"))
			sum.Connections += second.Connections
			sum.Packets += second.Packets
			sum.Bytes += second.Bytes
		}
		return sum
	}
}
