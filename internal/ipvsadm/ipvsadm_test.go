// SPDX-License-Identifier: Apache-2.0

package ipvsadm_test

import (
	"bytes"
	"errors"
	"fmt"
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
	state, err := ipvsadm.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func list(t testing.TB, l ipvsadm.Listing) string {
	t.Helper()
	var out strings.Builder
	if err := ipvsadm.List(&out, l); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestListGolden(t *testing.T) {
	t.Parallel()
	state := parse(t, golden(t, "save.txt"))
	nine := netip.MustParseAddr("192.168.60.9")
	// What the kernel answered when the golden files were made: one set of numbers, another for the second real server.
	numbers := map[ipvsadm.Columns][2]ipvsadm.Numbers{
		ipvsadm.Connections: {{Active: 3, Inactive: 22}, {Active: 4, Inactive: 23}},
		ipvsadm.Stats: {{Connections: 1234567, Packets: 1111111101, Bytes: 1975308642180},
			{Connections: 2469134, Packets: 2222222202, Bytes: 3950617284360}},
		ipvsadm.Rate: {{Connections: 12, Packets: 3456, Bytes: 123456789}, {Connections: 13, Packets: 3456, Bytes: 123456789}},
	}
	for columns, file := range map[ipvsadm.Columns]string{
		ipvsadm.Connections: "list.txt", ipvsadm.Stats: "stats.txt", ipvsadm.Rate: "rate.txt",
	} {
		backend := func(_ lb.ServiceKey, addr netip.Addr) ipvsadm.Numbers {
			if addr == nine {
				return numbers[columns][1]
			}
			return numbers[columns][0]
		}
		got := list(t, ipvsadm.Listing{
			State: state, Columns: columns, Size: 4096, Backend: backend,
			Service: func(key lb.ServiceKey) (sum ipvsadm.Numbers) {
				service, _ := state.Service(key)
				for _, b := range service.Backends {
					n := backend(key, b.Addr)
					sum.Connections += n.Connections
					sum.Packets += n.Packets
					sum.Bytes += n.Bytes
				}
				return sum
			},
		})
		if diff := cmp.Diff(golden(t, file), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
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
TCP  www.a-name-of-many-letters.exampl rr
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
	state := parse(t, golden(t, "save.txt"))
	if err := ipvsadm.List(failing{}, ipvsadm.Listing{State: state}); !errors.Is(err, errFull) {
		t.Errorf("List: got %v", err)
	}
	if err := ipvsadm.Save(failing{}, state); !errors.Is(err, errFull) {
		t.Errorf("Save: got %v", err)
	}
	if _, err := ipvsadm.Parse(iotest.ErrReader(errFull)); !errors.Is(err, errFull) {
		t.Errorf("Parse: got %v", err)
	}
}

func save(t testing.TB, state lb.State) string {
	t.Helper()
	var out bytes.Buffer
	if err := ipvsadm.Save(&out, state); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestSaveGolden(t *testing.T) {
	t.Parallel()
	want := golden(t, "save.txt")
	if diff := cmp.Diff(want, save(t, parse(t, want))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParse(t *testing.T) {
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
		"edited":           "-A -t 172.10.0.9:80 -s rr\n-a -t 172.10.0.9:80 -r 192.168.60.8\n-E -t 172.10.0.9:80 -s wrr\n-e -t 172.10.0.9:80 -r 192.168.60.8 -w 7\n",
		"deleted":          want + "-A -u 172.10.0.9:80 -s rr\n-a -t 172.10.0.9:80 -r 192.168.60.9\n-d -t 172.10.0.9:80 -r 192.168.60.9:80\n-D -u 172.10.0.9:80\n",
		"cleared at first": "-A -t 172.10.0.9:443 -s rr\n-C\n" + want,
	} {
		if diff := cmp.Diff(want, save(t, parse(t, text))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	const v6 = "-A -u [2001:db8::64]:53 -s sh\n-a -u [2001:db8::64]:53 -r [2001:db8::8]:53 -g -w 1\n"
	for _, server := range []string{"[2001:db8::8]:53", "[2001:db8::8]", "2001:db8::8"} {
		text := "-A -u [2001:db8::64]:53 -s sh\n-a -u [2001:db8::64]:53 -r " + server
		if diff := cmp.Diff(v6, save(t, parse(t, text))); diff != "" {
			t.Errorf("-r %s (-want +got):\n%s", server, diff)
		}
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

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const before = "# two good lines first\n-A -t 172.10.0.9:80 -s rr\n\n-a -t 172.10.0.9:80 -r 192.168.60.8\n"
	for _, tt := range []struct{ line, want string }{
		{"-A -t 172.10.0.9:81", "no -s: LVS's default is wlc, which xdplb does not have yet; want -s rr, wrr, sh or mh"},
		{"-E -t 172.10.0.9:80", "no -s: LVS's default is wlc, which xdplb does not have yet; want -s rr, wrr, sh or mh"},

		{"-A -t 172.10.0.9:81 -s nosuch", `unknown scheduler "nosuch": want rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh or twos`},
		{"-A -t 172.10.0.9:80 -s rr", "service TCP 172.10.0.9:80 already exists"},
		{"-A -t 172.10.0.9:0 -s rr", "port 0: want 1 to 65535"},
		{"-A -t 172.10.0.9 -s rr", `service "172.10.0.9" has no port: want ADDRESS:PORT`},
		{"-A -t 172.10.0.9:http -s rr", `port "http": want 1 to 65535 (names are not looked up: save with ipvsadm -S -n)`},
		{"-A -t www.example.org:80 -s rr", `VIP "www.example.org" is not an IP address (names are not looked up: save with ipvsadm -S -n)`},
		{"-A -t 224.0.0.1:80 -s rr", "VIP 224.0.0.1 is a multicast address"},
		{"-A -s rr", "-A needs -t or -u and a service"},
		{"-A -t 172.10.0.9:81 -u 172.10.0.9:81 -s rr", "-t and -u: want one service"},
		{"-A -t 172.10.0.9:81 -t 172.10.0.9:82 -s rr", "-t is given twice"},
		{"-A -t 172.10.0.9:81 -s rr -r 192.168.60.8", "-r does not go with -A"},
		{"-D -t 172.10.0.9:80 -s rr", "-s does not go with -D"},
		{"-d -t 172.10.0.9:80 -r 192.168.60.8 -w 1", "-w does not go with -d"},
		{"-C -t 172.10.0.9:80", "-t does not go with -C"},
		{"-E -u 172.10.0.9:80 -s rr", "service UDP 172.10.0.9:80 does not exist"},
		{"-D -u 172.10.0.9:80", "service UDP 172.10.0.9:80 does not exist"},
		{"-a -u 172.10.0.9:80 -r 192.168.60.8", "service UDP 172.10.0.9:80 does not exist"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.8", "backend 192.168.60.8 of TCP 172.10.0.9:80 already exists"},
		{"-e -t 172.10.0.9:80 -r 192.168.60.9", "backend 192.168.60.9 of TCP 172.10.0.9:80 does not exist"},
		{"-d -t 172.10.0.9:80 -r 192.168.60.9", "backend 192.168.60.9 of TCP 172.10.0.9:80 does not exist"},
		{"-a -t 172.10.0.9:80", "-a needs -r and a real server"},
		{"-a -r 1.2.3.4", "-a needs -t or -u and a service"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9:8080", "real server 192.168.60.9:8080: port 8080 is not the service's 80, and direct routing (-g) cannot change it"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9:0", "real server 192.168.60.9:0: port 0: want 1 to 65535"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9:http", `real server 192.168.60.9:http: port "http": want 1 to 65535 (names are not looked up: save with ipvsadm -S -n)`},
		{"-a -t 172.10.0.9:80 -r 2001:db8::8", "backend 2001:db8::8 is IPv6, the service TCP 172.10.0.9:80 is IPv4"},
		{"-a -t 172.10.0.9:80 -r [2001:db8::8", `backend "[2001:db8::8" is not an IP address`},
		{"-a -t 172.10.0.9:80 -r real1", `backend "real1" is not an IP address (names are not looked up: save with ipvsadm -S -n)`},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -w x", `weight "x": want 0 to 2147483647`},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -w -1", "weight -1: want 0 to 2147483647"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -w 2147483648", "weight 2147483648: want 0 to 2147483647"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -w", "-w needs a value"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 --weight", "--weight needs a value"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 --gatewaying=yes", "--gatewaying takes no value"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -m", "-m is refused: it translates addresses, and xdplb forwards by direct routing (-g) only"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -gi", "-i is refused: it tunnels, and xdplb forwards by direct routing (-g) only"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 -x 100", "-x is refused: connection thresholds: xdplb does not have it yet"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 --l-threshold=5", "-y is refused: connection thresholds: xdplb does not have it yet"},
		{"-a -t 172.10.0.9:80 -r 192.168.60.9 --tun-type gue", "--tun-type is refused: it is for tunnels, and xdplb forwards by direct routing (-g) only"},
		{"-A -f 7 -s rr", "-f is refused: firewall marks do not exist where XDP sees a packet"},
		{"-A --sctp-service 172.10.0.9:80 -s rr", "--sctp-service is refused: SCTP: xdplb does not have it yet"},
		{"-A -t 172.10.0.9:81 -s rr -p", "-p is refused: persistence: xdplb does not have it yet"},
		{"-A -t 172.10.0.9:81 -s rr -p300", "-p is refused: persistence: xdplb does not have it yet"},
		{"-A -t 172.10.0.9:81 -s rr --pe sip", "--pe is refused: persistence: xdplb does not have it yet"},
		{"-A -u 172.10.0.9:53 -s rr -o", "-o is refused: one-packet scheduling: xdplb does not have it yet"},
		{"-A -t 172.10.0.9:81 -s sh -b sh-port", "-b is refused: scheduler flags: xdplb does not have it yet"},
		{"-L -n", "-L is refused: it has no place in a saved configuration"},
		{"--set 1 2 3", "--set is refused: timeouts are fixed to LVS's defaults"},
		{"-t 172.10.0.9:81 -A -s rr", "-t comes before the command: want -A, -E, -D, -a, -e, -d or -C first"},
		{"-A -D -t 172.10.0.9:80", "-D after -A: want one command in a line"},
		{"ipvsadm", "no command: want -A, -E, -D, -a, -e, -d or -C"},
		{"ipvsadm save", `unexpected word "save"`},
		{"-A -t 172.10.0.9:81 -s rr more", `unexpected word "more"`},
		{"-A -q", `unknown option "-q"`},
		{"-A --what=ever", `unknown option "--what"`},
		{"-", `unexpected word "-"`},
		{"-A -t " + strings.Repeat("1", 70000), "longer than 65536 bytes"},
	} {
		state, err := ipvsadm.Parse(strings.NewReader(before + tt.line + "\n-A -t 172.10.0.99:80 -s rr\n"))
		if err == nil || err.Error() != "line 5: "+tt.want {
			t.Errorf("%.99s\n got %v\nwant line 5: %s", tt.line, err, tt.want)
		}
		if len(state.Services) != 0 {
			t.Errorf("%.99s: refused, but a state came with it", tt.line)
		}
	}
	if _, err := ipvsadm.Parse(strings.NewReader(golden(t, "save-names.txt"))); err == nil || !strings.Contains(err.Error(), "ipvsadm -S -n") {
		t.Errorf("saved with names: got %v", err)
	}
}

var byValue = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}

func FuzzParse(f *testing.F) {
	f.Add(golden(f, "save.txt"))
	f.Add("ipvsadm -As rr -t1.2.3.4:80 # x\r\n\n--add-server --tcp-service=1.2.3.4:80 -gw0 -r 1.2.3.5:80\n-E -t 1.2.3.4:80 -s mh\n")
	f.Add("-A -t [2001:db8::64]:80 -s sh\n-a -t [2001:db8::64]:80 -r 2001:db8::8\n-d -t [2001:db8::64]:80 -r [2001:db8::8]\n-C\n")
	f.Fuzz(func(t *testing.T, text string) {
		state, err := ipvsadm.Parse(strings.NewReader(text))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "line ") {
				t.Errorf("error without a line: %v", err)
			}
			return
		}
		if err := state.Validate(); err != nil {
			t.Fatalf("a state that is not valid: %v", err)
		}
		saved := save(t, state)
		again := parse(t, saved)
		if diff := cmp.Diff(state, again, byValue); diff != "" {
			t.Errorf("saved and parsed again (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(saved, save(t, again)); diff != "" {
			t.Errorf("saved twice (-want +got):\n%s", diff)
		}
	})
}
