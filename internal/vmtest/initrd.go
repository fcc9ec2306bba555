package vmtest

import (
	"errors"
	"fmt"
	"io"
	"maps"
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

// baseModules are in every guest's initramfs, loaded or not.
var baseModules = [...]string{
	"nvme", "vfio", "vfio_iommu_type1", "vfio-pci", "pci-stub", "uio", "uio_pci_generic", "e1000e",
	"ext4", "loop", "dm-mod", "md-mod", "raid1", "configfs",
}

// basePrograms are in every guest; busybox has the rest.
var basePrograms = [...]struct{ guest, host string }{
	{"/usr/sbin/blkid", "blkid"},
	{"/usr/sbin/mke2fs", "mke2fs"}, {"/usr/sbin/mkfs.ext4", "mke2fs"},
	{"/usr/sbin/modprobe", "kmod"}, {"/usr/sbin/insmod", "kmod"}, {"/usr/sbin/rmmod", "kmod"}, {"/usr/sbin/lsmod", "kmod"},
}

// layoutVersion changes when the same parts shall make another piece.
const layoutVersion = "1"

// writeInitrd puts a guest's initramfs together from its pieces: the modules
// and the programs, which are cached, the agent, and what the test brings.
func (c Config) writeInitrd(path, cacheDir string) error {
	modules, err := c.modulesPiece(cacheDir)
	if err != nil {
		return fmt.Errorf("modules for the guest: %w", err)
	}
	programs, err := programsPiece(cacheDir)
	if err != nil {
		return fmt.Errorf("programs for the guest: %w", err)
	}
	agent, err := buildAgent()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	for _, piece := range []string{modules, programs} {
		if err := appendFile(out, piece); err != nil {
			return err
		}
	}
	if err := c.writeOwn(out, agent); err != nil {
		return fmt.Errorf("files for the guest: %w", err)
	}
	return out.Close()
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

// writeOwn writes the piece that no other guest shares.
func (c Config) writeOwn(out io.Writer, agent string) error {
	a := initramfs.New(out)
	a.Symlink("/init", "usr/bin/agent")
	errs := []error{a.Copy("/usr/bin/agent", agent)}
	for _, name := range slices.Sorted(maps.Keys(c.Files)) {
		errs = append(errs, a.Copy(name, c.Files[name]))
	}
	for _, name := range c.Programs {
		host := kernel.Program(name)
		errs = append(errs, a.Program("/usr/bin/"+filepath.Base(name), host))
	}
	return errors.Join(append(errs, a.Close())...)
}

// modulesPiece gives the archive with the kernel's modules.
func (c Config) modulesPiece(cacheDir string) (string, error) {
	modules, err := initramfs.ReadModules(c.Kernel.Modules)
	if err != nil {
		return "", err
	}
	names := slices.Clone(baseModules[:])
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
	return piece(cacheDir, "modules-"+key, func(a *initramfs.Archive) error {
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
	return piece(cacheDir, "programs-"+cache.Key(layoutVersion, contents), func(a *initramfs.Archive) error {
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

// piece gives the path of an archive in the cache, made if it is not there.
func piece(cacheDir, name string, fill func(*initramfs.Archive) error) (string, error) {
	dir := filepath.Join(cacheDir, "pieces", name)
	err := cache.Fill(dir, func(dir string) error {
		f, err := os.Create(filepath.Join(dir, "cpio"))
		if err != nil {
			return err
		}
		defer f.Close()
		a := initramfs.New(f)
		if err := fill(a); err != nil {
			return err
		}
		return errors.Join(a.Close(), f.Close())
	})
	return filepath.Join(dir, "cpio"), err
}
