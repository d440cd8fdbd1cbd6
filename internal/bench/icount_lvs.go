// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"xdplb/internal/lb"
)

// stack is the kernel's own way from one interface to another. Frames come in as from a network card's driver, which
// makes socket buffers of them in NAPI, with GRO; they go out to neighbours whose MAC addresses are known for good, and
// the other end throws them away because they are another host's.
type stack struct {
	in, out uplink
}

func newStack() (*stack, error) {
	in, err := addUplink("stack", "stacknet")
	if err != nil {
		return nil, err
	}
	out, err := addUplink("out", "outnet")
	if err != nil {
		return nil, err
	}
	s := &stack{in, out}
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("opening ethtool: %w", err)
	}
	defer tool.Close()
	// With GRO a veth has NAPI, without which it takes no frames from XDP.
	if err := tool.Change("stack", map[string]bool{"rx-gro": true}); err != nil {
		return nil, fmt.Errorf("switching GRO on: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return nil, fmt.Errorf("switching forwarding on: %w", err)
	}
	if err := s.addNeighbours(); err != nil {
		return nil, err
	}
	return s, addAddress(in.link, growVIPs[lb.RR], 32)
}

// addNeighbours makes the real servers known.
func (s *stack) addNeighbours() error {
	if err := addAddress(s.out.link, netip.MustParseAddr("192.0.2.254"), 24); err != nil {
		return err
	}
	for i, addr := 0, icountReal; i < Backends; i, addr = i+1, addr.Next() {
		err := netlink.NeighAdd(&netlink.Neigh{
			LinkIndex: s.out.ifindex(), State: unix.NUD_PERMANENT,
			IP: addr.AsSlice(), HardwareAddr: icountMAC[:],
		})
		if err != nil {
			return fmt.Errorf("adding neighbour %s: %w", addr, err)
		}
	}
	return nil
}

func addAddress(to netlink.Link, addr netip.Addr, bits int) error {
	prefix := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
	if err := netlink.AddrAdd(to, &netlink.Addr{IPNet: prefix}); err != nil {
		return fmt.Errorf("adding address %s to %s: %w", addr, to.Attrs().Name, err)
	}
	return nil
}

// cases begins with plain forwarding, since LVS's hooks are there from its first service on.
func (s *stack) cases(road *road) []*Case {
	forward := road.newCase("forward", "the kernel's forwarding", icountClient,
		netip.AddrPortFrom(icountReal, 80), tcpACK)
	forward.Tuple.Flows = icountFlows
	hit := road.hit(lvsHit, "LVS in DR mode, rr, established flow", lb.RR)
	open := hit.Prepare
	hit.Prepare = func() error {
		if err := addLVS(); err != nil {
			return err
		}
		return open()
	}
	return []*Case{
		forward,
		hit,
		road.fresh(lvsNew, "LVS in DR mode, rr, new flow", lb.RR),
	}
}

// addLVS gives LVS its services.
func addLVS() error {
	var rules strings.Builder
	for port := 1; port <= icountServices; port++ {
		service := growService(lb.RR, port).Addr
		fmt.Fprintf(&rules, "-A -t %s -s rr\n", service)
		for i, addr := 0, icountReal; i < Backends; i, addr = i+1, addr.Next() {
			fmt.Fprintf(&rules, "-a -t %s -r %s -g -w 1\n", service, addr)
		}
	}
	command := exec.Command("ipvsadm", "--restore")
	command.Stdin = strings.NewReader(rules.String())
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("running ipvsadm: %w: %s", err, output)
	}
	return nil
}

// verify checks that LVS scheduled each flow once and saw each packet.
func (s *stack) verify() error {
	// net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_stats_percpu_show: two lines of heads, then a CPU's number and counters in
	// hexadecimal. The totals at the end are up to two seconds old.
	text, err := os.ReadFile("/proc/thread-self/net/ip_vs_stats_percpu")
	if err != nil {
		return fmt.Errorf("reading LVS's counters: %w", err)
	}
	lines := strings.SplitN(string(text), "\n", 4)
	if len(lines) < 4 {
		return fmt.Errorf("reading LVS's counters: %q", text)
	}
	fields := strings.Fields(lines[2])
	want := []uint64{icountOpened, 2 * icountOpened}
	for i, name := range []string{"connections", "packets"} {
		if i+1 >= len(fields) {
			return fmt.Errorf("reading LVS's counters: no %s in %q", name, text)
		}
		have, err := strconv.ParseUint(fields[i+1], 16, 64)
		if err != nil {
			return fmt.Errorf("reading LVS's counters: %w", err)
		}
		if have != want[i] {
			return fmt.Errorf("LVS counted %d %s, of %d", have, name, want[i])
		}
	}
	return nil
}
