package vmtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vfio-hotplug/internal/vmtest/cache"
)

// A bench is the directory of one guest, locked as long as its process lives.
type bench struct {
	name, dir, failed string
	lock              *os.File
}

// keptGuests is how many failed guests are kept, the latest.
const keptGuests = 10

// newBench makes a directory, and removes those whose process died. One
// process at a time does so: a directory that has no lock is of a process that
// died, too.
func newBench(name string) (*bench, error) {
	cacheDir, err := cache.Dir()
	if err != nil {
		return nil, err
	}
	runs, failed := scratch(cacheDir)
	if err := os.MkdirAll(runs, 0o700); err != nil {
		return nil, err
	}
	making, err := cache.Lock(runs + ".lock")
	if err != nil {
		return nil, err
	}
	defer making.Close()
	sweep(runs)
	b := &bench{name: strings.Map(fileChar, name), failed: failed}
	b.dir, err = os.MkdirTemp(runs, "guest-")
	if err != nil {
		return nil, err
	}
	b.lock, err = cache.Lock(b.dir + ".lock")
	return b, err
}

func fileChar(r rune) rune {
	if r == '/' || r <= ' ' {
		return '-'
	}
	return r
}

// sweep removes directories that nobody has locked. The lock file goes last,
// while it is held.
func sweep(runs string) {
	dirs, err := filepath.Glob(filepath.Join(runs, "guest-*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		dir = strings.TrimSuffix(dir, ".lock")
		lock, err := cache.TryLock(dir + ".lock")
		if err != nil {
			continue
		}
		os.RemoveAll(dir)
		os.Remove(lock.Name())
		lock.Close()
	}
}

func (b *bench) remove() error {
	defer b.lock.Close()
	return errors.Join(os.RemoveAll(b.dir), os.Remove(b.lock.Name()))
}

// keep moves the directory to the failed ones and gives its new path.
func (b *bench) keep() (string, error) {
	defer b.lock.Close()
	if err := os.MkdirAll(b.failed, 0o700); err != nil {
		return b.dir, err
	}
	to := filepath.Join(b.failed, fmt.Sprintf("%s-%s", time.Now().Format("20060102-150405.000"), b.name))
	if err := errors.Join(os.Rename(b.dir, to), os.Remove(b.lock.Name())); err != nil {
		return b.dir, err
	}
	old, err := os.ReadDir(b.failed)
	if err != nil {
		return to, err
	}
	// The names begin with the time.
	slices.SortFunc(old, func(x, y os.DirEntry) int { return strings.Compare(y.Name(), x.Name()) })
	for _, entry := range old[min(keptGuests, len(old)):] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(b.failed, entry.Name())))
	}
	return to, err
}
