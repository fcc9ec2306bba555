package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"vfio-hotplug/internal/vmtest/kernel"
)

// needed says which package has a program that guests, or making them, cannot
// do without.
var needed = [...]struct{ program, pkg string }{
	{"qemu-system-x86_64", "qemu-system-x86"},
	{"depmod", "kmod"},
	{"blkid", "util-linux"},
	{"mke2fs", "e2fsprogs"},
	{"xz", "xz-utils"},
	{"zstd", "zstd"},
}

// installPrograms installs the packages of programs that are missing.
func installPrograms(ctx context.Context, out io.Writer) error {
	var packages []string
	for _, n := range needed {
		_, err := exec.LookPath(kernel.Program(n.program))
		if err != nil && !slices.Contains(packages, n.pkg) {
			packages = append(packages, n.pkg)
		}
	}
	if len(packages) == 0 {
		fmt.Fprintln(out, "programs: all there")
		return nil
	}
	fmt.Fprintf(out, "programs: installing %s\n", strings.Join(packages, " "))
	update := []string{"apt-get", "-q", "update"}
	install := append([]string{"apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends"}, packages...)
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("these programs are missing and there is no apt-get to install them with: %s", strings.Join(packages, " "))
	}
	for _, args := range [][]string{update, install} {
		if err := asRoot(ctx, out, args); err != nil {
			return err
		}
	}
	return nil
}

// asRoot runs a command, through sudo if need be.
func asRoot(ctx context.Context, out io.Writer, args []string) error {
	line := strings.Join(args, " ")
	if os.Getuid() != 0 {
		if _, err := exec.LookPath("sudo"); err != nil {
			return fmt.Errorf("this needs root, and there is no sudo; as root run: %s", line)
		}
		args = append([]string{"sudo", "env", "DEBIAN_FRONTEND=noninteractive"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	return nil
}
