// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"xdplb/internal/lab"
)

func upCommand(env *environment) *cobra.Command {
	o := lab.Options{WebServers: true}
	arp := string(lab.ARPSysctl)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Raise the cluster",
		Long: `Raise the cluster, show it, and say what to type next. The real servers hold the VIP and serve pages; on the
director nothing is set up.

--arp says what keeps the router from learning a real server's MAC address for the VIP: sysctl (arp_ignore and
arp_announce on the real servers), filter (an nftables arp filter on them), static (a permanent entry on the router),
or none, to see what happens then.`,
		Example: `  xdplb-lab up
  xdplb-lab up --backends 5 --ipv6
  xdplb-lab up --arp none`,
		Args: noArguments,
		PreRunE: func(*cobra.Command, []string) (err error) {
			if o.ARP, err = lab.ParseARPMode(arp); err != nil {
				return fmt.Errorf("--arp %q: %w", arp, err)
			}
			if o.Backends < 1 || o.Backends > lab.MaxBackends {
				return fmt.Errorf("--backends %d: want 1 to %d", o.Backends, lab.MaxBackends)
			}
			if o.Directors < 1 || o.Directors > 2 {
				return fmt.Errorf("--directors %d: want 1 or 2", o.Directors)
			}
			return nil
		},
		RunE: env.action(func([]string) error { return env.up(o) }),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVar(&o.Backends, "backends", 2, "`N` real servers")
	flags.IntVar(&o.Directors, "directors", 1, "`N` directors, 1 or 2")
	flags.BoolVar(&o.LocalNodes, "local-nodes", false, "let the directors serve pages too, as backends of their own")
	flags.BoolVar(&o.IPv6, "ipv6", false, "give every host IPv6 addresses beside the IPv4 ones")
	flags.StringVar(&arp, "arp", arp, "keep the VIP's ARP entry with the director by `MODE`: static, sysctl, filter or none")
	return cmd
}

func (env *environment) up(o lab.Options) error {
	if _, err := exec.LookPath("nginx"); err != nil {
		return fmt.Errorf("the real servers need nginx: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	l, err := lab.Up(ctx, o, slowly(env.stderr))
	var up *lab.UpError
	if errors.As(err, &up) && up.Options == o {
		fmt.Fprintln(env.stderr, up)
		l, err = lab.Open()
	}
	if err != nil {
		return err
	}
	defer l.Close()
	if err := printTopology(env.stdout, l); err != nil {
		return err
	}
	return env.printNextSteps(l)
}

// slowly returns a function that prints steps once two seconds are over, and then one a second.
func slowly(w io.Writer) func(step string) {
	next := time.Now().Add(2 * time.Second)
	return func(step string) {
		if now := time.Now(); now.After(next) {
			next = now.Add(time.Second)
			fmt.Fprintf(w, "xdplb-lab: still at it: %s\n", step)
		}
	}
}

// printNextSteps says what to type.
func (env *environment) printNextSteps(l *lab.Lab) error {
	director := l.Host("director")
	attached, err := director.XDP("eth0")
	if err != nil {
		return err
	}
	page := fmt.Sprintf("curl http://%s/", lab.VIP)
	if attached.Program == "" {
		setUp := []string{"xdplb attach eth0", fmt.Sprintf("xdplb service add %s:80 --scheduler rr", lab.VIP)}
		for _, name := range []string{"real1", "real2"}[:min(2, l.Options.Backends)] {
			setUp = append(setUp, fmt.Sprintf("xdplb backend add %s", l.Host(name).Addr()))
		}
		fmt.Fprintf(env.stdout, "\nNothing is set up on the director yet. Make it balance:\n\n")
		env.printCommands("director", setUp...)
		fmt.Fprintf(env.stdout, "\nThen ask for a page:\n\n")
		env.printCommands("client", page)
	}
	if l.Options.ARP != lab.ARPNone {
		return nil
	}
	fmt.Fprintf(env.stdout, `
Nothing keeps the real servers from answering ARP for the VIP. To see one take it away from the director, make the
router forget whose it is, ask for a page, and look whose MAC address the router has for it now. The director's is
%s.

`, director.Interfaces[0].MAC)
	env.printCommands("router", fmt.Sprintf("ip neigh flush to %s dev eth1", lab.VIP))
	env.printCommands("client", page)
	env.printCommands("router", fmt.Sprintf("ip neigh show %s", lab.VIP))
	return nil
}

// printCommands prints commands to be run on a host.
func (env *environment) printCommands(host string, commands ...string) {
	for _, command := range commands {
		fmt.Fprintf(env.stdout, "  %s exec %s -- %s\n", env.program, host, command)
	}
}
