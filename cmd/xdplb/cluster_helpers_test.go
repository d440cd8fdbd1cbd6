// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"xdplb/internal/lab"
	"xdplb/internal/testenv"
)

const (
	// small is an attachment with small maps, since many clusters run side by side; not so small that a test's requests
	// would be a flood, for which turns are not exact.
	small = "attach eth0 --mode native --flows 262144 --services 16 --backends 64"
	// patience is how long anything in a cluster may take. It is long: the machine may be busy, or emulated.
	patience = 30 * time.Second
)

// The services of most tests.
var (
	web  = netip.AddrPortFrom(lab.VIP, 80)
	web6 = netip.AddrPortFrom(lab.VIP6, 80)
)

// cluster is the reference cluster in namespaces of the test's own, used as its operator and its clients use it. Its methods
// may be called from any goroutine, those that end the test from the test's.
type cluster struct {
	t   *testing.T
	lab *lab.Lab
}

// raise raises a cluster with web servers on its real servers. The test runs beside others from here on.
func raise(t *testing.T, o lab.Options) *cluster {
	t.Helper()
	testenv.Require(t, testenv.Command("ip"))
	t.Parallel()
	o.WebServers = true
	return &cluster{t, lab.New(t, o)}
}

// serve raises a cluster whose director has one service, with every real server as a backend, and a way to the client: what
// slips through to the director's own stack is refused, instead of being sent again after a second as if nothing had happened.
func serve(t *testing.T, o lab.Options, service netip.AddrPort, scheduler string) *cluster {
	t.Helper()
	c := raise(t, o)
	c.on("director", "ip route add default via 192.168.60.1")
	if o.IPv6 {
		c.on("director", "ip route add default via 2001:db8:60::1")
	}
	c.director(small)
	c.director("service add %s --scheduler %s", service, scheduler)
	for _, h := range c.reals() {
		c.director("backend add %s", address(h, service.Addr()))
	}
	return c
}

// reals lists the real servers.
func (c *cluster) reals() []*lab.Host {
	return slices.DeleteFunc(slices.Clone(c.lab.Hosts()), func(h *lab.Host) bool { return h.Role != lab.RoleReal })
}

// address is the host's address of the family of another.
func address(h *lab.Host, like netip.Addr) netip.Addr {
	if like.Is6() {
		return h.Addr6()
	}
	return h.Addr()
}

// try runs a command on a host, with more environment variables, and returns what it printed.
func (c *cluster) try(host, command string, env ...string) (stdout string, err error) {
	h, words := c.lab.Host(host), strings.Fields(command)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out, errOut bytes.Buffer
	err = h.Do(func() error {
		cmd := exec.CommandContext(ctx, words[0], words[1:]...)
		cmd.Env = append(append(os.Environ(), h.Environ()...), env...)
		cmd.Stdout, cmd.Stderr = &out, &errOut
		return cmd.Run()
	})
	if err != nil {
		err = fmt.Errorf("on %s: %s: %w: %s%s", host, command, err, &out, &errOut)
	}
	return out.String(), err
}

// on runs a command on a host, which must succeed.
func (c *cluster) on(host, format string, args ...any) string {
	c.t.Helper()
	stdout, err := c.try(host, fmt.Sprintf(format, args...))
	c.check(err)
	return stdout
}

// director types an xdplb command line on the director.
func (c *cluster) director(format string, args ...any) string {
	c.t.Helper()
	return c.on("director", "xdplb "+format, args...)
}

// check ends the test if there is an error.
func (c *cluster) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// answer speaks with everyone who connects, until the test ends.
func (c *cluster) answer(listener net.Listener, speak func(net.Conn)) {
	c.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				speak(conn)
			}()
		}
	}()
}

// connection is a TCP connection of the client with a web server.
type connection struct {
	conn   net.Conn
	reader *bufio.Reader
}

