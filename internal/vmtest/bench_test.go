package vmtest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestABenchRemovesWhatDeadProcessesLeft(t *testing.T) {
	cacheDir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cacheDir)
	runs, _ := scratch(filepath.Join(cacheDir, "vfio-hotplug"))
	alive, err := newBench("alive")
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(runs, "guest-1")
	unlocked := filepath.Join(runs, "guest-2")
	for _, dir := range []string{dead, unlocked} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dead+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fresh, err := newBench("fresh")
	if err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(runs, "*"))
	if err != nil || len(left) != 4 {
		t.Errorf("left are %q, %v; want %s and %s with their locks", left, err, alive.dir, fresh.dir)
	}
	for _, b := range []*bench{alive, fresh} {
		if err := b.remove(); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(runs, "*")); len(left) != 0 {
		t.Errorf("after the end: %q", left)
	}
}
