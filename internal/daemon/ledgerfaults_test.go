package daemon_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// broken is a way in which the ledger's file system fails, and its repair. Root
// may write to everything, so a directory stands where a file is to be written.
type broken struct {
	name          string
	breaks, mends func(dir string) error
}

// full: nothing new can be written, as on a file system that is full; what is
// there can be read and removed.
var full = broken{"full",
	func(dir string) error {
		return errors.Join(block(obstacle(dir, "devices")), block(obstacle(dir, "released")))
	},
	func(dir string) error {
		return errors.Join(os.Remove(obstacle(dir, "devices")), os.Remove(obstacle(dir, "released")))
	}}

// missing: nothing can be read, written or removed.
var missing = broken{"missing",
	func(dir string) error {
		return errors.Join(os.Rename(filepath.Join(dir, "devices"), filepath.Join(dir, "away")),
			os.WriteFile(filepath.Join(dir, "devices"), nil, 0o600))
	},
	func(dir string) error {
		return errors.Join(os.Remove(filepath.Join(dir, "devices")),
			os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, "devices")))
	}}

// obstacle is where an entry of the subject is written before it gets its name.
func obstacle(dir, folder string) string {
	return filepath.Join(dir, folder, bayAt(subject).String()+".json.tmp")
}

// block makes a directory as soon as nobody is writing to a file of that name:
// the operation before which the ledger breaks may be another device's.
func block(path string) error {
	for {
		err := os.Mkdir(path, 0o700)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		runtime.Gosched()
	}
}

// TestTheLedgerFailsAtEveryOperation: before any operation of sysfs the ledger
// breaks, until the next start.
func TestTheLedgerFailsAtEveryOperation(t *testing.T) {
	eachPlace(t, func(t *testing.T, a arrival, p place) (bool, []string) {
		var all []string
		come := false
		for _, how := range []broken{full, missing} {
			var hit atomic.Bool
			for _, w := range a.try(t, func(r *trial, now place) error {
				if now == p {
					hit.Store(true)
					if err := how.breaks(r.run); err != nil {
						r.failf("break: %v", err)
					}
				}
				return nil
			}, func(r *trial) {
				time.Sleep(3 * time.Minute)
				r.stops()
				if hit.Load() {
					if err := how.mends(r.run); err != nil {
						r.failf("mend: %v", err)
					}
				}
				r.truth("with the fault")
				r.untouched()
				r.told(0)
				r.ends()
			}) {
				all = append(all, how.name+": "+w)
			}
			come = come || hit.Load()
		}
		return come, all
	})
}
