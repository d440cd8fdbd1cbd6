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
		if err := os.Mkdir("/sys/fs/bpf/mark", 0o700); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat("/sys/fs/bpf/mark"); !os.IsNotExist(err) {
		t.Errorf("a directory made in the private bpffs shows outside: %v", err)
	}
}
