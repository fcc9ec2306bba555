package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// TestAnUpgradedDaemonRunsItsOwnHelper: the program at the daemon's path is
// another one after an upgrade, and none after a removal; what the daemon starts
// is itself all the same.
func TestAnUpgradedDaemonRunsItsOwnHelper(t *testing.T) {
	for name, script := range map[string]string{"upgraded": "#!/bin/sh\nexit 1\n", "removed": ""} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			root, program := filepath.Join(dir, "root"), filepath.Join(dir, oldDaemon)
			unbind := filepath.Join(root, "sys/bus/pci/drivers/nvme/unbind")
			for _, d := range []string{filepath.Dir(unbind), filepath.Join(root, "sys/bus/pci/devices/0000:01:00.0")} {
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(unbind, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			if text, err := exec.Command("cp", self, program).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			if text, err := exec.Command(program, root, script).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			if got, err := os.ReadFile(unbind); err != nil || string(got) != "0000:01:00.0" {
				t.Errorf("written: %q, %v", got, err)
			}
		})
	}
}

// oldDaemon is the name of a program that replaces itself by a script, or by
// nothing, and then has a device unbound: ROOT SCRIPT.
const oldDaemon = "old-daemon"

func runOldDaemon() {
	if len(os.Args) > 1 && os.Args[1] == sysfs.WriteCommand {
		main()
	}
	if err := unbindAfterUpgrade(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func unbindAfterUpgrade(root, script string) error {
	path := filepath.Join(filepath.Dir(root), oldDaemon)
	if err := os.Remove(path); err != nil {
		return err
	}
	if script != "" {
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			return err
		}
	}
	operator, err := (&machine{root: root}).operator()
	if err != nil {
		return err
	}
	device, err := operator.FS.Open(pci.Address{Bus: 1})
	if err != nil {
		return err
	}
	defer device.Close()
	return device.Unbind(context.Background(), "nvme")
}
