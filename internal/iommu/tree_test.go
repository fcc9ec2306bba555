package iommu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vfio-hotplug/internal/sysfs"
)

// tree is a copy of the shape of /sys and /dev: a path that ends in "/" is a
// directory, a value that begins with "-> " a symbolic link, all else a file.
type tree map[string]string

func (files tree) root(t *testing.T) (sysfs.Dir, string) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "dev"), 0o755))
	for name, content := range files {
		isDir := strings.HasSuffix(name, "/")
		name = filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		switch target, isLink := strings.CutPrefix(content, "-> "); {
		case isDir:
			must(t, os.MkdirAll(name, 0o755))
		case isLink:
			must(t, os.Symlink(target, name))
		default:
			must(t, os.WriteFile(name, []byte(content), 0o644))
		}
	}
	root, err := sysfs.OpenRoot(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return root, filepath.Join(dir, "dev")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
