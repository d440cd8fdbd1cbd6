// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"xdplb/internal/lab"
)

func demoCommand(env *environment) *cobra.Command {
	var binary string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Walk through the reference cluster aloud",
		Long: `Raise a cluster of its own, set xdplb up on it, and show and check what comes out: each command that it runs, and
what LVS's operator would have typed. Nothing stays, however it ends, and a cluster that is "up" is not touched. Exit
status 0 only if everything that it showed is right.`,
		Args: noArguments,
		RunE: env.action(func([]string) error { return env.demo(binary) }),
	}
	cmd.Flags().StringVar(&binary, "xdplb", "", "`PATH` of the xdplb to show (default: the one beside xdplb-lab)")
	return cmd
}

// demo is a walk that has begun.
type demo struct {
	ctx     context.Context
	lab     *lab.Lab
	program string // directory of the xdplb to show
	voice   voice
}

// demo shows the steps one after the other and takes the cluster down after the last, or after the first that is wrong.
func (env *environment) demo(binary string) (err error) {
	directory, err := findProgram(binary)
	if err != nil {
		return err
	}
	for _, need := range []string{"nginx", "curl", "ip", "ping"} {
		if _, err := exec.LookPath(need); err != nil {
			return fmt.Errorf("the demo needs %s: %w", need, err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	d := &demo{ctx: ctx, program: directory, voice: newVoice(env.stdout)}
	start := time.Now()
	d.voice.heading("The reference cluster: every host is a network namespace, the director's XDP is native")
	if d.lab, err = lab.Private(ctx, lab.Options{WebServers: true, Bare: true}); err != nil {
		return err
	}
	defer func() {
		d.voice.heading("Taking everything down")
		err = errors.Join(err, lab.Down(), d.lab.Close())
		if err == nil {
			d.voice.right("all of it was right, in %.1f s", time.Since(start).Seconds())
			d.voice.say("to play with the same cluster: %s up", env.program)
		}
	}()
	if err := printTopology(env.stdout, d.lab); err != nil {
		return err
	}
	for _, step := range demoSteps() {
		d.voice.heading(step.title)
		if err := step.do(d); err != nil {
			if ctx.Err() != nil || isInterrupt(err) {
				err = errors.New("interrupted")
			}
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	return nil
}

// isInterrupt says whether a command was ended by the terminal, whose signal goes to all that the demo has started and may
// reach a command before the demo itself.
func isInterrupt(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGINT
}

// findProgram returns the directory of the xdplb to show.
func findProgram(binary string) (string, error) {
	if binary == "" {
		own, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find xdplb: %w", err)
		}
		binary = filepath.Join(filepath.Dir(own), "xdplb")
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		return "", fmt.Errorf("find xdplb: %w", err)
	}
	if filepath.Base(binary) != "xdplb" {
		return "", fmt.Errorf("%s: the program must be named xdplb, as the demo's commands say", binary)
	}
	if _, err := exec.LookPath(binary); err != nil {
		return "", fmt.Errorf("find xdplb: %w", err)
	}
	return filepath.Dir(binary), nil
}

// run shows a command line, runs it on the host, shows what it says, and returns its standard output.
func (d *demo) run(host, line string) (string, error) {
	d.voice.command(host, line)
	words := strings.Fields(line)
	cmd := d.lab.Host(host).Command(d.ctx, words[0], words[1:]...)
	cmd.Env = append(cmd.Env, "PATH="+d.program+string(os.PathListSeparator)+os.Getenv("PATH"))
	var talk strings.Builder
	cmd.Stderr = &talk
	out, err := cmd.Output()
	d.voice.output(talk.String() + string(out))
	if err != nil {
		return "", fmt.Errorf("%q on %s: %w", line, host, err)
	}
	return string(out), nil
}

// runAll runs several command lines on a host.
func (d *demo) runAll(host string, lines ...string) error {
	for _, line := range lines {
		if _, err := d.run(host, line); err != nil {
			return err
		}
	}
	return nil
}