// connect opens a connection from the client, from one of its addresses; the zero Addr leaves that to the kernel.
func (c *cluster) connect(from netip.Addr, to netip.AddrPort) (*connection, error) {
	dialer := &net.Dialer{Timeout: patience}
	if from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	var conn net.Conn
	err := c.lab.Host("client").Do(func() (err error) {
		conn, err = dialer.Dial("tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return nil, err
	}
	return &connection{conn, bufio.NewReader(conn)}, nil
}

func (c *connection) close() { c.conn.Close() }

// request asks for a path and returns the real server that answers, and its answer.
func (c *connection) request(path string) (server string, response *http.Response, err error) {
	if _, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: cluster\r\n\r\n", path); err != nil {
		return "", nil, err
	}
	response, err = http.ReadResponse(c.reader, nil)
	if err != nil {
		return "", nil, err
	}
	return response.Header.Get("Real-Server"), response, nil
}

// ask asks for the page, on which each real server tells its name.
func (c *connection) ask() (server string, err error) {
	server, response, err := c.request("/")
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if server == "" || string(body) != server+"\n" {
		return "", fmt.Errorf("the answer of %q is %q", server, body)
	}
	return server, nil
}

// get asks for the page on a connection of its own.
func (c *cluster) get(from netip.Addr, to netip.AddrPort) (server string, err error) {
	conn, err := c.connect(from, to)
	if err != nil {
		return "", err
	}
	defer conn.close()
	return conn.ask()
}

// sequence asks for the page n times, one after the other, and returns who answered.
func (c *cluster) sequence(n int, from netip.Addr, to netip.AddrPort) []string {
	c.t.Helper()
	var servers []string
	for i := range n {
		server, err := c.get(from, to)
		if err != nil {
			c.t.Fatalf("request %d of %d: %v", i+1, n, err)
		}
		servers = append(servers, server)
	}
	return servers
}

// atOnce asks for the page n times, some at once, and counts who answered.
func (c *cluster) atOnce(n, some int, to netip.AddrPort) map[string]int {
	c.t.Helper()
	servers, errs := make([]string, n), make([]error, n)
	var workers sync.WaitGroup
	for worker := range some {
		workers.Go(func() {
			for i := worker; i < n; i += some {
				servers[i], errs[i] = c.get(netip.Addr{}, to)
			}
		})
	}
	workers.Wait()
	for i, err := range errs {
		if err != nil {
			c.t.Errorf("request %d of %d, %d at once: %v", i+1, n, some, err)
		}
	}
	return count(servers)
}

// count counts equal names.
func count(names []string) map[string]int {
	counts := map[string]int{}
	for _, name := range names {
		counts[name]++
	}
	return counts
}

// distinct lists the names, each once, sorted.
func distinct(names []string) []string { return slices.Sorted(maps.Keys(count(names))) }

// load is clients that talk with the web servers until they are stopped.
type load struct {
	workers  sync.WaitGroup
	stop     chan struct{}
	mutex    sync.Mutex
	sessions []session
}

// session is a connection of the load: a request and, a moment later, another one.
type session struct {
	began, ended time.Time
	server       string // who answered the first request, "": nobody
	err          error  // nil: both were answered, by the same
}

// startLoad starts clients which have so many sessions at once. They are stopped by end, or with the test.
func (c *cluster) startLoad(sessions int, to netip.AddrPort) *load {
	l := &load{stop: make(chan struct{})}
	for range sessions {
		l.workers.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				s := c.session(to)
				s.ended = time.Now()
				l.mutex.Lock()
				l.sessions = append(l.sessions, s)
				l.mutex.Unlock()
			}
		})
	}
	c.t.Cleanup(func() { l.end() })
	return l
}

// session has one session.
func (c *cluster) session(to netip.AddrPort) session {
	s := session{began: time.Now()}
	conn, err := c.connect(netip.Addr{}, to)
	if err != nil {
		s.err = err
		return s
	}
	defer conn.close()
	if s.server, s.err = conn.ask(); s.err != nil {
		return s
	}
	time.Sleep(5 * time.Millisecond)
	again, err := conn.ask()
	if err == nil && again != s.server {
		err = fmt.Errorf("%s has taken over a connection", again)
	}
	s.err = err
	return s
}

// answeredSince counts the sessions that began after a moment, by who answered.
func (l *load) answeredSince(moment time.Time) map[string]int {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	counts := map[string]int{}
	for _, s := range l.sessions {
		if s.began.After(moment) && s.err == nil {
			counts[s.server]++
		}
	}
	return counts
}

// await waits until so many sessions that began after now were answered.
func (l *load) await(t *testing.T, sessions int) map[string]int {
	t.Helper()
	begin := time.Now()
	for {
		counts, sum := l.answeredSince(begin), 0
		for _, n := range counts {
			sum += n
		}
		if sum >= sessions {
			return counts
		}
		if time.Since(begin) > patience {
			t.Fatalf("%d sessions in %v, want %d", sum, patience, sessions)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// end stops the load and returns all its sessions.
func (l *load) end() []session {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.workers.Wait()
	return l.sessions
}

// endWithout ends the load and reports the sessions that have failed, but for those that may.
func (l *load) endWithout(t *testing.T, mayFail func(session) bool) {
	t.Helper()
	sessions := l.end()
	for _, s := range sessions {
		if s.err != nil && !mayFail(s) {
			t.Errorf("of %d sessions, one with %q failed: %v", len(sessions), s.server, s.err)
		}
	}
}

// none is the sessions that may fail when none may.
func none(session) bool { return false }

// download is a transfer of a large file that goes slowly until it is told to finish.
type download struct {
	server string
	conn   net.Conn
	hurry  chan struct{}
	done   chan error
}

// startDownload starts a download from the server of the given name, and opens connections until it is that one's.
func (c *cluster) startDownload(to netip.AddrPort, server string) *download {
	c.t.Helper()
	for range 10 {
		conn, err := c.connect(netip.Addr{}, to)
		c.check(err)
		c.t.Cleanup(conn.close)
		got, response, err := conn.request("/large")
		c.check(err)
		if got != server {
			conn.close()
			continue
		}
		// It lasts as long as the test wants, in small steps, so that packets run all the time.
		c.check(conn.conn.SetDeadline(time.Time{}))
		c.check(conn.conn.(*net.TCPConn).SetReadBuffer(64 << 10))
		d := &download{server: got, conn: conn.conn, hurry: make(chan struct{}), done: make(chan error, 1)}
		go func() { d.done <- d.read(response.Body) }()
		return d
	}
	c.t.Fatalf("ten connections, and none with %s", server)
	return nil
}

// read reads the file, at first less than a MiB a second.
func (d *download) read(body io.Reader) error {
	var length int64
	for {
		n, err := io.CopyN(io.Discard, body, 16<<10)
		length += n
		if err == io.EOF && length == lab.LargeFileSize {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the download from %s ended after %d bytes: %w", d.server, length, err)
		}
		select {
		case <-d.hurry:
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// finish lets the download run and returns when it is complete, or its error.
func (d *download) finish() error {
	if err := d.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	close(d.hurry)
	return <-d.done
}
