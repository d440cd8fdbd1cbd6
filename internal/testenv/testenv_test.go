// SPDX-License-Identifier: Apache-2.0

package testenv_test

import (
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"xdplb/internal/testenv"
)

func TestNamespaceIsPrivate(t *testing.T) {
	outside, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	marks := []string{"/sys/fs/bpf/mark", "/run/xdplb-testenv-mark", "/run/netns/xdplb-testenv-mark"}
	t.Run("inside", func(t *testing.T) {
		testenv.Namespace(t)
		inside, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		if inside == outside {
			t.Errorf("still in the network namespace %s", inside)
		}
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		if len(links) != 1 {
			t.Errorf("a new network namespace has %d interfaces, want lo alone", len(links))
		}
		for _, mark := range marks {
			if err := os.Mkdir(mark, 0o700); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, mark := range marks {
		if _, err := os.Stat(mark); !os.IsNotExist(err) {
			t.Errorf("%s, made inside, shows outside: %v", mark, err)
		}
	}
}
