// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
	"xdplb/internal/testenv"
)

// persistentLVS is a world of the kernel's own LVS with a persistent service of rr and three real servers.
func persistentLVS(t *testing.T, d *rig, at netip.AddrPort, protocol lb.Protocol, options string) *lvsWorld {
	t.Helper()
	w := d.newLVSWorld(t, lb.RR, protocol, rand.New(rand.NewPCG(1, 1)))
	d.forgetClients()
	w.at = at
	w.real = newRealLVS(t, w)
	for range 3 {
		w.add(1)
	}
	w.real.addServers(w.service.dests)
	w.real.ipvsadm("-E %s -s rr -p 360 %s", w.real.service, options)
	return w
}

// bothSend sends a datagram of a client through LVS and through the program, which must agree where it goes.
func (w *lvsWorld) bothSend(t *testing.T, when string, client byte, port uint16) (to int) {
	t.Helper()
	to, got := w.sendBoth(frame(ip4(from4(persistentClient(client)), to4(w.at.Addr())), udpFrom(port, w.at.Port())))
	if got != to {
		t.Errorf("%s: client %d, port %d: xdplb sends it to %d, LVS to %d", when, client, port, got, to)
	}
	return to
}

// sendBoth returns the numbers of the real servers, -1 for none.
func (w *lvsWorld) sendBoth(in []byte) (lvs, xdplb int) {
	lvs = w.real.send(in)
	if action, out := w.run(in); action == xdpTX {
		return lvs, int(out[5])
	}
	return lvs, -1
}

func persistentClient(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 7, 0, n}) }

// TestRealLVSPersistence compares with the kernel's own LVS what a template is worth where its real server has reached its
// threshold, or is quiesced, and with one-packet scheduling.
func TestRealLVSPersistence(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Command("/usr/sbin/ipvsadm"))
	testenv.RequireLVS(t)
	d := newRig(t, tableOf(8*flowBuckets, spillBuckets))
	at := netip.AddrPortFrom(vip4, portPlain)
	t.Run("thresholds", func(t *testing.T) {
		w := persistentLVS(t, d, at, lb.UDP, "")
		d.publish(persistent(sixMinutes, 32, 128, limitedService(t, lb.RR, 0, w.reals))...)
		w.real.ipvsadm("%s", w.real.rule("-e", 0, &lvsDest{weight: 1, upper: 3, lower: 1}))
		d.setLimit(w.reals[0], 3, 1)
		for port := range uint16(5) {
			if to := w.bothSend(t, "a client with a template", 1, 2000+port); to != 0 {
				t.Errorf("connection %d goes to %d: this test shows nothing", port, to)
			}
		}
		for client := range byte(6) {
			if to := w.bothSend(t, "others", 2+client, 2000); to == 0 {
				t.Error("another client goes to the full real server: this test shows nothing")
			}
		}
		w.bothSend(t, "again", 1, 3000)
	})
	t.Run("one packet", func(t *testing.T) {
		w := persistentLVS(t, d, at, lb.UDP, "-o")
		services := persistent(sixMinutes, 32, 128, udpService(at.String(), xdplbSchedulerSCHEDULER_RR, w.reals...))
		services[0].onePacket = true
		d.publish(services...)
		for port := range uint16(3) {
			for client := range byte(4) {
				w.bothSend(t, "all take flows", 1+client, 2000+port)
			}
		}
		for i, id := range w.reals {
			w.real.ipvsadm("%s", w.real.rule("-e", i, &lvsDest{}))
			d.weigh(id, 0)
		}
		services[0].slots = nil
		d.publish(services...)
		for client := range byte(6) { // of which the first four have a template
			if to := w.bothSend(t, "all are quiesced", 1+client, 3000); (to < 0) != (client >= 4) {
				t.Errorf("client %d goes to %d: this test shows nothing", client, to)
			}
		}
	})
}

