// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"xdplb/internal/datapath"
	"xdplb/internal/lb"
	"xdplb/internal/output"
)

// environment is what a command acts in and on.
type environment struct {
	ctx    context.Context // ends at the first SIGINT or SIGTERM
	stdin  io.Reader
	stdout *output.Writer
	stderr io.Writer
	pinDir string
	netns  string // name of a network namespace, "": the one that xdplb was started in
	begun  bool   // the command line was right and the command has begun
}

// action makes a cobra RunE of a command's own function.
func (env *environment) action(do func(args []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		env.begun = true
		if env.netns != "" {
			if err := enterNamespace(env.netns); err != nil {
				return err
			}
		}
		return do(args)
	}
}

// enterNamespace moves the calling goroutine, for the rest of its life, into a network namespace, and only that: with
// the /sys of the namespace, as "ip netns exec" mounts it, the pins would vanish with the command.
func enterNamespace(name string) error {
	path := "/run/netns/" + name
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no network namespace %s", name)
	}
	if err != nil {
		return fmt.Errorf("entering network namespace %s: opening %s: %w", name, path, err)
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering network namespace %s: %w", name, err)
	}
	return nil
}

// concurrently calls do from a goroutine of its own in the command's network namespace, which new goroutines are not
// in by themselves.
func (env *environment) concurrently(do func() error) func() error {
	if env.netns == "" {
		return do
	}
	return func() error {
		if err := enterNamespace(env.netns); err != nil {
			return err
		}
		return do()
	}
}

// view reads the pins through do, under the shared lock.
func (env *environment) view(do func(*datapath.Datapath) error) error {
	dp, err := datapath.Open(env.pinDir)
	if err != nil {
		return err
	}
	defer dp.Close()
	return do(dp)
}

// snapshot returns the live state and the attached interfaces.
func (env *environment) snapshot() (state lb.State, attached interfaces, err error) {
	err = env.view(func(dp *datapath.Datapath) error {
		if state, err = dp.Snapshot(); err != nil {
			return err
		}
		attached, err = dp.Interfaces()
		return err
	})
	return state, attached, err
}

// change edits the live state on the one write path.
func (env *environment) change(edit func(*lb.State) error) error {
	defer env.slow("changing the tables; another xdplb may be at it")()
	_, err := datapath.Change(env.pinDir, edit)
	return err
}

// changeService is change for a command about a service: of a named one nothing else is read.
func (env *environment) changeService(service serviceChoice, edit func(*lb.State) error) error {
	if !service.named {
		return env.change(edit)
	}
	defer env.slow("changing the tables; another xdplb may be at it")()
	_, err := datapath.ChangeService(env.pinDir, service.key, edit)
	return err
}

// warn tells the operator something that does not stop the command.
func (env *environment) warn(format string, args ...any) {
	fmt.Fprintf(env.stderr, "warning: "+format+"\n", args...)
}

// slow says what the command is doing if that is not over, that is, the returned function called, within two seconds.
// It says it on a terminal only: in a log it would be noise.
func (env *environment) slow(doing string) (done func()) {
	file, ok := env.stderr.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return func() {}
	}
	timer := time.AfterFunc(2*time.Second, func() { fmt.Fprintf(file, "xdplb: still %s ...\n", doing) })
	return func() { timer.Stop() }
}

// json prints a value as indented JSON.
func (env *environment) json(value any) error {
	encoder := json.NewEncoder(env.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// jsonArray prints an array as env.json does, but one element after the other: however many there are, they are never in
// memory whole.
type jsonArray struct {
	out     *bufio.Writer
	text    bytes.Buffer // of an element
	encoder *json.Encoder
	begun   bool
}

func (env *environment) jsonArray() *jsonArray {
	a := &jsonArray{out: bufio.NewWriterSize(env.stdout, 64<<10)}
	a.encoder = json.NewEncoder(&a.text)
	a.encoder.SetEscapeHTML(false)
	a.encoder.SetIndent("  ", "  ")
	return a
}

func (a *jsonArray) add(element any) error {
	a.text.Reset()
	if err := a.encoder.Encode(element); err != nil {
		return err
	}
	before := ",\n  "
	if !a.begun {
		before, a.begun = "[\n  ", true
	}
	a.out.WriteString(before)
	_, err := a.out.Write(bytes.TrimSuffix(a.text.Bytes(), []byte("\n")))
	return err
}

func (a *jsonArray) end() error {
	after := "[]\n"
	if a.begun {
		after = "\n]\n"
	}
	a.out.WriteString(after)
	return a.out.Flush()
}

// table prints rows as aligned columns, the first row being the heading.
func (env *environment) table(rows [][]string) error {
	w := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}
