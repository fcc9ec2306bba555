package system

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"vfio-hotplug/internal/vmtest/kernel"
)

func TestPlaceSaysWhatASystemIsMadeOf(t *testing.T) {
	specs := []Spec{
		{"bookworm", kernel.Kernel{Name: "6.1", Release: "6.1.0-49-amd64"}},
		{"bookworm", kernel.Kernel{Name: "6.1", Release: "6.1.0-50-amd64"}},
		{"trixie", kernel.Kernel{Name: "6.1", Release: "6.1.0-50-amd64"}},
	}
	seen := map[string]Spec{}
	for _, spec := range specs {
		place, err := spec.place("/cache")
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := seen[place]; taken {
			t.Errorf("%v and %v share %s", spec, other, place)
		}
		seen[place] = spec
	}
}

func TestFindWhatWasNotMade(t *testing.T) {
	spec := Spec{"bookworm", kernel.Kernel{Name: "6.1", Release: "6.1.0-50-amd64"}}
	if s, err := Find(t.TempDir(), spec); !errors.Is(err, ErrMissing) {
		t.Errorf("%+v, %v; want ErrMissing", s, err)
	}
}

// TestForgetOthers: of the systems of one name, those that were not used for
// long go; a name that begins alike is another one.
func TestForgetOthers(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for name, age := range map[string]time.Duration{
		"bookworm-6.1-used":   2 * unused, // as it is now
		"bookworm-6.1-recent": unused - time.Hour,
		"bookworm-6.1-old":    unused + time.Hour,
		"bookworm-6.12-old":   2 * unused,
		"trixie-6.1-old":      2 * unused,
	} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	spec := Spec{"bookworm", kernel.Kernel{Name: "6.1"}}
	if err := spec.forgetOthers(filepath.Join(dir, "bookworm-6.1-used"), now); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	want := []string{"bookworm-6.1-recent", "bookworm-6.1-used", "bookworm-6.12-old", "trixie-6.1-old"}
	if !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
}
