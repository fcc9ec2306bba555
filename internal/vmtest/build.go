package vmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"time"

	"vfio-hotplug/internal/vmtest/cache"
)

// Build compiles a main package of this module for a guest, statically, and
// gives the path of the program. It must be called from within the module.
func Build(pkg string) (string, error) {
	cacheDir, err := cache.Dir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cacheDir, "bin")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	forget(dir, 24*time.Hour)
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	program := filepath.Join(tmp, path.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	key, err := cache.FileKey(program)
	if err != nil {
		return "", err
	}
	kept := filepath.Join(dir, path.Base(pkg)+"-"+key)
	return kept, errors.Join(os.Chmod(program, 0o755), os.Rename(program, kept))
}

// forget removes what was not made anew for a while.
func forget(dir string, age time.Duration) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > age {
			os.RemoveAll(filepath.Join(dir, entry.Name()))
		}
	}
}
