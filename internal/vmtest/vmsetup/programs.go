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

// A need says which package has a program.
type need struct{ program, pkg string }

// needed is what guests, or making them, cannot do without.
var needed = []need{
	{"qemu-system-x86_64", "qemu-system-x86"},
	{"depmod", "kmod"},
	{"blkid", "util-linux"},
	{"dmsetup", "dmsetup"},
	{"mke2fs", "e2fsprogs"},
	{"udevadm", "udev"},
	{"rpm", "rpm"}, // with the package for Debian its twin is made
	{"xz", "xz-utils"},
	{"zstd", "zstd"},
}

// neededForSystems is what making systems for package guests needs besides.
func neededForSystems() []need {
	needed := []need{{"mmdebstrap", "mmdebstrap"}, {"fakeroot", "fakeroot"}, {"debugfs", "e2fsprogs"}}
	if os.Getuid() != 0 {
		needed = append(needed, need{"newuidmap", "uidmap"})
	}
	return needed
}

// installPrograms installs the packages of programs that are missing.
func installPrograms(ctx context.Context, needed []need, out io.Writer) error {
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
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("these programs are missing and there is no apt-get to install them with: %s", strings.Join(packages, " "))
	}
	fmt.Fprintf(out, "programs: installing %s\n", strings.Join(packages, " "))
	return asRoot(ctx, out, "apt-get -q update && "+
		"apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "+strings.Join(packages, " "))
}

// asRoot runs a line of shell, through sudo if need be.
func asRoot(ctx context.Context, out io.Writer, line string) error {
	args := []string{"sh", "-c", "export DEBIAN_FRONTEND=noninteractive; " + line}
	if os.Getuid() != 0 {
		if _, err := exec.LookPath("sudo"); err != nil {
			return fmt.Errorf("this needs root, and there is no sudo; run as root: %s", line)
		}
		args = append([]string{"sudo"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	return nil
}
