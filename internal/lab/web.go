// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// webServer is the program on the real servers.
const webServer = "nginx"

// LargeFileSize is the length in bytes of the file /large that every web server has. Its bytes are zero.
const LargeFileSize = 64 << 20

// nginxConfig is one real server's. Arguments: the host's directory, its name, the IPv6 listen lines. One process does
// all, so that there is one to end. Every answer has the header Real-Server with the host's name. GET / tells the
// host's name; GET /large is for transfers to the client; POST /upload takes a body and tells the host's name and the
// body's length, through a second server because nginx answers before the body is there otherwise.
const nginxConfig = `daemon off;
master_process off;
worker_processes 1;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events { worker_connections 4096; }
http {
	access_log off;
	default_type text/plain;
	sendfile on;
	client_max_body_size 0;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen 80 backlog=1024;
		%[3]s
		server_name _;
		add_header Real-Server %[2]s always;
		location / { return 200 "%[2]s\n"; }
		location = /large { alias %[1]s/large; }
		location = /upload { proxy_pass http://127.0.0.1:8080; }
	}
	server {
		listen 127.0.0.1:8080;
		return 200 "%[2]s $content_length\n";
	}
}
`

// startWebServers starts nginx on every host that is to serve, and waits until each accepts connections.
func (l *Lab) startWebServers(ctx context.Context) error {
	var reals []*Host
	for _, h := range l.hosts {
		if h.Role == RoleReal || h.Role == RoleDirector && l.Options.LocalNodes {
			reals = append(reals, h)
		}
	}
	for _, h := range reals {
		if err := h.startWebServer(ctx, l.Options.IPv6); err != nil {
			return fmt.Errorf("start web server on %s: %w", h.Name, err)
		}
	}
	for _, h := range reals {
		if err := h.awaitWebServer(ctx); err != nil {
			return fmt.Errorf("start web server on %s: %w", h.Name, err)
		}
	}
	return nil
}

// dir is where the host keeps files.
func (h *Host) dir() string { return filepath.Join(stateDir, h.Name) }

// startWebServer starts nginx, which ends with the lab.
func (h *Host) startWebServer(ctx context.Context, ipv6 bool) error {
	dir := h.dir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	large, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		return err
	}
	defer large.Close()
	if err := large.Truncate(LargeFileSize); err != nil {
		return err
	}
	listen6 := ""
	if ipv6 {
		listen6 = "listen [::]:80 ipv6only=on backlog=1024;"
	}
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, h.Name, listen6), 0o644); err != nil {
		return err
	}
	errors, err := os.Create(filepath.Join(dir, "error.log"))
	if err != nil {
		return err
	}
	defer errors.Close()
	// Not ctx: it ends with the raising of the cluster.
	cmd := h.Command(context.WithoutCancel(ctx), webServer, "-p", dir, "-c", config)
	cmd.Stderr = errors
	// A session of its own: the terminal's Ctrl-C is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: h.lab.deathSignal}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		// Nobody asks how it ended: a web server that does not run is seen by its silence.
		_ = cmd.Wait()
	}()
	return nil
}

// awaitWebServer returns when the host's nginx accepts connections.
func (h *Host) awaitWebServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		conn, err := h.DialContext(ctx, "tcp4", netip.AddrPortFrom(h.Addr(), 80).String())
		if err == nil {
			return conn.Close()
		}
		log, readErr := os.ReadFile(filepath.Join(h.dir(), "error.log"))
		if text := strings.TrimSpace(string(log)); text != "" {
			return fmt.Errorf("nginx says: %s", text)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || readErr != nil {
			return errors.Join(err, readErr)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not listening: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// StopWebServer ends the host's nginx at once, as a crash would: connections are reset or forgotten.
func (h *Host) StopWebServer() error {
	return h.kill(func(p process) bool { return p.name == webServer })
}

// StartWebServer starts nginx on a real server whose own was stopped.
func (h *Host) StartWebServer(ctx context.Context) error {
	if err := h.startWebServer(ctx, h.lab.Options.IPv6); err != nil {
		return fmt.Errorf("start web server on %s: %w", h.Name, err)
	}
	if err := h.awaitWebServer(ctx); err != nil {
		return fmt.Errorf("start web server on %s: %w", h.Name, err)
	}
	return nil
}
