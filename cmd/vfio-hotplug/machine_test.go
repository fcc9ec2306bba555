package main

import (
	"os"
	"path/filepath"
	"testing"

	"vfio-hotplug/internal/pci"
)

func TestWhatTheKernelHasAdded(t *testing.T) {
	m := &machine{root: t.TempDir()}
	grow := func(names ...string) {
		for _, name := range names {
			file := m.path("proc/bus/pci", name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := func(address string, added bool) {
		t.Helper()
		a, err := pci.ParseAddress(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.added(a); got != added {
			t.Errorf("%s: added is %v, want %v", address, got, added)
		}
	}
	want("0000:01:00.0", true) // nobody can say
	grow("devices", "00/1f.2", "10000:e1/00.0", "0000:0a/10.1")
	want("0000:00:1f.2", true)
	want("10000:e1:00.0", true)
	want("0000:0a:10.1", true)
	want("0000:00:1f.3", false)
	want("0000:01:00.0", false)
	want("10000:e2:00.0", false)
}
