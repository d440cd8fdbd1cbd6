// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func addrPort(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }

// onThisNamespace runs a function in a goroutine with the network and mount namespaces of the caller.
func onThisNamespace(t testing.TB, f func()) {
	t.Helper()
	files := make(map[int]*os.File)
	for flag, name := range map[int]string{unix.CLONE_NEWNET: "net", unix.CLONE_NEWNS: "mnt"} {
		file, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), name))
		if err != nil {
			t.Fatal(err)
		}
		files[flag] = file
	}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_FS)
		for flag, file := range files {
			if err == nil {
				err = unix.Setns(int(file.Fd()), flag)
			}
			file.Close()
		}
		ready <- err
		if err == nil {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("enter the test's namespaces: %v", err)
	}
}
