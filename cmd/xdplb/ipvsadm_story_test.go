// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os/exec"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
)

// lvs runs one of LVS's tools and checks that it exits with a status, says something on standard error, prints nothing,
// and has changed nothing:
//
//	lvs 255 ipvsadm -D -t 172.10.0.9:80
func lvs(script *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		script.Fatalf("usage: lvs STATUS TOOL [ARGUMENT...]")
	}
	want, err := strconv.Atoi(args[0])
	script.Check(err)
	before := configuration()
	err = script.Exec(args[1], args[2:]...)
	stdout, stderr := script.ReadFile("stdout"), script.ReadFile("stderr")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		script.Fatalf("got %v, want exit status %d; it said:\n%s", err, want, stderr)
	}
	if stderr == "" || stdout != "" {
		script.Fatalf("a refused command said %q and printed:\n%s", stderr, stdout)
	}
	if after := configuration(); before != after {
		script.Fatalf("a refused command changed something; before:\n%s\nafter:\n%s", before, after)
	}
}
