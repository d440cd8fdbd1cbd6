// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lab"
)

// TestClusterDropIn runs the cluster by a script that was written for LVS: it adds, quiesces, saves, clears and restores
// by ipvsadm's commands alone, reads what its monitoring reads, and a connection lives through all of it.
func TestClusterDropIn(t *testing.T) {
	c := raise(t, lab.Options{})
	c.on("director", "ip route add default via 192.168.60.1")
	c.director(small)
	ipvsadm := func(arguments string) string {
		t.Helper()
		return c.on("director", "ipvsadm %s", arguments)
	}
	ipvsadm("-A -t 172.10.0.9:80 -s rr")
	ipvsadm("-a -t 172.10.0.9:80 -r 192.168.60.9:80 -g -w 1")
	ipvsadm("-a -t 172.10.0.9:80 -r 192.168.60.8:80 -g -w 1")

	conn, err := c.connect(netip.Addr{}, web)
	c.check(err)
	defer conn.close()
	first, err := conn.ask()
	c.check(err)
	if got := len(distinct(c.sequence(4, netip.Addr{}, web))); got != 2 {
		t.Errorf("%d servers have answered, want 2", got)
	}
	if list := ipvsadm("-L -n"); !regexp.MustCompile(`Route   1      1          \d+ +\n`).MatchString(list) {
		t.Errorf("no backend has an active connection:\n%s", list)
	}
	if list := ipvsadm("-L -n -c"); !regexp.MustCompile(`(?m)^TCP 1[45]:\d\d  ESTABLISHED \S+:\d+ +172\.10\.0\.9:80 +192\.168\.60\.[89]:80$`).MatchString(list) {
		t.Errorf("no connection is established:\n%s", list)
	}
	if list := ipvsadm("-L -n --stats"); !regexp.MustCompile(`(?m)^TCP  172\.10\.0\.9:80 +5 `).MatchString(list) {
		t.Errorf("not five connections:\n%s", list)
	}

	// A quiesced backend keeps its connection and gets no other.
	ipvsadm("-e -t 172.10.0.9:80 -r 192.168.60.8 -w 0")
	if got := distinct(c.sequence(4, netip.Addr{}, web)); len(got) != 1 {
		t.Errorf("%v have answered, want all but the quiesced one", got)
	}

	saved := c.on("director", "ipvsadm-save -n")
	file := filepath.Join(t.TempDir(), "rules")
	c.check(os.WriteFile(file, []byte("# ipvsadm.rules\n"+saved), 0o600))
	c.check(os.WriteFile(file+".sh", []byte("ipvsadm-restore < "+file+"\n"), 0o600))
	c.on("director", "sh %s.sh", file)
	if diff := cmp.Diff(saved, ipvsadm("-S -n")); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
	if again, err := conn.ask(); err != nil || again != first {
		t.Errorf("the connection with %s got %s, %v", first, again, err)
	}

	ipvsadm("-C")
	if list := ipvsadm("-L -n"); strings.Contains(list, "TCP") {
		t.Errorf("cleared, but:\n%s", list)
	}
}
