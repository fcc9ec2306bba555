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

// ProgramsVar is the environment variable that names a directory with the
// programs that Build would make, each by the last part of its package. A proof
// that goes on for hours is of them, whatever happens to the tree meanwhile.
const ProgramsVar = "VMTEST_PROGRAMS"

// Build compiles a main package of this module for a guest, statically, and
// gives the path of the program. It must be called from within the module. With
// ProgramsVar it gives what is there, and compiles nothing.
func Build(pkg string) (string, error) {
	if dir := os.Getenv(ProgramsVar); dir != "" {
		program := filepath.Join(dir, path.Base(pkg))
		if _, err := os.Stat(program); err != nil {
			return "", fmt.Errorf("the program of %s, which %s promises: %w", pkg, ProgramsVar, err)
		}
		return program, nil
	}
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
