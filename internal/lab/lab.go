// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"xdplb/internal/testenv"
)

// Where the cluster keeps what is not in its network namespaces.
const (
	stateDir = "/run/xdplb-lab"
	bpfDir   = stateDir + "/bpf"
)

// netnsPath is the file that names a host's network namespace.
func netnsPath(host string) string { return filepath.Join("/run/netns", Namespace(host)) }

// Lab is a cluster that is up.
type Lab struct {
	Options Options

	hosts       []*Host
	mounts      *os.File       // the mount namespace in which the cluster is seen
	deathSignal syscall.Signal // what web servers get when the thread that started them ends; 0: nothing
}

// Hosts returns the hosts from the client to the last real server.
func (l *Lab) Hosts() []*Host { return l.hosts }

// Host returns the host of that name. It panics if there is none: the names are fixed. For a name that somebody typed,
// use [Lab.Find].
func (l *Lab) Host(name string) *Host {
	h, err := l.Find(name)
	if err != nil {
		panic(err)
	}
	return h
}

// Find returns the host of that name, or an error that lists the hosts.
func (l *Lab) Find(name string) (*Host, error) {
	var names []string
	for _, h := range l.hosts {
		if h.Name == name {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return nil, &UnknownHostError{Name: name, Hosts: names}
}

// newLab computes the cluster and enters nothing yet.
func newLab(o Options) (*Lab, error) {
	mounts, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, fmt.Errorf("find own mount namespace: %w", err)
	}
	l := &Lab{Options: o, hosts: topology(o), mounts: mounts}
	for _, h := range l.hosts {
		h.lab, h.ns = l, netns.None()
	}
	return l, nil
}

// Close gives back what this process holds of the cluster, which stays up.
func (l *Lab) Close() error {
	errs := []error{l.mounts.Close()}
	for _, h := range l.hosts {
		if h.ns.IsOpen() {
			errs = append(errs, h.ns.Close())
		}
	}
	return errors.Join(errs...)
}

// Up raises the cluster. If that fails or ctx ends meanwhile, it takes away what it made. The report is called before
// each step with a few words; it may be nil. The error is an [UpError] if there is a cluster already, [ErrInterrupted]
// if there are pieces of one.
func Up(ctx context.Context, o Options, report func(step string)) (*Lab, error) {
	return raise(ctx, o, report, 0)
}

// Private raises a cluster that nobody else sees: it locks the calling goroutine to its thread and moves it into
// namespaces of its own first ([testenv.Isolate]). [Down], called from the same goroutine, takes the cluster away; so
// does the end of the process, in whichever way.
func Private(ctx context.Context, o Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	runtime.LockOSThread()
	if err := testenv.Isolate(); err != nil {
		return nil, err
	}
	return raise(ctx, o, nil, syscall.SIGKILL)
}

func raise(ctx context.Context, o Options, report func(step string), deathSignal syscall.Signal) (*Lab, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	if report == nil {
		report = func(string) {}
	}
	unlock, err := lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if found, err := readState(); err == nil {
		if found.Complete {
			return nil, &UpError{Options: found.Options}
		}
		return nil, ErrInterrupted
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := refuseForeign(o); err != nil {
		return nil, errors.Join(err, os.RemoveAll(stateDir))
	}
	l, err := newLab(o)
	if err != nil {
		return nil, err
	}
	l.deathSignal = deathSignal
	if err := l.build(ctx, report); err != nil {
		report("taking it away again")
		return nil, errors.Join(err, remove(o), l.Close())
	}
	return l, nil
}

// refuseForeign returns an error if a namespace exists that the cluster would have to make.
func refuseForeign(o Options) error {
	for _, h := range topology(o) {
		if _, err := os.Lstat(netnsPath(h.Name)); err == nil {
			return &ForeignNamespaceError{Name: Namespace(h.Name)}
		}
	}
	return nil
}

// build raises the cluster in the order: names on record, namespaces, cables, addresses, VIPs, web servers.
func (l *Lab) build(ctx context.Context, report func(string)) error {
	// First, so that Down knows what to look for, however far this gets.
	if err := writeState(state{Options: l.Options}); err != nil {
		return err
	}
	if err := mountBPF(); err != nil {
		return err
	}
	steps := []struct {
		what string
		do   func(*Host) error
	}{
		{"making the namespace of", (*Host).create},
		{"plugging in", l.connect},
		{"configuring", (*Host).configure},
		{"setting up as a real server", func(h *Host) error {
			if h.Role != RoleReal || l.Options.Bare {
				return nil
			}
			return h.becomeRealServer(l.Options)
		}},
	}
	for _, step := range steps {
		for _, h := range l.hosts {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("raise the cluster: %w", err)
			}
			report(step.what + " " + h.Name)
			if err := step.do(h); err != nil {
				return err
			}
		}
	}
	if l.Options.ARP == ARPStatic {
		if err := l.fixVIP(); err != nil {
			return err
		}
	}
	if l.Options.WebServers {
		report("starting the web servers")
		if err := l.startWebServers(ctx); err != nil {
			return err
		}
	}
	return writeState(state{Options: l.Options, Complete: true})
}

// create makes the host's network namespace.
func (h *Host) create() error {
	err := h.lab.thread(func() error {
		ns, err := netns.NewNamed(Namespace(h.Name))
		if err != nil {
			return fmt.Errorf("make network namespace %s: %w", Namespace(h.Name), err)
		}
		h.ns = ns
		return nil
	})
	if err != nil {
		return err
	}
	if err := h.prepare(h.lab.Options.IPv6); err != nil {
		return fmt.Errorf("prepare network namespace of %s: %w", h.Name, err)
	}
	if h.Role == RoleSwitch {
		return h.makeBridge()
	}
	return nil
}

// connect plugs the host's interfaces into their switches, and the client's into the router.
func (l *Lab) connect(h *Host) error {
	var xdp *ebpf.Program
	if h.Role == RoleDirector {
		var err error
		if xdp, err = passProgram(); err != nil {
			return err
		}
		defer xdp.Close()
	}
	for _, i := range h.Interfaces {
		switch {
		case i.Switch != "":
			plug := l.Host(i.Switch)
			if err := h.plug(i, plug, h.Name, nil); err != nil {
				return err
			}
			if err := plug.openPort(h.Name, xdp); err != nil {
				return err
			}
		case h.Role == RoleClient:
			router := l.Host("router")
			peer := router.Interfaces[0]
			if err := h.plug(i, router, peer.Name, peer.MAC); err != nil {
				return err
			}
		}
	}
	return nil
}

// Open returns the cluster that is up, or [ErrDown] or [ErrInterrupted].
func Open() (*Lab, error) {
	found, err := readState()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrDown
	}
	if err != nil {
		return nil, err
	}
	if !found.Complete {
		return nil, ErrInterrupted
	}
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	l, err := newLab(found.Options)
	if err != nil {
		return nil, err
	}
	for _, h := range l.hosts {
		if h.ns, err = netns.GetFromName(Namespace(h.Name)); err != nil {
			return nil, errors.Join(fmt.Errorf("open network namespace of %s: %w", h.Name, err), l.Close())
		}
	}
	return l, nil
}

