// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"xdplb/internal/neigh"
)

// Host is one host of the cluster: a network namespace.
type Host struct {
	Name       string
	Role       Role
	Interfaces []Interface

	gateways []netip.Addr
	lab      *Lab
	ns       netns.NsHandle
}

// Namespace returns the name that the network namespace of a host has for `ip netns`.
func Namespace(host string) string { return "xdplb-" + host }

// Interface returns the interface of that name.
func (h *Host) Interface(name string) (Interface, bool) {
	for _, i := range h.Interfaces {
		if i.Name == name {
			return i, true
		}
	}
	return Interface{}, false
}

// Addr returns the host's first IPv4 address: the DIP, the RIP. It is the zero Addr for a switch.
func (h *Host) Addr() netip.Addr { return h.firstAddr(netip.Addr.Is4) }

// Addr6 returns the host's first IPv6 address, or the zero Addr.
func (h *Host) Addr6() netip.Addr { return h.firstAddr(netip.Addr.Is6) }

func (h *Host) firstAddr(family func(netip.Addr) bool) netip.Addr {
	for _, i := range h.Interfaces {
		for _, prefix := range i.Addresses {
			if family(prefix.Addr()) {
				return prefix.Addr()
			}
		}
	}
	return netip.Addr{}
}

// PinDir is where xdplb on this host pins; commands started by [Host.Command] find it in XDPLB_PIN_DIR. It is on a BPF
// filesystem and does not exist until xdplb makes it.
func (h *Host) PinDir() string { return filepath.Join(bpfDir, h.Name) }

// Environ lists the variables that commands on this host get beside the caller's.
func (h *Host) Environ() []string {
	// No host of the cluster reaches the proxy that the caller may have.
	return []string{"XDPLB_LAB_HOST=" + h.Name, "XDPLB_PIN_DIR=" + h.PinDir(), "no_proxy=*", "NO_PROXY=*"}
}

// Do runs f on a thread of its own inside the host's network namespace, and in the mount namespace of the lab. It may
// be called from any goroutine. Goroutines started by f run outside: use the host's dialler and HTTP client.
func (h *Host) Do(f func() error) error {
	return h.lab.thread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return fmt.Errorf("enter network namespace of %s: %w", h.Name, err)
		}
		return f()
	})
}

// thread runs f on a thread of its own in the mount namespace in which the lab was made.
func (l *Lab) thread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread stands for the process under /proc, and does not end before it. While this goroutine
			// holds it, another one gets another.
			done <- l.thread(f)
			runtime.UnlockOSThread()
			return
		}
		// Else never unlocked: the thread leaves the namespaces of the others, and ends with the goroutine.
		err := errors.New("the function in the lab's namespace did not return")
		defer func() { done <- err }()
		if err = l.enterMounts(); err == nil {
			err = f()
		}
	}()
	return <-done
}

// enterMounts moves the thread into the lab's mount namespace, unless it is there. The working directory stays, by
// name.
func (l *Lab) enterMounts() error {
	var here, there unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/mnt", &here); err != nil {
		return fmt.Errorf("find own mount namespace: %w", err)
	}
	if err := unix.Fstat(int(l.mounts.Fd()), &there); err != nil {
		return fmt.Errorf("find the lab's mount namespace: %w", err)
	}
	if here.Dev == there.Dev && here.Ino == there.Ino {
		return nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find working directory: %w", err)
	}
	// A thread that shares its working directory with others may not change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare working directory: %w", err)
	}
	if err := unix.Setns(int(l.mounts.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the lab's mount namespace: %w", err)
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("go back to %s: %w", dir, err)
	}
	return nil
}

// Command prepares a command that runs on the host, with [Host.Environ]. It changes only the network namespace (`ip
// netns exec` would hide the caller's /sys and with it the pins); the mount namespace is that of the goroutine that
// starts it, which in a test is the test's own. A command that is not found exits with 127.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--net=" + netnsPath(h.Name), "--", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = append(os.Environ(), h.Environ()...)
	return cmd
}

// Run runs a command on the host and returns what it wrote to standard output. The error holds what it wrote to
// standard error.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := h.Command(ctx, name, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), fmt.Errorf("%s on %s: %w: %s", name, h.Name, err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return string(out), fmt.Errorf("%s on %s: %w", name, h.Name, err)
	}
	return string(out), nil
}

// DialContext connects from the host; it is a net.Dialer's method inside the namespace. The address is numeric.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := h.Do(func() error {
		var err error
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens on the host. Name the family (tcp4, tcp6): Go asks only once per process which families there are.
func (h *Host) Listen(network, address string) (net.Listener, error) {
	var listener net.Listener
	err := h.Do(func() error {
		var err error
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}

// ListenPacket listens for datagrams on the host (udp4, udp6).
func (h *Host) ListenPacket(network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := h.Do(func() error {
		var err error
		conn, err = net.ListenPacket(network, address)
		return err
	})
	return conn, err
}

// HTTPClient returns a client on the host that makes a new connection for each request and gives up after ten seconds.
func (h *Host) HTTPClient() *http.Client {
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DialContext: h.DialContext, DisableKeepAlives: true},
	}
}

// Get fetches a URL with a numeric address on a new connection and returns the body; a status other than 200 is an
// error.
func (h *Host) Get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	response, err := h.HTTPClient().Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get %s: %s", url, response.Status)
	}
	return string(body), nil
}

// SetSysctl writes a variable under /proc/sys, named with slashes ("net/ipv4/ip_forward"), in the host's network
// namespace.
func (h *Host) SetSysctl(name, value string) error {
	return h.Do(func() error { return writeSysctl(name, value) })
}

// writeSysctl writes a variable of the thread's network namespace.
func writeSysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

// Addresses returns the addresses that the kernel has now on an interface of the host, sorted, without link-local ones.
func (h *Host) Addresses(iface string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	err := h.Do(func() error {
		all, err := neigh.Addresses()
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		for _, address := range all {
			if address.Interface == iface && !address.Prefix.Addr().IsLinkLocalUnicast() {
				prefixes = append(prefixes, address.Prefix)
			}
		}
		return nil
	})
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return prefixes, err
}

// AddAddress puts an address on an interface of the host; IPv6 ones skip duplicate address detection.
func (h *Host) AddAddress(iface string, address netip.Prefix) error {
	return h.Do(func() error {
		link, err := netlink.LinkByName(iface)
		if err != nil {
			return fmt.Errorf("find %s on %s: %w", iface, h.Name, err)
		}
		return addAddress(link, address)
	})
}

// DeleteAddress takes an address off an interface of the host.
func (h *Host) DeleteAddress(iface string, address netip.Prefix) error {
	return h.Do(func() error {
		link, err := netlink.LinkByName(iface)
		if err != nil {
			return fmt.Errorf("find %s on %s: %w", iface, h.Name, err)
		}
		if err := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(address)}); err != nil {
			return fmt.Errorf("delete address %s of %s on %s: %w", address, iface, h.Name, err)
		}
		return nil
	})
}
