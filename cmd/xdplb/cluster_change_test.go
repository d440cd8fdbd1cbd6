// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"xdplb/internal/lab"
)

// clients is how many sessions the load has at once: a few, since two CPUs do all.
const clients = 6

// TestClusterAddUnderLoad adds a backend while requests run, of which none may fail.
func TestClusterAddUnderLoad(t *testing.T) {
	c := serve(t, lab.Options{Backends: 3}, web, "rr")
	c.director("backend del 192.168.60.10")
	d1, d2 := c.startDownload(web, "real1"), c.startDownload(web, "real2")
	l := c.startLoad(clients, web)
	l.await(t, 20)
	c.director("backend add 192.168.60.10")
	if counts := l.await(t, 20); counts["real3"] == 0 {
		t.Errorf("the backend that was added gets nothing: %v", counts)
	}
	l.endWithout(t, none)
	c.check(d1.finish())
	c.check(d2.finish())
	want := map[string]int{"real1": 30, "real2": 30, "real3": 30}
	if diff := cmp.Diff(want, c.atOnce(90, 20, web)); diff != "" {
		t.Errorf("90 requests afterwards (-want +got):\n%s", diff)
	}
}

// TestClusterQuiesceUnderLoad gives a backend weight 0: it keeps its connections and gets no new ones, and none fails.
func TestClusterQuiesceUnderLoad(t *testing.T) {
	c := serve(t, lab.Options{}, web, "rr")
	d := c.startDownload(web, "real1")
	l := c.startLoad(clients, web)
	if counts := l.await(t, 20); counts["real1"] == 0 || counts["real2"] == 0 {
		t.Errorf("not both serve: %v", counts)
	}
	c.director("backend set 192.168.60.8 --weight 0")
	if counts := l.await(t, 40); counts["real1"] != 0 {
		t.Errorf("the quiesced backend gets new connections: %v", counts)
	}
	l.endWithout(t, none)
	c.check(d.finish())
}

// TestClusterRemoveUnderLoad deletes a backend that is at work. Only its own connections break.
func TestClusterRemoveUnderLoad(t *testing.T) {
	c := serve(t, lab.Options{}, web, "rr")
	removed, kept := c.startDownload(web, "real1"), c.startDownload(web, "real2")
	l := c.startLoad(clients, web)
	l.await(t, 20)
	c.director("backend del 192.168.60.8")
	deleted := time.Now()
	if counts := l.await(t, 40); counts["real1"] != 0 {
		t.Errorf("the removed backend gets new connections: %v", counts)
	}
	l.endWithout(t, func(s session) bool { return s.began.Before(deleted) && s.server != "real2" })
	if err := removed.finish(); err == nil {
		t.Error("the download from the removed backend has come to its end")
	}
	c.check(kept.finish())
}

// TestClusterRemoveKeeping deletes a backend that is at work, of a service that keeps such connections: none breaks, until
// the service is told to give them up.
func TestClusterRemoveKeeping(t *testing.T) {
	for _, scheduler := range []string{"rr", "mh"} {
		t.Run(scheduler, func(t *testing.T) {
			c := serve(t, lab.Options{}, web, "rr") // so that downloads find both
			c.director("service set %s --on-removal keep", web)
			short, long, other := c.startDownload(web, "real1"), c.startDownload(web, "real1"), c.startDownload(web, "real2")
			c.director("service set %s --scheduler %s", web, scheduler)
			l := c.startLoad(clients, web)
			l.await(t, 20)
			c.director("backend del 192.168.60.8")
			if counts := l.await(t, 40); counts["real1"] != 0 {
				t.Errorf("the removed backend gets new connections: %v", counts)
			}
			l.endWithout(t, none)
			c.check(short.finish())
			if list := c.director("connections -n --state ESTABLISHED --backend 192.168.60.8"); !strings.Contains(list, " 192.168.60.8:80") {
				t.Errorf("the connection that goes on is not listed:\n%s", list)
			}
			c.director("service set %s --on-removal reschedule", web)
			if err := long.finish(); err == nil {
				t.Error("given up, a download from the removed backend has come to its end")
			}
			c.check(other.finish())
		})
	}
}

