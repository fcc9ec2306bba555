package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTheGuardGoesThoughNobodyReadsTheLines: a Ctrl-C on "vfio-hotplug daemon
// 2>&1 | tee" ends tee too. What the daemon has to say from then on nobody
// reads, and the guard is taken back all the same.
func TestTheGuardGoesThoughNobodyReadsTheLines(t *testing.T) {
	root := t.TempDir()
	drivers := filepath.Join(root, "sys/bus/pci/drivers")
	for name, text := range map[string]string{
		"sys/bus/pci/drivers/vfio-pci/new_id":    "",
		"sys/bus/pci/drivers/vfio-pci/remove_id": "",
		"proc/modules":                           "nvme 1 0 - Live 0x0\nvfio_pci 1 0 - Live 0x0\n",
		"proc/cmdline":                           "quiet\n",
		"etc/vfio-hotplug/policy.toml":           "[guard]\nmode = \"claim\"\n[[rule]]\nname = \"all\"\nmatch = { class = \"nvme\" }\n",
	} {
		file := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "sys/bus/pci/devices"), 0o755), os.MkdirAll(filepath.Join(root, "run/vfio-hotplug"), 0o755),
		os.Symlink("../../../../module/vfio_pci", filepath.Join(drivers, "vfio-pci/module"))); err != nil {
		t.Fatal(err)
	}
	lines, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("vfio-hotplug", "--root", root, "daemon")
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if err := errors.Join(cmd.Start(), stderr.Close()); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for scanner := bufio.NewScanner(lines); !strings.Contains(said.String(), "guard claim: "); {
		if !scanner.Scan() {
			t.Fatalf("no guard is armed: %v, %v: %s", scanner.Err(), cmd.Wait(), said.String())
		}
		said.WriteString(scanner.Text() + "\n")
	}
	if err := errors.Join(lines.Close(), cmd.Process.Signal(unix.SIGINT)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	const id = "ffffffff ffffffff ffffffff ffffffff 01010802 " // and a mask that is not the same
	for _, file := range []string{"new_id", "remove_id"} {
		if text, err := os.ReadFile(filepath.Join(drivers, "vfio-pci", file)); err != nil || !strings.HasPrefix(string(text), id) {
			t.Errorf("%s: %q was written, %v, want %s", file, text, err, id)
		}
	}
}

// A command about several devices is not cut short by whoever reads its lines.
func TestACommandGoesOnThoughNobodyReadsItsLines(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"run/vfio-hotplug", "sys/bus/pci/devices"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "sys/bus/pci/drivers_probe"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"bind", "release"} {
		lines, stderr, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("vfio-hotplug", "--root", root, command, "0000:01:00.0", "0000:02:00.0")
		cmd.Stdout, cmd.Stderr = stderr, stderr
		if err := errors.Join(lines.Close(), cmd.Start(), stderr.Close()); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitFailed {
			t.Errorf("%s of what is not there ended with %v, want exit status %d", command, err, exitFailed)
		}
	}
}
