package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"vfio-hotplug/internal/vmtest/apt"
	"vfio-hotplug/internal/vmtest/cache"
)

// keyrings are the places of Debian's archive keys, newest spelling first.
var keyrings = [...]string{
	"/usr/share/keyrings/debian-archive-keyring.pgp",
	"/usr/share/keyrings/debian-archive-keyring.gpg",
}

// Fetch brings the kernel of a Spec into the cache, unless it is there. It
// says on out what it does. It needs apt, dpkg-deb and depmod, and no
// privilege.
func Fetch(ctx context.Context, cacheDir string, spec Spec, out io.Writer) (Kernel, error) {
	fill := func(dir string) error {
		fmt.Fprintf(out, "kernel %s: fetching %s %s\n", spec.Name, spec.Package, from(spec.Suite))
		return unpack(ctx, cacheDir, spec, dir, out)
	}
	if err := cache.Fill(place(cacheDir, spec), fill); err != nil {
		return Kernel{}, fmt.Errorf("kernel %s, package %s %s: %w", spec.Name, spec.Package, from(spec.Suite), err)
	}
	return Find(cacheDir, spec)
}

func from(suite string) string {
	if suite == "" {
		return "of this machine's own sources"
	}
	return "of the suite " + suite
}

func unpack(ctx context.Context, cacheDir string, spec Spec, dir string, out io.Writer) error {
	archive, err := Archive(ctx, cacheDir, spec.Suite, out)
	if err != nil {
		return err
	}
	packages, err := archive.Closure(ctx, spec.Package, "linux-image-", "linux-binary-", "linux-modules-", "linux-base-")
	if err != nil {
		return err
	}
	if err := archive.Unpack(ctx, dir, packages...); err != nil {
		return err
	}
	k, err := layout(dir)
	if err != nil {
		return err
	}
	if err := spec.fits(k.Release); err != nil {
		return err
	}
	if err := depmod(ctx, dir, k.Release); err != nil {
		return err
	}
	// Documentation is most of what is left besides.
	if err := os.RemoveAll(filepath.Join(dir, "usr/share")); err != nil {
		return err
	}
	text, err := json.MarshalIndent(k, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifest), text, 0o600)
}

// Archive opens, with fresh lists, a suite of the Debian mirror that this
// machine uses; or, for the empty suite, all that this machine uses.
func Archive(ctx context.Context, cacheDir, suite string, out io.Writer) (*apt.Archive, error) {
	dir := filepath.Join(cacheDir, "apt", "machine")
	open := func() (*apt.Archive, error) { return apt.OpenMachine(dir, out) }
	if suite != "" {
		source, err := Source(suite)
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(cacheDir, "apt", suite)
		open = func() (*apt.Archive, error) { return apt.Open(dir, source, out) }
	}
	archive, err := open()
	if err != nil {
		return nil, err
	}
	return archive, archive.Update(ctx)
}

// Source gives a suite of the Debian mirror that this machine uses, with the
// keyring that its signature is checked against.
func Source(suite string) (apt.Source, error) {
	_, codename, err := Distribution()
	if err != nil {
		return apt.Source{}, err
	}
	sources, err := apt.Sources(os.DirFS("/etc/apt"))
	if err != nil {
		return apt.Source{}, err
	}
	main, ok := apt.Main(sources, codename)
	if !ok {
		return apt.Source{}, fmt.Errorf("no source in /etc/apt has the main component of %s: add one, or set VMLINUZ and MODULES to a kernel of your own", codename)
	}
	for _, keyring := range keyrings {
		if _, err := os.Stat(keyring); err == nil {
			return main.Suite(suite, keyring), nil
		}
	}
	return apt.Source{}, errors.New("the archive keys of Debian are not there: apt-get install debian-archive-keyring")
}

// layout finds the image and the modules in unpacked packages, with paths
// relative to dir. Older packages have /boot/vmlinuz-RELEASE and
// /lib/modules/RELEASE, newer ones /usr/lib/modules/RELEASE/vmlinuz.
func layout(dir string) (Kernel, error) {
	for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
		entries, err := os.ReadDir(filepath.Join(dir, lib))
		if err != nil || len(entries) == 0 {
			continue
		}
		release := entries[0].Name()
		modules := filepath.Join(lib, release)
		for _, image := range []string{"boot/vmlinuz-" + release, filepath.Join(modules, "vmlinuz")} {
			if _, err := os.Stat(filepath.Join(dir, image)); err == nil {
				return Kernel{Release: release, Image: image, Modules: modules}, nil
			}
		}
	}
	return Kernel{}, errors.New("the packages hold no vmlinuz with modules")
}

// depmod writes modules.dep and its kin, which a package's maintainer script
// would have done.
func depmod(ctx context.Context, dir, release string) error {
	base := dir
	if _, err := os.Stat(filepath.Join(dir, "lib/modules", release)); err != nil {
		base = filepath.Join(dir, "usr")
	}
	text, err := exec.CommandContext(ctx, Program("depmod"), "-b", base, release).CombinedOutput()
	if err != nil {
		return fmt.Errorf("depmod: %w: %s", err, text)
	}
	return nil
}

// Program finds a program by its name, also where PATH of an ordinary user
// does not look.
func Program(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return name
}
