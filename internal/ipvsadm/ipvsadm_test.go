// SPDX-License-Identifier: Apache-2.0

package ipvsadm_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

// The golden files in testdata are output of ipvsadm 1.31, less the services that an lb.State cannot hold and the flags
// that it does not know.
func golden(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func parse(t testing.TB, text string) lb.State {
	t.Helper()
	state, err := restore(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// restore does saved rules to an empty state.
func restore(r io.Reader) (state lb.State, err error) {
	rules, err := ipvsadm.ParseRules(r, "ipvsadm", ipvsadm.Names{})
	if err == nil {
		_, err = rules.Edit(&state)
	}
	return state, err
}

func list(t testing.TB, l ipvsadm.Listing) string {
	t.Helper()
	var out strings.Builder
	if err := ipvsadm.List(&out, l); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestListNames(t *testing.T) {
	t.Parallel()
	state := parse(t, "-A -t 172.10.0.9:80 -s rr\n-a -t 172.10.0.9:80 -r 192.168.60.9\n-a -t 172.10.0.9:80 -r 192.168.60.8\n")
	port := func(port uint16, protocol lb.Protocol) string {
		if port == 80 && protocol == lb.TCP {
			return "http"
		}
		return ""
	}
	noHost := func(netip.Addr) string { return "" }
	got := list(t, ipvsadm.Listing{State: state, Size: 4096, Host: noHost, Port: port})
	if diff := cmp.Diff(golden(t, "list-names.txt"), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// IPv4 names are cut, IPv6 names are not; a port that has no name stays a number.
	state = parse(t, `
-A -t 172.10.0.9:80 -s rr
-a -t 172.10.0.9:80 -r 192.168.60.8
-A -t [2001:db8::64]:8080 -s rr
-a -t [2001:db8::64]:8080 -r 2001:db8::8
`)
	host := func(addr netip.Addr) string {
		return map[string]string{
			"172.10.0.9":   "www.a-name-of-many-letters.example.org",
			"192.168.60.8": "real1.a-name-of-many-letters.example.org",
			"2001:db8::64": "www6.a-name-of-many-letters.example.org",
			"2001:db8::8":  "real6.a-name-of-many-letters.example.org",
		}[addr.String()]
	}
	want := `Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  www.a-name-of-many-letters.e rr
  -> real1.a-name-of-many-letters Route   1      0          0         
TCP  [www6.a-name-of-many-letters.example.org]:8080 rr
  -> [real6.a-name-of-many-letters.example.org]:8080 Route   1      0          0         
`
	if diff := cmp.Diff(want, list(t, ipvsadm.Listing{State: state, Host: host, Port: port})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Numbers and weights that are wider than their columns push the rest to the right, or change their unit.
func TestListWide(t *testing.T) {
	t.Parallel()
	state := parse(t, "-A -t 172.10.0.9:80 -s rr\n-a -t 172.10.0.9:80 -r 192.168.60.8 -w 2147483647\n")
	got := list(t, ipvsadm.Listing{State: state, Backend: func(lb.ServiceKey, netip.Addr) ipvsadm.Numbers {
		return ipvsadm.Numbers{Active: 12345678901, Inactive: 1}
	}})
	if want := "  -> 192.168.60.8:80              Route   2147483647 12345678901 1         \n"; !strings.HasSuffix(got, want) {
		t.Errorf("got\n%swant last\n%s", got, want)
	}
	for _, tt := range []struct {
		n    uint64
		want string
	}{
		{0, "        0"},
		{99999999, " 99999999"},
		{100000000, "  100000K"},
		{999999999, "  999999K"},
		{1000000000, "    1000M"},
		{99999999999, "   99999M"},
		{100000000000, "     100G"},
		{99999999999999, "   99999G"},
		{100000000000000, "     100T"},
		{1<<64 - 1, "18446744T"},
	} {
		numbers := ipvsadm.Numbers{Connections: tt.n, Packets: tt.n, Bytes: tt.n}
		listing := ipvsadm.Listing{State: state, Columns: ipvsadm.Stats,
			Service: func(lb.ServiceKey) ipvsadm.Numbers { return numbers },
			Backend: func(lb.ServiceKey, netip.Addr) ipvsadm.Numbers { return numbers }}
		row := tt.want + tt.want + "        0" + tt.want + "        0\n"
		want := fmt.Sprintf("%-33s%s  -> %-28s%s", "TCP  172.10.0.9:80", row, "192.168.60.8:80", row)
		if got := list(t, listing); !strings.HasSuffix(got, want) {
			t.Errorf("--stats of %d: got\n%swant last\n%s", tt.n, got, want)
		}
		listing.Columns = ipvsadm.Rate
		backendRow := fmt.Sprintf(" %8d %8d        0%s        0\n", tt.n, tt.n, tt.want)
		want = fmt.Sprintf("%-33s%s  -> %-28s%s", "TCP  172.10.0.9:80", row, "192.168.60.8:80", backendRow)
		if got := list(t, listing); !strings.HasSuffix(got, want) {
			t.Errorf("--rate of %d: got\n%swant last\n%s", tt.n, got, want)
		}
	}
}

func TestListEmpty(t *testing.T) {
	t.Parallel()
	want := "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n" +
		"  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
	if diff := cmp.Diff(want, list(t, ipvsadm.Listing{Size: 4096})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// failing is a writer that is full.
type failing struct{}

var errFull = errors.New("no space left")

func (failing) Write([]byte) (int, error) { return 0, errFull }

func TestErrorsOfReaderAndWriter(t *testing.T) {
	t.Parallel()
	state := parse(t, cut(golden(t, "lvs/20-save-n.txt")))
	if err := ipvsadm.List(failing{}, ipvsadm.Listing{State: state}); !errors.Is(err, errFull) {
		t.Errorf("List: got %v", err)
	}
	if err := ipvsadm.Save(failing{}, ipvsadm.Saving{State: state}); !errors.Is(err, errFull) {
		t.Errorf("Save: got %v", err)
	}
	if _, err := restore(iotest.ErrReader(errFull)); !errors.Is(err, errFull) {
		t.Errorf("Parse: got %v", err)
	}
}

func save(t testing.TB, state lb.State) string {
	t.Helper()
	var out bytes.Buffer
	if err := ipvsadm.Save(&out, ipvsadm.Saving{State: state}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestRules(t *testing.T) {
	t.Parallel()
	const want = "-A -t 172.10.0.9:80 -s wrr\n-a -t 172.10.0.9:80 -r 192.168.60.8:80 -g -w 7\n"
	for name, text := range map[string]string{
		"as saved":         want,
		"not sorted":       "-A -t 172.10.0.9:80 -s wrr\n-a -r 192.168.60.8:80 -w 7 -g -t 172.10.0.9:80",
		"no port, no -g":   "-A -t 172.10.0.9:80 -s wrr\n-a -t 172.10.0.9:80 -r 192.168.60.8 -w 7\n",
		"glued":            "-As wrr -t172.10.0.9:80\n-agw7 -t 172.10.0.9:80 -r192.168.60.8:80\n",
		"long":             "--add-service --tcp-service 172.10.0.9:80 --scheduler wrr\n--add-server --tcp-service 172.10.0.9:80 --real-server 192.168.60.8:80 --gatewaying --weight 7",
		"long with =":      "--add-service --tcp-service=172.10.0.9:80 --scheduler=wrr\n--add-server --tcp-service=172.10.0.9:80 --real-server=192.168.60.8:80 --weight=7",
		"commands":         "ipvsadm -A -t 172.10.0.9:80 -s wrr\n  ipvsadm\t-a -t 172.10.0.9:80 -r 192.168.60.8:80 -g -w 7  ",
		"CRLF":             strings.ReplaceAll(want, "\n", "\r\n"),
		"comments":         "# ipvsadm.rules\n\n  # more\n-A -t 172.10.0.9:80 -s wrr # the web\n\n#-A -t nonsense\n-a -t 172.10.0.9:80 -r 192.168.60.8:80 -g -w 7 #",
		"in any order":     "-A -s wrr -t 172.10.0.9:80\n-a -r 192.168.60.8:80 -w 7 -t 172.10.0.9:80\n",
		"edited":           "-A -t 172.10.0.9:80 -s rr\n-a -t 172.10.0.9:80 -r 192.168.60.8\n-E -t 172.10.0.9:80 -s wrr\n-e -t 172.10.0.9:80 -r 192.168.60.8 -w 7\n",
		"deleted":          want + "-A -u 172.10.0.9:80 -s rr\n-a -t 172.10.0.9:80 -r 192.168.60.9\n-d -t 172.10.0.9:80 -r 192.168.60.9:80\n-D -u 172.10.0.9:80\n",
		"cleared at first": "-A -t 172.10.0.9:443 -s rr\n-C\n" + want,
	} {
		if diff := cmp.Diff(want, save(t, parse(t, text))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	const v6 = "-A -u [2001:db8::64]:53 -s sh\n-a -u [2001:db8::64]:53 -r [2001:db8::8]:53 -g -w 1\n"
	for _, server := range []string{"[2001:db8::8]:53", "2001:db8::8"} {
		text := "-A -u [2001:db8::64]:53 -s sh\n-a -u [2001:db8::64]:53 -r " + server
		if diff := cmp.Diff(v6, save(t, parse(t, text))); diff != "" {
			t.Errorf("-r %s (-want +got):\n%s", server, diff)
		}
	}
	const thresholds = "-A -t 172.10.0.9:0 -s sh -p 60 -M 255.255.0.0 -b sh-fallback,flag-3\n" +
		"-a -t 172.10.0.9:0 -r 192.168.60.8:0 -g -w 0 -x 100 -y 50\n"
	if diff := cmp.Diff(thresholds, save(t, parse(t, thresholds))); diff != "" {
		t.Errorf("thresholds (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("", save(t, parse(t, "\n#\n\n"))); diff != "" {
		t.Errorf("nothing (-want +got):\n%s", diff)
	}
	// -e without -w sets LVS's default, not the old weight.
	const edited = "-A -t 172.10.0.9:80 -s wrr\n-a -t 172.10.0.9:80 -r 192.168.60.8:80 -g -w 1\n"
	if diff := cmp.Diff(edited, save(t, parse(t, want+"-e -t 172.10.0.9:80 -r 192.168.60.8"))); diff != "" {
		t.Errorf("-e without -w (-want +got):\n%s", diff)
	}
}

func TestRulesRefuse(t *testing.T) {
	t.Parallel()
	const before = "# two good lines first\n-A -t 172.10.0.9:80 -s rr\n\n-a -t 172.10.0.9:80 -r 192.168.60.8\n"
	for _, tt := range []struct{ line, want string }{
		{"-A -t 172.10.0.9:81 -s nosuch", "Scheduler or persistence engine not found"},
		{"-A -t 172.10.0.9:80 -s rr", "Service already exists"},
		{"-A -t 172.10.0.9:0 -s rr", "Zero port specified for non-persistent service"},
		{"-A -t 172.10.0.9 -s rr", "Zero port specified for non-persistent service"},
		{"-A -t 172.10.0.9:http -s rr", "illegal virtual server address[:port] specified"},
		{"-A -t www.example.org:80 -s rr", "illegal virtual server address[:port] specified"},
		{"-A -t 224.0.0.1:80 -s rr", "service TCP 224.0.0.1:80: VIP 224.0.0.1 is a multicast address"},
		{"-A -s rr", "You need to supply the 'service-address' option for the 'add-service' command"},
		{"-A -t 172.10.0.9:81 -u 172.10.0.9:81 -s rr", "multiple 'service-address' options specified"},
		{"-A -t 172.10.0.9:81 -t 172.10.0.9:82 -s rr", "multiple 'service-address' options specified"},
		{"-A -t 172.10.0.9:81 -s rr -r 192.168.60.8", "Illegal 'real-server' option with the 'add-service' command"},
		{"-D -t 172.10.0.9:80 -s rr", "Illegal 'scheduler' option with the 'delete-service' command"},
		{"-d -t 172.10.0.9:80 -r 192.168.60.8 -w 1", "Illegal 'weight' option with the 'delete-server' command"},
		{"-C -t 172.10.0.9:80", "Illegal 'service-address' option with the 'flush' command"},
		{"-E -u 172.10.0.9:80 -s rr", "No such service"},
		{"-D -u 172.10.0.9:80", "No such service"},
		{"-a -u 172.10.0.9:80 -r 192.168.60.8", "Service not defined"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.8", "Destination already exists"},
		{"-e -t 172.10.0.9:80 -r 192.168.60.9", "No such destination"},
		{"-d -t 172.10.0.9:80 -r 192.168.60.9", "No such destination"},
		{"-a -t 172.10.0.9:80", "You need to supply the 'real-server' option for the 'add-server' command"},
		{"-a -r 1.2.3.4", "You need to supply the 'service-address' option for the 'add-server' command"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9:http", "illegal real server address[:port] specified"},
		{"-a -t 172.10.0.9:80 -r 2001:db8::8", "Different address family is allowed only for tunneling servers"},
		{"-a -t 172.10.0.9:80 -r [2001:db8::8", "illegal real server address[:port] specified"},
		{"-a -t 172.10.0.9:80 -r real1", "illegal real server address[:port] specified"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -w x", "illegal weight specified"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -w -1", "illegal weight specified"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -w 2147483648", "illegal weight specified"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -w", "-w: missing argument"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 --weight", "--weight: missing argument"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 --gatewaying=yes", "--gatewaying=yes: option does not take an argument"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -m", "-m: xdplb forwards by direct routing only: use -g, with the VIP on the real server's lo"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -gi", "multiple 'forwarding-method' options specified"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 --l-threshold=5", "Numerical result out of range"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 --tun-type gue", "Tunnel options conflict with forward method"},
		{"-A -f 7 -s rr", "-f: firewall marks are set after XDP has seen a packet: name the service with -t, -u or --sctp-service"},
		{"-A -t 172.10.0.9:81 -s rr --pe sip", "--pe: xdplb has no persistence engines: use -p without it, which goes by the client's address"},
		{"-L -n", "-L: a restore does all of its lines or none, and prints nothing"},
		{"-t 172.10.0.9:81 -A -s rr", "a command of ipvsadm, such as -A or -a, must come first"},
		{"-A -D -t 172.10.0.9:80", "invalid option `-D'"},
		{"ipvsadm save", "a command of ipvsadm, such as -A or -a, must come first"},
		{"-A -t 172.10.0.9:81 -s rr more", "unexpected argument more"},
		{"-A -q", "-q: unknown option"},
		{"-A --what=ever", "--what=ever: unknown option"},
		{"-", "a command of ipvsadm, such as -A or -a, must come first"},
		{"-A -t " + strings.Repeat("1", 70000), "longer than 65536 bytes"},
	} {
		state, err := restore(strings.NewReader(before + tt.line + "\n-A -t 172.10.0.99:80 -s rr\n"))
		if err == nil || err.Error() != "line 5: "+tt.want && err.Error() != "line 5: "+tt.want+" ("+tt.line+")" {
			t.Errorf("%.99s\n got %v\nwant line 5: %s", tt.line, err, tt.want)
		}
		if len(state.Services) != 0 {
			t.Errorf("%.99s: refused, but a state came with it", tt.line)
		}
	}
}

var byValue = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}
