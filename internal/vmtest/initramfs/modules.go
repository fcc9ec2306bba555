package initramfs

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Modules is what modules.dep and modules.builtin say about a kernel
// (modules.dep(5)).
type Modules struct {
	dir     string
	files   map[string]string   // name to file below dir
	needs   map[string][]string // name to files it needs, first to load last
	builtin map[string]bool
}

// ReadModules reads a directory of modules, such as /lib/modules/6.1.0-50-amd64.
func ReadModules(dir string) (*Modules, error) {
	m := &Modules{dir: dir, files: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(dep)) {
		file, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		name := ModuleName(file)
		m.files[name] = file
		m.needs[name] = strings.Fields(needs)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(builtin)) {
		m.builtin[ModuleName(strings.TrimSpace(line))] = true
	}
	return m, nil
}

// ModuleName gives the name that the kernel calls a module by: vfio_pci for
// kernel/drivers/vfio/pci/vfio-pci.ko.xz, and for vfio-pci.
func ModuleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// Has tells whether the kernel has a module, be it built in.
func (m *Modules) Has(name string) bool {
	name = ModuleName(name)
	return m.files[name] != "" || m.builtin[name]
}

// Closure gives the files, relative to the directory, of modules and of all
// that they need, in an order to load them in. A module that is built in has
// none.
func (m *Modules) Closure(names ...string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	add := func(file string) {
		if !seen[file] {
			seen[file] = true
			files = append(files, file)
		}
	}
	for _, name := range names {
		name = ModuleName(name)
		switch {
		case m.files[name] != "":
			for _, file := range slices.Backward(m.needs[name]) {
				add(file)
			}
			add(m.files[name])
		case !m.builtin[name]:
			return nil, fmt.Errorf("the kernel %s has no module %s", filepath.Base(m.dir), name)
		}
	}
	return files, nil
}

// Stage makes below root a directory lib/modules/RELEASE with the named
// modules, unpacked, and all that they need, so that modprobe works there.
// depmod is the path of that program.
func (m *Modules) Stage(root, depmod string, names ...string) error {
	files, err := m.Closure(names...)
	if err != nil {
		return err
	}
	release := filepath.Base(m.dir)
	to := filepath.Join(root, "lib/modules", release)
	for _, file := range files {
		if err := expand(filepath.Join(m.dir, file), filepath.Join(to, plain(file))); err != nil {
			return err
		}
	}
	for _, list := range []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"} {
		contents, err := os.ReadFile(filepath.Join(m.dir, list))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, list), contents, 0o644); err != nil {
			return err
		}
	}
	out, err := exec.Command(depmod, "-b", root, release).CombinedOutput()
	if err != nil {
		return fmt.Errorf("depmod: %w: %s", err, out)
	}
	return nil
}

// plain is the file's name without the suffix of a compression.
func plain(file string) string {
	before, _, _ := strings.Cut(file, ".ko")
	return before + ".ko"
}

// expand copies a module, unpacked on the way: an emulated processor takes its
// time for that.
func expand(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	tool := map[string]string{".ko": "copy", ".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[filepath.Ext(from)]
	switch tool {
	case "":
		return fmt.Errorf("%s: no known compression", from)
	case "copy":
		contents, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		return os.WriteFile(to, contents, 0o644)
	}
	contents, err := exec.Command(tool, "-dc", from).Output()
	if err != nil {
		return fmt.Errorf("%s -dc %s: %w", tool, from, err)
	}
	return os.WriteFile(to, contents, 0o644)
}
