package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"vfio-hotplug/internal/vmtest"
)

const (
	scenarios = "vfio-hotplug/internal/vmtest/scenario"
	daemon    = "vfio-hotplug/cmd/vfio-hotplug"
	racer     = "vfio-hotplug/internal/vmtest/racer"
	testFile  = "scenario.test"
)

// buildAll compiles the scenarios, and the programs that they have in their
// guests, into a directory of results.
func buildAll(ctx context.Context, results string) (string, error) {
	programs := filepath.Join(results, "programs")
	if err := os.MkdirAll(programs, 0o700); err != nil {
		return "", err
	}
	for _, pkg := range []string{daemon, racer, vmtest.AgentPackage} {
		built, err := vmtest.Build(pkg)
		if err != nil {
			return "", err
		}
		if err := copyProgram(filepath.Join(programs, path.Base(pkg)), built); err != nil {
			return "", err
		}
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", filepath.Join(programs, testFile), scenarios)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return programs, cmd.Run()
}

// copyProgram replaces a program, be it running.
func copyProgram(to, from string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(to+".new", text, 0o700), os.Rename(to+".new", to))
}

func (p *proof) scenarios() string { return filepath.Join(p.programs, testFile) }