// TestClusterKilledServer kills a web server at work. Nobody has told the director: what it sends there fails, and nothing
// else, until the operator removes the backend.
func TestClusterKilledServer(t *testing.T) {
	c := serve(t, lab.Options{}, web, "rr")
	victim, other := c.startDownload(web, "real1"), c.startDownload(web, "real2")
	l := c.startLoad(clients, web)
	l.await(t, 20)
	c.check(c.lab.Host("real1").StopWebServer())
	if err := victim.finish(); err == nil {
		t.Error("the download from the killed web server has come to its end")
	}
	l.endWithout(t, func(s session) bool { return s.server != "real2" })

	refused := 0
	for range 20 {
		server, err := c.get(netip.Addr{}, web)
		if errors.Is(err, syscall.ECONNREFUSED) {
			refused++
		} else if err != nil || server != "real2" {
			t.Errorf("a request was answered by %q: %v", server, err)
		}
	}
	if refused != 10 {
		t.Errorf("20 requests, %d refused, want 10", refused)
	}

	c.director("backend del 192.168.60.8")
	c.sequence(10, netip.Addr{}, web)
	c.check(c.lab.Host("real1").StartWebServer(t.Context()))
	c.director("backend add 192.168.60.8")
	if diff := cmp.Diff(map[string]int{"real1": 20, "real2": 20}, c.atOnce(40, 20, web)); diff != "" {
		t.Errorf("40 requests with the web server back (-want +got):\n%s", diff)
	}
	c.check(other.finish())
}

// TestClusterUnpluggedServer takes a real server's link down: what is sent there meets silence, and nothing else does.
func TestClusterUnpluggedServer(t *testing.T) {
	c := serve(t, lab.Options{}, web, "rr")
	d := c.startDownload(web, "real2")
	c.on("real1", "ip link set eth0 down")
	errs := make([]error, 8)
	var dials sync.WaitGroup
	for i := range errs {
		dials.Go(func() {
			errs[i] = c.lab.Host("client").Do(func() error {
				conn, err := net.DialTimeout("tcp", web.String(), 1500*time.Millisecond)
				if err == nil {
					conn.Close()
				}
				return err
			})
		})
	}
	dials.Wait()
	unanswered := 0
	for _, err := range errs {
		var failure net.Error
		if errors.As(err, &failure) && failure.Timeout() {
			unanswered++
		} else if err != nil {
			t.Errorf("a connection failed otherwise than by silence: %v", err)
		}
	}
	if unanswered != 4 {
		t.Errorf("%d of 8 connections were not answered, want 4", unanswered)
	}
	c.director("backend del 192.168.60.8")
	c.sequence(10, netip.Addr{}, web)
	c.check(d.finish())
}

// TestClusterRestoreUnderLoad replaces the whole configuration again and again: no packet meets a moment without one.
func TestClusterRestoreUnderLoad(t *testing.T) {
	c := serve(t, lab.Options{}, web, "rr")
	one := c.director("save")
	other := strings.Replace(one, "-s rr", "-s wrr", 1)
	other = strings.Replace(other, "192.168.60.8:80 -g -w 1", "192.168.60.8:80 -g -w 3", 1)
	other += "-A -t 172.10.0.9:443 -s mh\n-a -t 172.10.0.9:443 -r 192.168.60.9:443 -g -w 1\n"
	dir := t.TempDir()
	d1, d2 := c.startDownload(web, "real1"), c.startDownload(web, "real2")
	l := c.startLoad(clients, web)
	l.await(t, 20)
	for i := range 10 {
		rules := []string{other, one}[i%2]
		file := filepath.Join(dir, strconv.Itoa(i))
		c.check(os.WriteFile(file, []byte(rules), 0o600))
		c.director("restore %s", file)
		if diff := cmp.Diff(rules, c.director("save")); diff != "" {
			t.Fatalf("save after restore (-want +got):\n%s", diff)
		}
	}
	l.endWithout(t, none)
	c.check(d1.finish())
	c.check(d2.finish())
}