// Down takes the cluster away: the processes on its hosts, whoever started them, its network namespaces, pins and
// files. It also takes away what an interrupted [Up] or Down left. The error is [ErrDown] if there is nothing.
func Down() error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	if _, err := os.Stat(stateDir); errors.Is(err, fs.ErrNotExist) {
		return ErrDown
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	found, err := readState()
	if errors.Is(err, fs.ErrNotExist) {
		// Up had not got so far as to make anything.
		return os.RemoveAll(stateDir)
	}
	if err != nil {
		return err
	}
	return remove(found.Options)
}

// remove takes away everything that a cluster with these options can have.
func remove(o Options) error {
	if inside, host := insideCluster(o); inside {
		return &InsideError{Host: host}
	}
	var names []string
	for _, h := range topology(o) {
		names = append(names, h.Name)
	}
	if err := endProcesses(names); err != nil {
		return err
	}
	if err := forgetRealServers(o); err != nil {
		return err
	}
	for _, name := range names {
		if err := deleteNamespace(netnsPath(name)); err != nil {
			return err
		}
	}
	if err := unmount(bpfDir); err != nil {
		return err
	}
	if err := os.RemoveAll(stateDir); err != nil {
		return fmt.Errorf("remove %s: %w", stateDir, err)
	}
	return nil
}

// deleteNamespace takes away the name of a namespace, which may be there, be an empty file, or not be there.
func deleteNamespace(path string) error {
	if err := unmount(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete network namespace: %w", err)
	}
	return nil
}

// unmount unmounts what is mounted there, if anything.
func unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// insideCluster tells whether this process would be ended with the cluster's.
func insideCluster(o Options) (bool, string) {
	own, err := statNamespace("/proc/self/ns/net")
	if err != nil {
		return false, ""
	}
	for _, h := range topology(o) {
		if id, err := statNamespace(netnsPath(h.Name)); err == nil && id == own {
			return true, h.Name
		}
	}
	return false, ""
}

// mountBPF gives the cluster a BPF filesystem of its own, so that all pins of its directors go with it.
func mountBPF() error {
	if err := os.Mkdir(bpfDir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("bpf", bpfDir, "bpf", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount BPF filesystem on %s: %w", bpfDir, err)
	}
	return nil
}
