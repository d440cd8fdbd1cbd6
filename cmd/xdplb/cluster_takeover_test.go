// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/lab"
	"xdplb/internal/testenv"
)

// streams are connections of the client that stay open, each with the real server that it has.
type streams struct {
	c       *cluster
	all     []*connection
	servers []string
}

// openStreams opens them through whoever balances.
func (c *cluster) openStreams(n int, to netip.AddrPort) *streams {
	c.t.Helper()
	s := &streams{c: c}
	for range n {
		conn, err := c.connect(netip.Addr{}, to)
		c.check(err)
		c.t.Cleanup(conn.close)
		s.all = append(s.all, conn)
	}
	for i, conn := range s.all {
		server, err := conn.ask()
		if err != nil {
			c.t.Fatalf("stream %d of %d: %v", i+1, n, err)
		}
		s.servers = append(s.servers, server)
	}
	return s
}

// ask asks on every stream, and says which of them broke or moved.
func (s *streams) ask() error {
	var wrong []string
	for i, conn := range s.all {
		err := conn.conn.SetDeadline(time.Now().Add(patience))
		var server string
		if err == nil {
			server, err = conn.ask()
		}
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("stream %d of %s: %v", i+1, s.servers[i], err))
		case server != s.servers[i]:
			wrong = append(wrong, fmt.Sprintf("stream %d of %s: %s answers", i+1, s.servers[i], server))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d streams:\n%s", len(wrong), len(s.all), strings.Join(wrong[:min(len(wrong), 5)], "\n"))
}

// requireLVS skips the test where there is no LVS to take over from.
func requireLVS(t *testing.T) {
	t.Helper()
	testenv.Require(t, testenv.Command("/usr/sbin/ipvsadm"), testenv.Command("ip"))
	testenv.RequireLVS(t)
}

// TestClusterTakeOver takes over from the real LVS on the director: 100 streams talk all the while; none breaks, none
// moves.
func TestClusterTakeOver(t *testing.T) {
	requireLVS(t)
	for _, test := range []struct {
		name string
		at   netip.AddrPort
		mh   bool // with rules from a file, by another scheduler, whose hash tells another real server for half of the streams
	}{{"the running LVS", web, false}, {"IPv6", web6, false}, {"files, to mh", web, true}} {
		t.Run(test.name, func(t *testing.T) {
			c := raise(t, lab.Options{IPv6: test.at.Addr().Is6()})
			lvs := func(format string, args ...any) { c.on("director", debianIPVSADM+" "+format, args...) }
			lvs("-A -t %s -s rr", test.at)
			for _, h := range c.reals() {
				lvs("-a -t %s -r %s -g", test.at, netip.AddrPortFrom(address(h, test.at.Addr()), test.at.Port()))
			}
			s := c.openStreams(100, test.at)
			if counts := count(s.servers); counts["real1"] != 50 || counts["real2"] != 50 {
				t.Errorf("LVS has not shared the streams: %v", counts)
			}
			c.director(small)
			c.check(s.ask())

			stop, ended := make(chan struct{}), make(chan error, 1)
			var once sync.Once
			defer once.Do(func() { close(stop) })
			go func() { ended <- s.askUntil(stop) }()
			flags := ""
			if test.mh {
				rules := filepath.Join(t.TempDir(), "rules")
				saved := c.on("director", "%s -S -n", debianIPVSADM)
				c.check(os.WriteFile(rules, []byte(strings.Replace(saved, "-s rr", "-s mh", 1)), 0o600))
				flags = " --connections /proc/net/ip_vs_conn --rules " + rules
			}
			said := c.director("import ipvs%s", flags)
			if !strings.Contains(said, "/proc/net/ip_vs_conn: 100 taken, 0 approximated, 0 left out, 0 refused\n") {
				t.Errorf("import said:\n%s", said)
			}
			lvs("-C")
			once.Do(func() { close(stop) })
			if err := <-ended; err != nil {
				t.Errorf("meanwhile: %v", err)
			}
			if err := s.ask(); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			if got := strings.TrimSpace(c.director("connections --count --state ESTABLISHED")); got != "100" {
				t.Errorf("%s connections are established, want 100", got)
			}
			if _, err := c.get(netip.Addr{}, test.at); err != nil {
				t.Errorf("a new connection: %v", err)
			}
		})
	}
}

// askUntil asks again and again.
func (s *streams) askUntil(stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		if err := s.ask(); err != nil {
			return err
		}
	}
}

// TestClusterTakeOverRules reads the table of the real LVS from /proc, and wants what ipvsadm saves.
func TestClusterTakeOverRules(t *testing.T) {
	requireLVS(t)
	testenv.Namespace(t)
	for _, rule := range []string{
		"-A -t 192.168.60.100:80 -s rr", "-a -t 192.168.60.100:80 -r 192.168.60.8 -g -w 1", "-a -t 192.168.60.100:80 -r 192.168.60.9 -m -w 20",
		"-A -u 192.168.60.100:53 -s wrr -o", "-a -u 192.168.60.100:53 -r 192.168.60.8 -g -w 0",
		"-A -t 192.168.60.101:0 -s wlc -p", "-a -t 192.168.60.101:0 -r 192.168.60.8:0 -g",
		"-A -t 192.168.60.102:443 -s sh -p 600 -M 255.255.255.0", "-a -t 192.168.60.102:443 -r 192.168.60.8 -i",
		"-A -t [2001:db8::64]:80 -s mh -p 300 -M 64", "-a -t [2001:db8::64]:80 -r [2001:db8::8]:80 -g -w 1",
		"-A -u [2001:db8::64]:53 -s lc -p 60", "-A --sctp-service 192.168.60.100:3868 -s rr",
		"-A -f 70000 -s nq", "-a -f 70000 -r 192.168.60.8:0 -g",
	} {
		if out, err := exec.Command(debianIPVSADM, strings.Fields(rule)...).CombinedOutput(); err != nil {
			t.Fatalf("ipvsadm %s: %v: %s", rule, err, out)
		}
	}
	saved, err := exec.Command(debianIPVSADM, "-S", "-n").Output()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open("/proc/thread-self/net/ip_vs")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	read, err := ipvsadm.SaveProc(file, kernelTick())
	if err != nil {
		t.Fatal(err)
	}
	// Both orders are the kernel's. An IPv4 mask of one client is ipvsadm's default, as a prefix of 128 is.
	lines := func(text string) []string {
		for _, word := range []string{" --tun-type ipip", " -M 255.255.255.255", " -M 128"} {
			text = strings.ReplaceAll(text, word, "")
		}
		all := strings.Split(text, "\n")
		all = slices.DeleteFunc(all, func(line string) bool { return line == "" })
		return slices.Sorted(slices.Values(all))
	}
	if diff := cmp.Diff(lines(string(saved)), lines(read)); diff != "" {
		t.Errorf("(-ipvsadm +/proc):\n%s", diff)
	}
}
