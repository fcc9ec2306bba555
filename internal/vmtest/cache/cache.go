// Package cache keeps what is slow to make: unpacked kernels, pieces of initramfs
// and guests that have booted, in the user's cache directory. Several processes may use it at
// once.
package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Dir gives the cache directory, which it makes if need be: vfio-hotplug below
// os.UserCacheDir or, for a user without a home, below the directory for
// temporary files.
func Dir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = filepath.Join(os.TempDir(), "cache-"+strconv.Itoa(os.Getuid()))
	}
	dir = filepath.Join(dir, "vfio-hotplug")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the cache directory (set XDG_CACHE_HOME to a place that can be written): %w", err)
	}
	return dir, nil
}

// Fill makes the directory path with what build puts into the empty directory
// it is given, unless path is there already. What is there is complete: path
// appears by a rename. It waits while another process fills the same path.
func Fill(path string, build func(dir string) error) error {
	if exists(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	lock, err := Lock(path + ".lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	if exists(path) {
		return nil
	}
	// The lock is ours, so a directory of this name is of a process that died.
	unfinished := path + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return err
	}
	if err := build(unfinished); err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	return os.Rename(unfinished, path)
}

// Lock waits for the exclusive lock on the file path and holds it until the
// file is closed or the process dies.
func Lock(path string) (*os.File, error) { return lock(path, unix.LOCK_EX) }

// TryLock is Lock without waiting: the error is unix.EWOULDBLOCK when somebody
// else holds the lock.
func TryLock(path string) (*os.File, error) { return lock(path, unix.LOCK_EX|unix.LOCK_NB) }

// Share waits for a shared lock on the file path: others may share it, nobody has
// it for himself until the file is closed.
func Share(path string) (*os.File, error) { return lock(path, unix.LOCK_SH) }

func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// Key is a short name for what was made from the given parts: the same parts
// in the same order give the same key.
func Key(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// FileKey is a Key of the contents of files.
func FileKey(paths ...string) (string, error) {
	parts := make([]string, 0, len(paths))
	for _, path := range paths {
		sum, err := fileSum(path)
		if err != nil {
			return "", err
		}
		parts = append(parts, sum)
	}
	return Key(parts...), nil
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return string(h.Sum(nil)), nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
