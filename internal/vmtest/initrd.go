package vmtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/initramfs"
	"vfio-hotplug/internal/vmtest/kernel"
)

// baseModules are in every guest's initramfs, loaded or not, of those that its
// kernel has: guests with the same modules share a snapshot.
var baseModules = [...]string{
	"nvme", "vfio", "vfio_iommu_type1", "vfio-pci", "pci-stub", "uio", "uio_pci_generic", "e1000e",
	"ext4", "crc32c_generic", "loop", "dm-mod", "md-mod", "raid1", "configfs", "nvmet", "target_core_iblock",
}

// basePrograms are in every guest; busybox has the rest.
var basePrograms = [...]struct{ guest, host string }{
	{"/usr/sbin/blkid", "blkid"},
	{"/usr/sbin/mke2fs", "mke2fs"}, {"/usr/sbin/mkfs.ext4", "mke2fs"},
	{"/usr/sbin/modprobe", "kmod"}, {"/usr/sbin/insmod", "kmod"}, {"/usr/sbin/rmmod", "kmod"}, {"/usr/sbin/lsmod", "kmod"},
}

// layoutVersion changes when the same parts shall make another piece.
const layoutVersion = "1"

// initrd gives the initramfs of a guest without a System: modules, programs and
// the agent.
func (c Config) initrd(cacheDir string) (string, error) {
	modules, err := c.modulesPiece(cacheDir)
	if err != nil {
		return "", fmt.Errorf("modules for the guest: %w", err)
	}
	programs, err := programsPiece(cacheDir)
	if err != nil {
		return "", fmt.Errorf("programs for the guest: %w", err)
	}
	agent, err := agentPiece(cacheDir)
	if err != nil {
		return "", fmt.Errorf("agent for the guest: %w", err)
	}
	parts := []string{modules, programs, agent}
	return piece(cacheDir, "initrd-"+cache.Key(parts...), func(f *os.File) error {
		for _, part := range parts {
			if err := appendFile(f, part); err != nil {
				return err
			}
		}
		return nil
	})
}

// AgentPackage is the agent's.
const AgentPackage = "vfio-hotplug/internal/vmtest/agent"

// buildAgent builds the agent once for all guests of this process.
var buildAgent = sync.OnceValues(func() (string, error) { return Build(AgentPackage) })

func appendFile(to io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(to, f)
	return err
}

// agentPiece gives the archive with the agent, which is process 1.
func agentPiece(cacheDir string) (string, error) {
	agent, err := buildAgent()
	if err != nil {
		return "", err
	}
	contents, err := cache.FileKey(agent)
	if err != nil {
		return "", err
	}
	return archive(cacheDir, "agent-"+cache.Key(layoutVersion, contents), func(a *initramfs.Archive) error {
		a.Symlink("/init", "usr/bin/agent")
		return a.Copy("/usr/bin/agent", agent)
	})
}

// modulesPiece gives the archive with the kernel's modules.
func (c Config) modulesPiece(cacheDir string) (string, error) {
	modules, err := initramfs.ReadModules(c.Kernel.Modules)
	if err != nil {
		return "", err
	}
	names := slices.DeleteFunc(slices.Clone(baseModules[:]), func(name string) bool { return !modules.Has(name) })
	for _, module := range c.Modules {
		name, _, _ := strings.Cut(module, " ")
		names = append(names, name)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	dep, err := cache.FileKey(filepath.Join(c.Kernel.Modules, "modules.dep"), c.Kernel.Image)
	if err != nil {
		return "", err
	}
	key := cache.Key(append([]string{layoutVersion, c.Kernel.Modules, dep}, names...)...)
	return archive(cacheDir, "modules-"+key, func(a *initramfs.Archive) error {
		stage, err := os.MkdirTemp("", "vmtest-modules-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(stage)
		if err := modules.Stage(stage, kernel.Program("depmod"), names...); err != nil {
			return err
		}
		return a.Tree("/", stage)
	})
}

// programsPiece gives the archive with busybox and basePrograms.
func programsPiece(cacheDir string) (string, error) {
	busybox, err := kernel.Busybox(cacheDir)
	if err != nil {
		return "", err
	}
	files := []string{busybox}
	for _, p := range basePrograms {
		files = append(files, kernel.Program(p.host))
	}
	contents, err := cache.FileKey(files...)
	if err != nil {
		return "", err
	}
	return archive(cacheDir, "programs-"+cache.Key(layoutVersion, contents), func(a *initramfs.Archive) error {
		return addPrograms(a, busybox)
	})
}

func addPrograms(a *initramfs.Archive, busybox string) error {
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("%s --list: %w", busybox, err)
	}
	if err := a.Copy("/usr/bin/busybox", busybox); err != nil {
		return err
	}
	taken := map[string]bool{"busybox": true}
	for _, p := range basePrograms {
		taken[filepath.Base(p.guest)] = true
	}
	for _, name := range strings.Fields(string(applets)) {
		if !taken[name] {
			a.Symlink("/usr/bin/"+name, "busybox")
		}
	}
	a.File("/etc/mke2fs.conf", 0o644, []byte("[defaults]\n\tbase_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr\n"+
		"[fs_types]\n\text4 = {\n\t\tfeatures = has_journal,extent,huge_file,flex_bg,64bit,dir_nlink,extra_isize\n\t}\n"))
	a.File("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	a.File("/etc/group", 0o644, []byte("root:x:0:\n"))
	a.Dir("/root")
	for _, p := range basePrograms {
		if err := a.Program(p.guest, kernel.Program(p.host)); err != nil {
			return err
		}
	}
	return nil
}

// archive gives the path of an archive in the cache, made if it is not there.
func archive(cacheDir, name string, fill func(*initramfs.Archive) error) (string, error) {
	return piece(cacheDir, name, func(f *os.File) error {
		a := initramfs.New(f)
		if err := fill(a); err != nil {
			return err
		}
		return a.Close()
	})
}

// piece gives the path of a file in the cache, made if it is not there. Its name
// says what is in it.
func piece(cacheDir, name string, fill func(*os.File) error) (string, error) {
	dir := filepath.Join(cacheDir, "pieces", name)
	err := cache.Fill(dir, func(dir string) error {
		f, err := os.Create(filepath.Join(dir, "cpio"))
		if err != nil {
			return err
		}
		defer f.Close()
		return errors.Join(fill(f), f.Close())
	})
	return filepath.Join(dir, "cpio"), err
}
