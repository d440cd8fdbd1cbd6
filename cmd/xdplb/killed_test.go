// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"xdplb/internal/testenv"
)

// killAt is the environment variable with the number of the write, from 1, before which the command kills itself.
const killAt = "XDPLB_TEST_KILL_AT"

// mortal is xdplb as the stories run it: with killAt set, it does not come to its end. It does not take part in that
// itself: a seccomp filter stops every thread that is about to write to the pins, and this process gets to know.
func mortal() {
	if word := os.Getenv(killAt); word != "" {
		write, err := strconv.Atoi(word)
		if err != nil {
			panic(err)
		}
		if err := killBeforeWrite(write); err != nil {
			panic(err)
		}
	}
	main()
}

// writes are the system calls that change pins, and of bpf(2) the commands (linux/bpf.h) that do.
var (
	writes     = []uint32{unix.SYS_BPF, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2}
	bpfWriting = []uint64{unix.BPF_MAP_UPDATE_ELEM, unix.BPF_MAP_DELETE_ELEM, unix.BPF_OBJ_PIN, unix.BPF_MAP_UPDATE_BATCH,
		unix.BPF_MAP_DELETE_BATCH, unix.BPF_LINK_CREATE, unix.BPF_LINK_UPDATE, unix.BPF_LINK_DETACH}
)

// notification and response are struct seccomp_notif and seccomp_notif_resp of linux/seccomp.h.
type notification struct {
	id         uint64
	pid, flags uint32
	call       int32
	arch       uint32
	address    uint64
	arguments  [6]uint64
}

type response struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

// killBeforeWrite makes the process end by SIGKILL instead of its n-th write.
func killBeforeWrite(n int) error {
	listener, err := interceptWrites()
	if err != nil {
		return err
	}
	go func() {
		for {
			var call notification
			if err := control(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&call)); err != nil {
				continue // interrupted, or the thread is gone
			}
			if call.call != unix.SYS_BPF || slices.Contains(bpfWriting, call.arguments[0]) {
				if n--; n == 0 {
					_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
				}
			}
			answer := response{id: call.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			_ = control(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answer))
		}
	}()
	return nil
}

// interceptWrites makes the kernel ask on the returned file descriptor before each of the writes, on all threads.
func interceptWrites() (listener int, err error) {
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the number of the system call
	for i, call := range writes {
		toNotify := uint8(len(writes) - i)
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: toNotify, K: call})
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
		uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, fmt.Errorf("setting a seccomp filter: %w", errno)
	}
	return int(fd), nil
}

func control(fd int, request uint, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// killed runs a command again and again, killed before its first, second, ... write, until it comes to its end. After
// each, what "xdplb save" prints is what it printed before the command or what it prints after it, the second command
// repairs and finishes the work, and the third goes back to the beginning. EVERY is the distance of the writes that are
// tried; where skipping is not allowed (testenv.RequireAll), that is all of them.
//
//	killed EVERY COMMAND... : REPAIR... : RESET...
func killed(script *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		script.Fatalf("usage: killed EVERY COMMAND... : REPAIR... : RESET...")
	}
	every, err := strconv.Atoi(args[0])
	script.Check(err)
	if os.Getenv(testenv.RequireAll) != "" {
		every = 1
	}
	parts := strings.Split(strings.Join(args[1:], " "), " : ")
	if len(parts) != 3 {
		script.Fatalf("%q: want three commands", parts)
	}
	command, repair, reset := strings.Fields(parts[0]), strings.Fields(parts[1]), strings.Fields(parts[2])
	must := func(command []string) { script.Check(script.Exec(command[0], command[1:]...)) }

	before := saved(script)
	must(command)
	after := saved(script)
	must(reset)
	for write := 1; ; write += every {
		script.Setenv(killAt, strconv.Itoa(write))
		err := script.Exec(command[0], command[1:]...)
		script.Setenv(killAt, "")
		if err == nil {
			if write < 3 {
				script.Fatalf("%q came to its end: nothing has killed it", parts[0])
			}
			must(reset)
			return
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			script.Fatalf("write %d: got %v, want it killed", write, err)
		}
		if now := saved(script); now != before && now != after {
			script.Fatalf("killed before write %d, there is:\n%s\nbefore it was:\n%s\nand should become:\n%s", write, now, before, after)
		}
		must(repair)
		if now := saved(script); now != after {
			script.Fatalf("killed before write %d and repaired, there is:\n%s\nwant:\n%s", write, now, after)
		}
		must(reset)
	}
}

// saved is the configuration as text, or the error that stands for none.
func saved(script *testscript.TestScript) string {
	_ = script.Exec("xdplb", "save")
	return script.ReadFile("stdout") + script.ReadFile("stderr")
}
