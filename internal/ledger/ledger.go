// Package ledger remembers, over restarts and kills of every process that uses
// it, which devices we changed and what was there before, and which devices a
// person took out of our hands.
//
// A ledger is a directory:
//
//	devices/0000:01:00.0.json   an Entry
//	released/0000:01:00.0.json  a release by hand
//	lock/0000:01:00.0           the device's lock (see Lock)
//	aside/                      files that could not be read, kept for a person
//
// Each file is written beside its place and renamed into it, so a process
// killed at any moment leaves the old content or the new one, whole. Nothing is
// flushed to a disk: the directory lives in /run, which ends with the boot, and
// so do the changes that it speaks of.
//
// Whoever writes about a device holds its lock; reading needs none.
package ledger

import (
	"fmt"
	"os"
	"path/filepath"
)

// Modes. Everybody may pass the directory, where the daemon's socket may also
// live. The files are for root alone: whoever can open a lock file, be it only
// for reading, can hold the lock and so keep us from the device.
const (
	dirMode  = 0o755
	fileMode = 0o600
)

// Ledger is a ledger in a directory. Its methods may be called from several
// goroutines, and several processes may use one directory.
type Ledger struct {
	dir   string
	proc  string
	files files
	// only says that it is only read.
	only bool
}

// Reader gives a ledger that is only read: nothing is made or moved in it, one
// that is not there is empty, and its locks are for those who may write.
func Reader(dir, proc string) *Ledger {
	if real, err := realPath(dir); err == nil {
		dir = real
	}
	return &Ledger{dir: dir, proc: proc, files: kernelFiles{}, only: true}
}

// Open makes the ledger's directories where they are missing. proc is where
// procfs is mounted; it is only read to name the holder of a lock.
//
// A directory that others can write to is refused: a forged entry would make
// us give a device to the wrong driver.
func Open(dir, proc string) (*Ledger, error) {
	for _, d := range []string{dir, filepath.Join(dir, devices), filepath.Join(dir, released), filepath.Join(dir, locks), filepath.Join(dir, aside)} {
		if err := os.MkdirAll(d, dirMode); err != nil {
			return nil, fmt.Errorf("open ledger: %w", err)
		}
		info, err := os.Stat(d)
		if err != nil {
			return nil, fmt.Errorf("open ledger: %w", err)
		}
		if info.Mode().Perm()&0o022 != 0 {
			return nil, fmt.Errorf("open ledger: others can write to %s (mode %04o): chmod go-w it, or remove it", d, info.Mode().Perm())
		}
	}
	real, err := realPath(dir)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return &Ledger{dir: real, proc: proc, files: kernelFiles{}}, nil
}

// realPath is how the kernel names an open file in a directory (see holder).
func realPath(dir string) (string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	return filepath.Abs(real)
}

const (
	devices  = "devices"
	released = "released"
	locks    = "lock"
	aside    = "aside"
)