// TestRealLVSQuiesced compares where packets of connections and of clients go whose real server has weight 0, with LVS's
// sysctls that say the same as xdplb does or can.
func TestRealLVSQuiesced(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Command("/usr/sbin/ipvsadm"))
	testenv.RequireLVS(t)
	d := newRig(t, tableOf(8*flowBuckets, spillBuckets))
	at := netip.AddrPortFrom(vip4, portPlain)
	for _, tt := range []struct {
		name, options, sysctl string
		persists              uint32
		syn, another          bool // go to the quiesced real server: a SYN of its connection again, and the client's next one
	}{
		{"not persistent", "", "expire_nodest_conn", 0, false, false},
		{"persistent by /24", "-p 360 -M 255.255.255.0", "expire_nodest_conn", sixMinutes, true, true},
		{"persistent, which ends", "-p 360", "expire_quiescent_template", sixMinutes | expiresQuiescent, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := persistentLVS(t, d, at, lb.TCP, "")
			w.real.ipvsadm("-E %s -s rr %s", w.real.service, tt.options)
			w.real.check(os.WriteFile("/proc/sys/net/ipv4/vs/expire_nodest_conn", []byte("1"), 0o644))
			w.real.check(os.WriteFile("/proc/sys/net/ipv4/vs/"+tt.sysctl, []byte("1"), 0o644))
			services := persistent(tt.persists, 24, 64, tcpService(at.String(), xdplbSchedulerSCHEDULER_RR, w.reals...))
			d.publish(services...)
			client := persistentClient(1)
			send := func(client netip.Addr, port uint16, flags tcpFlags) (lvs, xdplb bool) {
				to, got := w.sendBoth(frame(ip4(from4(client), to4(vip4)), tcp(port, portPlain, flags)))
				return to == 0, got == 0
			}
			want := func(when string, want bool, client netip.Addr, port uint16, flags tcpFlags) {
				t.Helper()
				if lvs, xdplb := send(client, port, flags); lvs != want || xdplb != want {
					t.Errorf("%s: to the first real server: LVS %v, xdplb %v, want %v", when, lvs, xdplb, want)
				}
			}
			open, later := tcpFlags{syn: true}, tcpFlags{ack: true}
			want("first", true, client, 2000, open)
			want("first", true, client, 2000, later)
			w.real.ipvsadm("%s", w.real.rule("-e", 0, &lvsDest{}))
			d.weigh(w.reals[0], 0)
			services[0].slots = w.reals[1:]
			d.publish(services...)
			want("established", true, client, 2000, later)
			want("another connection", tt.another, client, 2001, open)
			if tt.options != "-p 360" {
				want("of its network", tt.another, persistentClient(2), 2000, open)
			}
			want("SYN again", tt.syn, client, 2000, open)
			want("its answer", tt.syn, client, 2000, later)
		})
	}
}

// TestRealLVSFTP shows that LVS does what TestPorts and TestActiveFTP want of a persistent service of port 21.
func TestRealLVSFTP(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Command("/usr/sbin/ipvsadm"))
	testenv.RequireLVS(t)
	w := persistentLVS(t, newRig(t), netip.AddrPortFrom(vip4, 21), lb.TCP, "")
	for client := range byte(4) {
		for _, in := range []struct {
			port  uint16
			flags tcpFlags
		}{
			{21, tcpFlags{syn: true}}, {50000, tcpFlags{syn: true}}, {1024, tcpFlags{syn: true}},
			{65535, tcpFlags{syn: true}}, {20, tcpFlags{syn: true, ack: true}},
		} {
			to := w.real.send(frame(ip4(from4(persistentClient(client)), to4(vip4)), tcp(2000, in.port, in.flags)))
			if want := int(client) % 3; to != want {
				t.Errorf("client %d, port %d: to %d, want %d", client, in.port, to, want)
			}
		}
	}
	text, err := os.ReadFile("/proc/thread-self/net/ip_vs_conn")
	w.real.check(err)
	templates := 0
	w.real.check(ipvsadm.ReadConnections(bytes.NewReader(text), func(_ int, text string, c ipvsadm.Connection, err error) {
		w.real.check(err)
		if c.Client.Port() != 0 {
			return
		}
		templates++
		if c.VIP.Port() != 0 {
			t.Errorf("a template is %s, want one of port 0", text)
		}
	}))
	if templates != 4 {
		t.Errorf("there are %d templates, want 4", templates)
	}
}
