package cache

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFillBuildsOnceForAllWhoAsk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "piece")
	var built atomic.Int32
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			err := Fill(path, func(dir string) error {
				built.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600)
			})
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(path, "file")); err != nil {
				t.Errorf("what Fill left is not complete: %v", err)
			}
		})
	}
	asking.Wait()
	if n := built.Load(); n != 1 {
		t.Errorf("built %d times, want once", n)
	}
}

func TestFillLeavesNothingHalfDone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "piece")
	broken := errors.New("broken")
	err := Fill(path, func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "half"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	for _, name := range []string{path, path + ".unfinished"} {
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
}

func TestFillClearsAwayWhatADeadProcessLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "piece")
	if err := os.MkdirAll(filepath.Join(path+".unfinished", "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Fill(path, func(dir string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(path); err != nil || len(entries) > 0 {
		t.Errorf("entries %v, error %v; want an empty directory", entries, err)
	}
}

func TestTryLockDoesNotWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(path); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("second lock: %v, want EWOULDBLOCK", err)
	}
	first.Close()
	second, err := TryLock(path)
	if err != nil {
		t.Fatalf("after the first was given up: %v", err)
	}
	second.Close()
}

func TestKeyTellsPartsApart(t *testing.T) {
	if Key("ab", "c") == Key("a", "bc") {
		t.Error("parts that are cut differently have one key")
	}
	parts := []string{"a", "b"}
	if first, second := Key(parts...), Key(parts...); first != second {
		t.Errorf("the same parts have two keys, %s and %s", first, second)
	}
}

func TestDirWithoutAHome(t *testing.T) {
	t.Setenv("HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("TMPDIR", t.TempDir())
	dir, err := Dir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Error(err)
	}
}
