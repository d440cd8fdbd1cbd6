// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"xdplb/internal/datapath"
)

// TestFilesystemHint has the errors of which a story's host can show only some, as it has mounts of its own.
func TestFilesystemHint(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err        datapath.FilesystemError
		text, hint string
	}{
		{datapath.FilesystemError{PinDir: "/sys/fs/bpf/xdplb"},
			"no BPF filesystem at /sys/fs/bpf", "mount it: mount -t bpf bpf /sys/fs/bpf"},
		{datapath.FilesystemError{PinDir: "/sys/fs/bpf/xdplb", PrivateMounts: true},
			"no BPF filesystem at /sys/fs/bpf: this process has mounts of its own, as under \"ip netns exec\", and pins made in them would vanish with it",
			"enter only the network namespace: xdplb --netns NAME, or nsenter --net=/run/netns/NAME"},
		{datapath.FilesystemError{PinDir: "/sys/fs/bpf"},
			"/sys/fs/bpf is the BPF filesystem itself, not a pin directory in it", "take a directory on one, such as --pin-dir /sys/fs/bpf/xdplb"},
		{datapath.FilesystemError{PinDir: "/tmp/pins"},
			"pin directory /tmp/pins is not on a BPF filesystem", "take a directory on one, such as --pin-dir /sys/fs/bpf/xdplb"},
	} {
		if got := test.err.Error(); got != test.text {
			t.Errorf("%+v\n got %q\nwant %q", test.err, got, test.text)
		}
		if got := hint(&test.err); got != test.hint {
			t.Errorf("%+v: hint\n got %q\nwant %q", test.err, got, test.hint)
		}
	}
}
