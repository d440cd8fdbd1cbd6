// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"xdplb/internal/testenv"
)

// TestDemo runs the demo with xdplb as it is, and then with ones that have a fault: the demo must see each.
func TestDemo(t *testing.T) {
	t.Parallel()
	needs := []testenv.Need{testenv.Root}
	for _, name := range []string{"nginx", "curl", "ping", "ip", "go"} {
		needs = append(needs, testenv.Command(name))
	}
	testenv.Require(t, needs...)
	whole := filepath.Join(t.TempDir(), "xdplb")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", whole, "xdplb/cmd/xdplb")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build xdplb: %v\n%s", err, out)
	}
	for _, test := range []struct {
		name  string
		fault string // shell commands before `"$xdplb" "$@"`
		want  string // what the demo says; "": that all is right
	}{
		{"right", ``, ""},
		{"attach fails", `[ "$1" != attach ] || exit 1`, `"xdplb attach eth0" on director`},
		{"generic", `[ "$1" != attach ] || set -- "$@" --mode generic`, `want native`},
		{"listing", `[ "$1" != list ] || exec "$xdplb" list -n --stats`, `the listing is not as expected`},
		{"no turns", `case "$*" in *rr) set -- service add 172.10.0.9:80 --scheduler sh; esac
			if [ "$1" = list ]; then "$xdplb" "$@" | sed 's/ sh$/ rr/'; exit; fi`, `no strict alternation`},
		{"loud real servers", `case "$2" in
			setup) "$xdplb" "$@" && echo 0 | tee /proc/sys/net/ipv4/conf/all/arp_ignore /proc/sys/net/ipv4/conf/all/arp_announce \
				/proc/sys/net/ipv4/conf/lo/arp_announce; exit;;
			check) exit 0; esac`, `no strict alternation`},
		// The listing that has seen connections is the last command before the router looks around.
		{"real1 turns loud", `if [ "$1" = list ] && "$xdplb" list -n | grep -q ' 3  '; then
			nsenter --net=/run/netns/xdplb-real1 sh -c 'echo 0 | tee /proc/sys/net/ipv4/conf/*/arp_announce >/dev/null'; fi`,
			`the router knows 172.10.0.9 at 02:00:c0:a8:3c:08`},
		{"no quiescing", `[ "$2" != set ] || exit 0`, `new requests do not all go to real2`},
		{"no removal", `[ "$2" != del ] || exit 0`, `the listing does not show 192.168.60.9 alone`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			faulty := filepath.Join(t.TempDir(), "xdplb")
			script := fmt.Sprintf("#!/bin/sh\nxdplb=%s\n%s\nexec \"$xdplb\" \"$@\"\n", whole, test.fault)
			if err := os.WriteFile(faulty, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			status, stdout, stderr := command("demo", "--xdplb", faulty)
			if test.want == "" {
				if status != exitDone || !strings.Contains(stdout, "all of it was right") || stderr != "" {
					t.Errorf("status %d\n%s%s", status, stdout, stderr)
				}
			} else if status != exitFailed || !strings.Contains(stderr, test.want) || strings.Contains(stdout, "all of it") {
				t.Errorf("status %d, want %d and %q\n%s%s", status, exitFailed, test.want, stdout, stderr)
			}
			if strings.Contains(stdout, "\x1b") {
				t.Error("colours, but no terminal")
			}
		})
	}
}
