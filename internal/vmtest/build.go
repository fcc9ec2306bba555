package vmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
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
	return build(path.Base(pkg), 0o755, func(tmp string) (string, error) {
		program := filepath.Join(tmp, "program")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
		return program, nil
	})
}

// BuildDeb makes this module's package for Debian, as its Makefile does for a
// release, and gives the path of the package. Variables for make, such as
// "VERSION=2", make another. It must be called from within the module.
func BuildDeb(variables ...string) (string, error) {
	return build("deb", 0o644, func(tmp string) (string, error) {
		mod, err := exec.Command("go", "env", "GOMOD").Output()
		if err != nil {
			return "", fmt.Errorf("go env GOMOD: %w", err)
		}
		argv := append([]string{"-C", filepath.Dir(strings.TrimSpace(string(mod))), "package-amd64", "DIST=" + tmp}, variables...)
		cmd := exec.Command("make", argv...)
		// A make that this runs under has its own wishes.
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MAKE") })
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("make package-amd64: %w\n%s", err, out)
		}
		debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
		if err != nil || len(debs) != 1 {
			return "", fmt.Errorf("make package-amd64 made %d packages for Debian, want 1: %w", len(debs), err)
		}
		return debs[0], nil
	})
}

// build keeps what make leaves in a temporary directory under a name that says
// what it is and what is in it.
func build(name string, mode os.FileMode, make func(tmp string) (string, error)) (string, error) {
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
	made, err := make(tmp)
	if err != nil {
		return "", err
	}
	key, err := cache.FileKey(made)
	if err != nil {
		return "", err
	}
	kept := filepath.Join(dir, name+"-"+key)
	return kept, errors.Join(os.Chmod(made, mode), os.Rename(made, kept))
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