// TestClusterKilledUnderLoad kills xdplb before each of its writes while requests and downloads run. Of these none may fail,
// and the next command finishes the work.
func TestClusterKilledUnderLoad(t *testing.T) {
	c := serve(t, lab.Options{Backends: 3}, web, "rr")
	c.director("backend del 192.168.60.10")
	d1, d2 := c.startDownload(web, "real1"), c.startDownload(web, "real2")
	l := c.startLoad(clients/2, web)
	l.await(t, 10)
	// A circle: after the last command, all is as before the first.
	circle := []struct {
		command string
		want    string // what the listing of backends has afterwards of the third one; "": nothing
	}{
		{"backend add 192.168.60.10", "-r 192.168.60.10:80 -g -w 1"},
		{"backend set 192.168.60.10 --weight 3", "-r 192.168.60.10:80 -g -w 3"},
		{"backend set 192.168.60.10 --weight 0", "-r 192.168.60.10:80 -g -w 0"},
		{"backend del 192.168.60.10", ""},
	}
	for write := 1; ; write++ {
		kills := 0
		for _, step := range circle {
			before := c.director("save")
			killed, err := c.killedAt(write, step.command)
			c.check(err)
			if killed {
				kills++
				if c.director("save") == before {
					c.director("%s", step.command)
				}
			}
			got := third(c.director("save"))
			if got != step.want {
				t.Fatalf("%s, killed (%v) before write %d and repaired: there is %q, want %q", step.command, killed, write, got, step.want)
			}
			if strings.HasSuffix(step.want, "-w 0") {
				l.await(t, 2*clients) // those that it has left come to their end
			}
		}
		if kills == 0 {
			if write < 3 {
				t.Errorf("no command was killed before write %d: they write nothing", write)
			}
			break
		}
	}
	l.endWithout(t, none)
	c.check(d1.finish())
	c.check(d2.finish())
	if diff := cmp.Diff(map[string]int{"real1": 20, "real2": 20}, c.atOnce(40, 20, web)); diff != "" {
		t.Errorf("40 requests afterwards (-want +got):\n%s", diff)
	}
}

// third returns what the rules have of the third real server.
func third(rules string) string {
	for line := range strings.Lines(rules) {
		if strings.Contains(line, "192.168.60.10") {
			return strings.TrimSpace(strings.TrimPrefix(line, "-a -t 172.10.0.9:80 "))
		}
	}
	return ""
}

// killedAt runs a command on the director that is killed before one of its writes, if it has so many.
func (c *cluster) killedAt(write int, command string) (killed bool, err error) {
	_, err = c.try("director", "xdplb "+command, killAt+"="+strconv.Itoa(write))
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true, nil
	}
	return false, err
}

// TestClusterDetachUnderLoad takes the program off and puts it on again: in between the director's own stack refuses, and
// afterwards the services and the connections that have rested meanwhile go on.
func TestClusterDetachUnderLoad(t *testing.T) {
	c := serve(t, lab.Options{}, web, "rr")
	type resting struct {
		*connection
		server string
	}
	var connections []resting
	for range 12 {
		conn, err := c.connect(netip.Addr{}, web)
		c.check(err)
		defer conn.close()
		server, err := conn.ask()
		c.check(err)
		connections = append(connections, resting{conn, server})
	}
	l := c.startLoad(clients, web)
	l.await(t, 20)
	rules := c.director("save")

	detaching := time.Now()
	c.director("detach eth0")
	if _, err := c.get(netip.Addr{}, web); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a request while detached: %v, want it refused", err)
	}
	if x, err := c.lab.Host("director").XDP("eth0"); err != nil || x.Program != "" {
		t.Errorf("eth0 of the director carries %+v (%v) after detach", x, err)
	}
	c.director("attach eth0")
	attached := time.Now()

	l.await(t, 20)
	l.endWithout(t, func(s session) bool { return s.began.Before(attached) && s.ended.After(detaching) })
	if diff := cmp.Diff(rules, c.director("save")); diff != "" {
		t.Errorf("the rules before detach and after attach (-before +after):\n%s", diff)
	}
	for _, conn := range connections {
		if server, err := conn.ask(); err != nil || server != conn.server {
			t.Errorf("a connection with %s that has rested is answered by %q: %v", conn.server, server, err)
		}
	}
	if diff := cmp.Diff(map[string]int{"real1": 20, "real2": 20}, c.atOnce(40, 20, web)); diff != "" {
		t.Errorf("40 requests afterwards (-want +got):\n%s", diff)
	}
}
