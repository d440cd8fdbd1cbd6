// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// LockTimeout is how long a reader or a writer waits for the lock on the pins.
const LockTimeout = 5 * time.Second

// lockPoll is the pause between two attempts: flock itself knows no deadline.
const lockPoll = 5 * time.Millisecond

// The ways of locking.
const (
	shared    = unix.LOCK_SH
	exclusive = unix.LOCK_EX
)

// lock is a flock on a directory. It lives as long as its file and is never inherited by a child process, so that it
// ends with the process that took it, whatever kills that.
type lock struct {
	file *os.File
}

// lockDir takes the lock on a directory, waiting for it up to a timeout. Errors: LockedError; fs.ErrNotExist when the
// directory is absent or was removed while waiting.
func lockDir(dir string, how int, timeout time.Duration) (*lock, error) {
	deadline := time.Now().Add(timeout)
	file, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("locking the pins: %w", err)
	}
	for {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			if err := stillThere(file, dir); err != nil {
				file.Close()
				return nil, err
			}
			return &lock{file}, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			file.Close()
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		case time.Now().After(deadline):
			pid := lockHolder(file)
			file.Close()
			return nil, &LockedError{Dir: dir, PID: pid}
		}
		time.Sleep(lockPoll)
	}
}

// stillThere says whether the path still names the locked directory: the last holder may have removed it.
func stillThere(file *os.File, dir string) error {
	locked, err := file.Stat()
	if err != nil {
		return fmt.Errorf("locking %s: %w", dir, err)
	}
	named, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("locking the pins: %w", err)
	}
	if !os.SameFile(locked, named) {
		return fmt.Errorf("locking %s: replaced while waiting: %w", dir, os.ErrNotExist)
	}
	return nil
}

func (l *lock) release() error {
	return l.file.Close()
}

// lockHolder finds a process that holds a flock on the file, 0 if none shows. Format of /proc/locks: proc(5).
func lockHolder(file *os.File) int {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return 0
	}
	device := uint64(stat.Dev)
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(device), unix.Minor(device), stat.Ino)
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer locks.Close()
	lines := bufio.NewScanner(locks)
	for lines.Scan() {
		// "1: FLOCK  ADVISORY  WRITE 1234 00:1f:56 0 EOF"; who waits has "->" as second word.
		words := strings.Fields(lines.Text())
		if len(words) < 6 || words[1] != "FLOCK" || words[5] != want {
			continue
		}
		if pid, err := strconv.Atoi(words[4]); err == nil && pid > 0 {
			return pid
		}
	}
	return 0
}
