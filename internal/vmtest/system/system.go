// Package system makes and finds the drives that package guests boot from: a
// small Debian with systemd and udev, in which a package is installed as on a
// real machine. A kernel of package kernel is in it, with those of its modules
// that such a guest has a use for.
package system

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/kernel"
)

// A Spec says what a System is made of.
type Spec struct {
	Suite  string // of Debian, such as "bookworm"
	Kernel kernel.Kernel
}

// Suites gives the Debian suites that a kernel of the matrix is tested under
// with a package installed, on a machine of a distribution (ID in
// os-release(5)). Ubuntu's mirrors have none.
func Suites(distribution, kernel string) []string {
	if distribution != "debian" {
		return nil
	}
	if kernel == "6.12" {
		return []string{"trixie"} // nearly its own
	}
	return []string{"bookworm"} // 6.1 is its own; and the newest kernel under an old systemd
}

// A System is ready to boot from.
type System struct {
	Suite   string
	Release string // of its kernel
	Image   string // path of the image of an ext4 file system with the label "root", to be copied, not to be changed
}

// Kernel and Initramfs are where the boot loader of a real machine would find
// them in the image.
func (s System) Kernel() string    { return "/boot/vmlinuz-" + s.Release }
func (s System) Initramfs() string { return "/boot/initrd.img-" + s.Release }

// Agent is where the laboratory's agent belongs in a copy of the image; its
// unit is there.
const Agent = "/usr/lib/vmtest/agent"

// ErrMissing is the error of Find for a system that was not made yet.
var ErrMissing = errors.New("system is not in the cache")

const (
	imageFile = "root.img"
	manifest  = "system.json"
)

// Find gives a system from the cache.
func Find(cacheDir string, spec Spec) (System, error) {
	dir, err := spec.place(cacheDir)
	if err != nil {
		return System{}, err
	}
	text, err := os.ReadFile(filepath.Join(dir, manifest))
	if errors.Is(err, fs.ErrNotExist) {
		return System{}, fmt.Errorf("%s: %w", spec, ErrMissing)
	}
	if err != nil {
		return System{}, err
	}
	var s System
	if err := json.Unmarshal(text, &s); err != nil {
		return System{}, fmt.Errorf("read %s: %w", filepath.Join(dir, manifest), err)
	}
	s.Image = filepath.Join(dir, imageFile)
	return s, nil
}

func (s Spec) String() string { return s.Suite + " with kernel " + s.Kernel.Name }

// layoutVersion changes when the same parts shall make another image.
const layoutVersion = "1"

//go:embed setup.sh
var setup string

// tree is what the image has besides packages and kernel.
//
//go:embed root
var tree embed.FS

// packages are in the image besides Debian's essential ones, apt, and what
// they depend on.
var packages = []string{
	"systemd-sysv", "udev", "kmod", "e2fsprogs",
	// Without busybox, which it recommends: its three hundred links take an
	// emulated processor half a minute whenever an initramfs is made.
	"initramfs-tools", "zstd",
	// What uses drives: volumes and arrays that fstab names, and a program that
	// drives NVMe through vfio by itself (qemu-img bench nvme://).
	"lvm2", "mdadm", "qemu-utils",
	// What switches interfaces, and gives them to other networks.
	"iproute2",
}

// modules are in the image, of those that the kernel has.
var modules = []string{
	"nvme", "ext4", "crc32c_generic", "autofs4", "configfs", "fuse", "loop", "dm-mod", "md-mod", "raid1",
	"vfio", "vfio_iommu_type1", "vfio-pci", "pci-stub", "uio", "uio_pci_generic", "e1000e",
	"ahci", "sd_mod", // for a root drive that is not nvme's
	"nvmet", "target_core_mod", "target_core_iblock", // exports
	"xhci-pci", "usbnet", "cdc_ether", "rndis_host", // a network card on USB
}

// place is the directory of a system in the cache: its name says what it is
// made of.
func (s Spec) place(cacheDir string) (string, error) {
	parts := []string{layoutVersion, s.Kernel.Release, setup, strings.Join(packages, " "), strings.Join(modules, " ")}
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		contents, err := tree.ReadFile(name)
		parts = append(parts, name, string(contents))
		return err
	})
	return filepath.Join(cacheDir, "systems", s.prefix()+cache.Key(parts...)), err
}

func (s Spec) prefix() string { return s.Suite + "-" + s.Kernel.Name + "-" }
