package vmtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"vfio-hotplug/internal/vmtest/ext4"
	"vfio-hotplug/internal/vmtest/system"
)

const (
	rootSlot    = MaxBays + 1
	rootCmdline = "root=LABEL=root ro"
	// noLogin spares a guest in which no person is the login on its console.
	noLogin = "systemd.getty_auto=no"
)

// RootPortAddress is the PCI address of the root port of a package guest's NVMe
// root drive.
func RootPortAddress() string { return fmt.Sprintf("0000:00:%02x.0", rootPortDevice) }

// RootAddress is the PCI address of a package guest's NVMe root drive.
func (g *Guest) RootAddress(ctx context.Context) (string, error) {
	return g.below(ctx, RootPortAddress())
}

// makeRoot copies the system for this guest alone, and puts the agent into it.
func (g *Guest) makeRoot(ctx context.Context) error {
	agent, err := buildAgent()
	if err != nil {
		return err
	}
	root := filepath.Join(g.dir, rootFile)
	if err := copyImage(ctx, g.cfg.System.Image, root); err != nil {
		return fmt.Errorf("copy the system: %w", err)
	}
	return ext4.Write(ctx, root, map[string]string{system.Agent: agent})
}

// copyImage copies a sparse file.
func copyImage(ctx context.Context, from, to string) error {
	out, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cp %s: %w: %s", from, err, out)
	}
	return nil
}

// loadFromRoot is what a boot loader does: it takes the kernel and the
// initramfs from the root drive.
func (g *Guest) loadFromRoot(ctx context.Context) error {
	for name, file := range map[string]string{g.cfg.System.Kernel(): kernelFile, g.cfg.System.Initramfs(): initrdFile} {
		to := filepath.Join(g.dir, file)
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := ext4.Read(ctx, filepath.Join(g.dir, rootFile), name, to); err != nil {
			return err
		}
	}
	return nil
}

// rootDrive gives QEMU's arguments for the root drive.
func (c Config) rootDrive() ([]string, error) {
	const id = "root"
	disk := &disk{node: id + "-disk", image: rootFile}
	if c.SATARoot { // on the controller that the machine has of its own
		return coldPlug(map[string]any{"driver": "ide-hd", "id": id, "bus": "ide.0", "serial": "ROOT", "drive": disk.node}, disk)
	}
	drive := map[string]any{"driver": "nvme", "id": id, "bus": id + "-port", "serial": "ROOT", "drive": disk.node}
	args, err := coldPlug(drive, disk)
	return append([]string{"-device", rootPort(id+"-port", rootPortDevice, rootSlot)}, args...), err
}

// settle waits until systemd has started all that there is to start, be it in
// vain.
func (g *Guest) settle(ctx context.Context) error {
	f, err := g.Run(ctx, Command{Argv: []string{"systemctl", "is-system-running", "--wait"}})
	if err != nil {
		return err
	}
	switch state := strings.TrimSpace(string(f.Stdout)); state {
	case "running", "degraded":
		return nil
	default:
		return fmt.Errorf("systemd says that the system is %q %s", state, f.Stderr)
	}
}

// Reboot has a package guest shut down as its administrator would, and boots
// the kernel and the initramfs that are then on its root drive. Devices stay in
// their bays. The words are more for the kernel's command line, this once.
// Processes, marks and traces of before are void, and nothing else may be asked
// of the guest meanwhile.
func (g *Guest) Reboot(ctx context.Context, words ...string) error {
	if g.cfg.System == nil {
		return errors.New("reboot: only a package guest can")
	}
	_, err := g.Run(ctx, Command{Argv: []string{"systemctl", "reboot"}})
	select {
	case <-g.qemu.exited: // perhaps before it has answered
	case <-ctx.Done():
		return fmt.Errorf("reboot: the guest does not shut down: %w", errors.Join(ctx.Err(), err))
	}
	g.hangUp()
	g.processes = nil
	err = g.bootOnce(ctx, words...)
	if fault := g.emulatorFault(); err != nil && fault != "" {
		err = fmt.Errorf("%s: %s: %w", EmulatorFault, fault, err)
	}
	if err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}
