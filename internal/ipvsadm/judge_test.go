// SPDX-License-Identifier: Apache-2.0

package ipvsadm_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

// judge is what JudgeRules says of every line, and the state that comes of it.
func judge(t testing.TB, text string) (said string, state lb.State) {
	t.Helper()
	var out strings.Builder
	err := ipvsadm.JudgeRules(strings.NewReader(text), ipvsadm.Names{}, &state, func(j ipvsadm.Judgement) { out.WriteString(j.String() + "\n") })
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), state
}

func TestJudgeRules(t *testing.T) {
	t.Parallel()
	got, state := judge(t, `# saved
-A -t 172.10.0.9:80 -s rr
-a -t 172.10.0.9:80 -r 192.168.60.8:80 -g -w 1

-a -t 172.10.0.9:80 -r 192.168.60.9:8080 -g -w 2
ipvsadm -A -t 172.10.0.9:443 -s sh	# by the client
-a -t 172.10.0.9:443 -r 192.168.60.7:443 -i -w 1
-a -t 172.10.0.9:443 -r 172.10.0.9:443 -g
-A -f 7 -s lc
-Z
-a -t 172.10.0.9:99 -r 192.168.60.8:99
-A -t web:80 -s rr
-L -n
nonsense
`)
	want := `2: taken: -A -t 172.10.0.9:80 -s rr
3: taken: -a -t 172.10.0.9:80 -r 192.168.60.8:80 -g -w 1
5: approximated: -a -t 172.10.0.9:80 -r 192.168.60.9:8080 -g -w 2: real server 192.168.60.9: direct routing cannot change the port 80 to 8080: the real server must listen on 80
6: approximated: -A -t 172.10.0.9:443 -s sh: sh has another hash than LVS: a client's new connections may go to another real server
7: refused: -a -t 172.10.0.9:443 -r 192.168.60.7:443 -i -w 1: -i: xdplb forwards by direct routing only: use -g, with the VIP on the real server's lo
8: taken: -a -t 172.10.0.9:443 -r 172.10.0.9:443 -g
9: refused: -A -f 7 -s lc: -f: firewall marks are set after XDP has seen a packet: name the service with -t, -u or --sctp-service
10: left out: -Z: counters begin at zero
11: refused: -a -t 172.10.0.9:99 -r 192.168.60.8:99: Service not defined
12: refused: -A -t web:80 -s rr: illegal virtual server address[:port] specified
13: refused: -L -n: -L: a restore does all of its lines or none, and prints nothing
14: refused: nonsense: a command of ipvsadm, such as -A or -a, must come first
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if service, found := state.Service(lb.ServiceKey{Addr: netip.MustParseAddrPort("172.10.0.9:80"), Protocol: lb.TCP}); !found || len(service.Backends) != 2 {
		t.Errorf("the state is %+v", state)
	}
}

// TestSaveProc compares what the kernel says with what ipvsadm makes of it.
func TestSaveProc(t *testing.T) {
	t.Parallel()
	got, err := ipvsadm.SaveProc(strings.NewReader(`IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C0A83C64:0050 rr  
  -> C0A83C09:0050      Route   2      4          23        
  -> C0A83C0A:0050      Local   1      4          23        
TCP  C0A83C65:0000 wlc persistent 90000 FFFFFF00
UDP  C0A83C64:0035 wrr ops 
  -> C0A83C08:0035      Masq    0      3          22        
TCP  [2001:0db8:0000:0000:0000:0000:0000:0064]:0050 mh persistent 75000 40000000
  -> [2001:0db8:0000:0000:0000:0000:0000:0008]:0050      Tunnel  1      3          22        
SCTP C0A83C64:0F1C rr  
FWM  00000007 lc 
  -> C0A83C08:0000      Route   1      3          22        
something else
`), 4*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	want := `


-A -t 192.168.60.100:80 -s rr
-a -t 192.168.60.100:80 -r 192.168.60.9:80 -g -w 2
-a -t 192.168.60.100:80 -r 192.168.60.10:80 -g -w 1
-A -t 192.168.60.101:0 -s wlc -p 360 -M 255.255.255.0
-A -u 192.168.60.100:53 -s wrr -o
-a -u 192.168.60.100:53 -r 192.168.60.8:53 -m -w 0
-A -t [2001:db8::64]:80 -s mh -p 300 -M 64
-a -t [2001:db8::64]:80 -r [2001:db8::8]:80 -i -w 1
-A --sctp-service 192.168.60.100:3868 -s rr
-A -f 7 -s lc
-a -f 7 -r 192.168.60.8:0 -g -w 1
something else
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// readConnections are the rows of a text, and the errors of the lines that are none.
func readConnections(t testing.TB, text string) (all []ipvsadm.Connection, errs []string) {
	t.Helper()
	err := ipvsadm.ReadConnections(strings.NewReader(text), func(line int, text string, c ipvsadm.Connection, err error) {
		if err != nil {
			errs = append(errs, err.Error())
			return
		}
		all = append(all, c)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, errs
}

// TestReadConnections reads the same connections from the kernel's file and from ipvsadm's listing of it.
func TestReadConnections(t *testing.T) {
	t.Parallel()
	want := []ipvsadm.Connection{
		connection(lb.TCP, 897*time.Second, "ESTABLISHED", "192.168.60.1:54321", "192.168.60.100:80", "192.168.60.8:80"),
		connection(lb.TCP, 117*time.Second, "FIN_WAIT", "192.168.60.1:54322", "192.168.60.100:80", "192.168.60.9:80"),
		connection(lb.TCP, 355*time.Second, "NONE", "192.168.60.1:0", "192.168.60.100:80", "192.168.60.8:80"),
		connection(lb.UDP, 297*time.Second, "UDP", "192.168.60.1:54323", "192.168.60.100:53", "192.168.60.8:53"),
		connection(lb.TCP, 57*time.Second, "SYN_RECV", "[2001:db8::1]:54324", "[2001:db8::64]:80", "[2001:db8::8]:80"),
	}
	for _, name := range []string{"lvs/17-conn.txt", "lvs/17-conn.proc-input.txt"} {
		got, errs := readConnections(t, golden(t, name))
		if diff := cmp.Diff(want, got, byValue); diff != "" || len(errs) > 0 {
			t.Errorf("%s: errors %q, (-want +got):\n%s", name, errs, diff)
		}
	}
	got, errs := readConnections(t, `IP  C0A83C01 0000 00000007 0000 C0A83C08 0000 NONE            355
TCP 75:09  TIME_WAIT   192.168.60.1:54322 192.168.60.100:80  192.168.60.9:80    sip              12@a
TCP client:1 192.168.60.100:80
TCP 14:57  ESTABLISHED client:54321 www:http  192.168.60.8:80
TCP 14:61  ESTABLISHED 192.168.60.1:54321 192.168.60.100:80  192.168.60.8:80
ICMP 14:57  ESTABLISHED 192.168.60.1:54321 192.168.60.100:80  192.168.60.8:80
TCP C0A83C01 D431 C0A83C64 0050 C0A83C08 10050 ESTABLISHED     897
TCP C0A83C01 D431 C0A83C64 0050 C0A83C08 0050 ESTABLISHED     soon
`)
	if len(got) != 2 || got[0].Client != netip.MustParseAddrPort("192.168.60.1:0") || got[1].Left != 75*time.Minute+9*time.Second {
		t.Errorf("connections %+v", got)
	}
	wantErrs := []string{
		"not a connection: 3 words",
		`"client:54321" is no address and port: list the connections with ipvsadm -L -n -c, without names`,
		"not a connection: 6 words",
		`unknown protocol "ICMP": want tcp, udp or sctp`,
		"C0A83C08 10050 is no address and port",
		`"soon" is no number of seconds`,
	}
	if diff := cmp.Diff(wantErrs, errs); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

// FuzzReadConnections: whatever comes, what is read is listed, and read again as the same.
func FuzzReadConnections(f *testing.F) {
	f.Add(golden(f, "lvs/17-conn.txt"))
	f.Add(golden(f, "lvs/17-conn.proc-input.txt"))
	f.Add("IP  C0A83C01 0000 00000007 0000 C0A83C08 0000 NONE 355\nTCP 9:1 X [::1%1]:1 1.2.3.4:5 [::ffff:1.2.3.4]:5\n")
	f.Fuzz(func(t *testing.T, text string) {
		read := func(text string) (all []ipvsadm.Connection) {
			// An error of the reader's is a line that is too long.
			_ = ipvsadm.ReadConnections(strings.NewReader(text), func(_ int, _ string, c ipvsadm.Connection, err error) {
				if err == nil && c.Protocol != 0 {
					all = append(all, c)
				}
			})
			return all
		}
		all := read(text)
		again := read(listConnections(t, ipvsadm.ConnectionListing{Walk: walk(all...)}))
		if diff := cmp.Diff(all, again, byValue); diff != "" {
			t.Errorf("listed and read again (-want +got):\n%s", diff)
		}
	})
}

// FuzzJudgeRules: a line that is taken or approximated gives a valid state, from the kernel's text too.
func FuzzJudgeRules(f *testing.F) {
	f.Add(golden(f, "lvs/20-save-n.txt"))
	f.Add("TCP  C0A83C64:0050 rr  \n  -> C0A83C09:0050      Route   2      4          23\nUDP  [2001:0db8:0000:0000:0000:0000:0000:0064]:0035 mh ops persistent 300 40000000\n")
	f.Fuzz(func(t *testing.T, text string) {
		saved, err := ipvsadm.SaveProc(strings.NewReader(text), time.Millisecond)
		if err != nil {
			return
		}
		if got, most := strings.Count(saved, "\n"), strings.Count(text, "\n")+1; got > most {
			t.Errorf("%d lines of %d", got, most)
		}
		for _, text := range []string{text, saved} {
			var state lb.State
			if err := ipvsadm.JudgeRules(strings.NewReader(text), ipvsadm.Names{}, &state, func(ipvsadm.Judgement) {}); err != nil {
				return
			}
			if err := state.Validate(); err != nil {
				t.Error(err)
			}
		}
	})
}
