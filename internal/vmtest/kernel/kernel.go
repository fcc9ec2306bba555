// Package kernel finds and fetches the kernels that guests run: Debian's (or
// Ubuntu's) own packages, unpacked into the cache and never installed, or one
// the user brings.
package kernel

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Kernel is ready to boot.
type Kernel struct {
	Name    string // what tests and people call it: its version, such as "6.12"
	Release string // what uname -r says, such as "6.12.95+deb12-amd64"
	Image   string // path of the bzImage
	Modules string // path of the directory with modules.dep, kernel/…
}

func (k Kernel) String() string { return k.Name + " (" + k.Release + ")" }

// A Spec says where a Kernel comes from.
type Spec struct {
	Name    string // the version that it must be, such as "6.12", or Newest
	Suite   string // of the machine's mirror; empty: the machine's own sources
	Package string // a meta package; its dependencies name the version
}

// Newest is the name of a Spec whose suite moves on: its kernel is called by
// the version that was there when it was fetched. Remove its directory from the
// cache to fetch what is there now.
const Newest = "newest"

// Matrix gives the kernels that are tested on a machine of a distribution (ID
// in os-release(5)), the Newest last. Ubuntu's mirrors have no Debian suites, so
// there it is the one kernel of its own archive.
func Matrix(distribution string) []Spec {
	if distribution == "debian" {
		return []Spec{
			{Name: "6.1", Suite: "bookworm", Package: "linux-image-amd64"},
			{Name: "6.12", Suite: "bookworm-backports", Package: "linux-image-amd64"},
			{Name: Newest, Suite: "trixie-backports", Package: "linux-image-amd64"},
		}
	}
	return []Spec{{Name: Newest, Package: "linux-image-generic"}}
}

// Config gives the path of the file with the kernel's configuration, which
// older packages have beside the image, newer ones beside the modules.
func (k Kernel) Config() (string, error) {
	for _, path := range []string{
		filepath.Join(filepath.Dir(k.Image), "config-"+k.Release),
		filepath.Join(k.Modules, "config"),
	} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("kernel %s has no file with its configuration", k)
}

// ErrMissing is the error of Find for a kernel that was not fetched yet.
var ErrMissing = errors.New("kernel is not in the cache")

const manifest = "kernel.json"

// Find gives the kernel of a Spec from the cache.
func Find(cacheDir string, spec Spec) (Kernel, error) {
	dir := place(cacheDir, spec)
	text, err := os.ReadFile(filepath.Join(dir, manifest))
	if errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, fmt.Errorf("%s: %w", spec.Name, ErrMissing)
	}
	if err != nil {
		return Kernel{}, err
	}
	var k Kernel
	if err := json.Unmarshal(text, &k); err != nil {
		return Kernel{}, fmt.Errorf("read %s: %w", filepath.Join(dir, manifest), err)
	}
	// The manifest names places below its own directory.
	k.Name = short(k.Release)
	k.Image = filepath.Join(dir, k.Image)
	k.Modules = filepath.Join(dir, k.Modules)
	return k, nil
}

// fits is an error for a release that is not the version which the Spec
// promises.
func (s Spec) fits(release string) error {
	if s.Name == Newest || strings.HasPrefix(release, s.Name+".") {
		return nil
	}
	return fmt.Errorf("it is now Linux %s: correct kernel.Matrix, or set VMLINUZ and MODULES to a kernel of your own", release)
}

// Choose gives the kernels in the cache that go by names, or all of them, in
// the order of the matrix. A name is a version, such as "6.12", or Newest. The
// kernel that the user brings (see Own) is the only one, whatever names say. A
// kernel that is asked for and not there is an error.
func Choose(cacheDir string, getenv func(string) string, names ...string) ([]Kernel, error) {
	own, ok, err := Own(getenv)
	if ok || err != nil {
		return []Kernel{own}, err
	}
	id, _, err := Distribution()
	if err != nil {
		return nil, err
	}
	return choose(cacheDir, Matrix(id), names)
}

func choose(cacheDir string, matrix []Spec, names []string) ([]Kernel, error) {
	var chosen []Kernel
	var known []string
	missing := slices.Clone(names)
	for _, spec := range matrix {
		k, err := Find(cacheDir, spec)
		called := func(name string) bool { return name == spec.Name || err == nil && name == k.Name }
		known = append(known, cmp.Or(k.Name, spec.Name))
		if len(names) > 0 && !slices.ContainsFunc(names, called) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: fetch it with go run ./internal/vmtest/vmsetup", err)
		}
		chosen = append(chosen, k)
		missing = slices.DeleteFunc(missing, called)
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("there is no kernel %s here: there are %s", strings.Join(missing, ", "), strings.Join(known, ", "))
	}
	return chosen, nil
}

func place(cacheDir string, spec Spec) string {
	return filepath.Join(cacheDir, "kernels", spec.Name)
}

// Own gives the kernel that the user brings: VMLINUZ is the image, MODULES the
// directory with its modules, the one with modules.dep. ok is false when
// neither is set.
func Own(getenv func(string) string) (k Kernel, ok bool, err error) {
	image, modules := getenv("VMLINUZ"), getenv("MODULES")
	switch {
	case image == "" && modules == "":
		return Kernel{}, false, nil
	case image == "" || modules == "":
		return Kernel{}, true, errors.New("set both VMLINUZ (the image) and MODULES (its directory of modules), or neither")
	}
	for _, path := range []string{image, filepath.Join(modules, "modules.dep")} {
		if _, err := os.Stat(path); err != nil {
			return Kernel{}, true, fmt.Errorf("the kernel of VMLINUZ and MODULES: %w", err)
		}
	}
	release := filepath.Base(modules)
	return Kernel{Name: short(release), Release: release, Image: image, Modules: modules}, true, nil
}

// short makes "6.12" of "6.12.95+deb12-amd64".
func short(release string) string {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return release
	}
	return parts[0] + "." + parts[1]
}

// Distribution reads the fields ID and VERSION_CODENAME of os-release(5).
func Distribution() (id, codename string, err error) {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.Trim(value, `"'`); key {
		case "ID":
			id = value
		case "VERSION_CODENAME":
			codename = value
		}
	}
	return id, codename, nil
}
