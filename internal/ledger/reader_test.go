package ledger

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestAReaderMakesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vfio-hotplug")
	l := Reader(dir, "/proc")
	all, err := l.All()
	if len(all) > 0 || err != nil {
		t.Errorf("All: %v, error %v; want nothing", all, err)
	}
	_, found, err := l.Get(bay1)
	if found || err != nil {
		t.Errorf("Get: found %v, error %v", found, err)
	}
	unlock, err := l.Reading(bay1)
	must(t, err)
	must(t, unlock())
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory: error %v, want that there is none", err)
	}
}

func TestAReaderLeavesWhatItCannotBelieve(t *testing.T) {
	dir := open(t).dir
	torn, strange := filepath.Join(dir, devices, bay1.String()+suffix), filepath.Join(dir, devices, "notes")
	must(t, os.WriteFile(torn, []byte("{"), 0o600))
	must(t, os.WriteFile(strange, nil, 0o600))
	_, err := Reader(dir, "/proc").All()
	if _, ok := errors.AsType[*FileError](err); !ok {
		t.Errorf("All: error %v, want a *FileError", err)
	}
	for _, file := range []string{torn, strange} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}

func TestOneWhoReadsSeesWhoIsAtWork(t *testing.T) {
	l := open(t)
	lock, err := l.Lock(bay1)
	must(t, err)
	reader := Reader(l.dir, "/proc")
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = reader.Reading(bay1)
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || locked.PID != os.Getpid() {
		t.Fatalf("Reading: error %v, want it locked by this process, %d", err, os.Getpid())
	}
	_, err = reader.ReadingWait(soon, bay1)
	if !errors.Is(err, ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ReadingWait: error %v, want it locked to the end", err)
	}
	must(t, lock.Unlock())

	first, err := reader.Reading(bay1)
	must(t, err)
	second, err := reader.Reading(bay1)
	must(t, err)
	if _, err := l.Lock(bay1); !errors.Is(err, ErrLocked) {
		t.Errorf("Lock while two read: error %v, want ErrLocked", err)
	}
	must(t, first())
	must(t, second())
	lock, err = l.Lock(bay1)
	must(t, err)
	must(t, lock.Unlock())
}
