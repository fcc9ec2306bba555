package initramfs

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// libraryDirs is where the dynamic linker looks without being told: Debian's
// places, then those of others.
var libraryDirs = [...]string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib",
}

// Program adds the host's program at hostPath under name, and under their own
// names the shared libraries that it needs.
func (a *Archive) Program(name, hostPath string) error {
	if err := a.Copy(name, hostPath); err != nil {
		return err
	}
	libraries, err := Libraries(hostPath)
	if err != nil {
		return err
	}
	for _, library := range libraries {
		if a.made[library] {
			continue
		}
		a.made[library] = true
		if err := a.Copy(library, library); err != nil {
			return err
		}
	}
	return nil
}

// Libraries gives the paths of the shared libraries and of the dynamic linker
// that an executable needs, none for a static one.
func Libraries(executable string) ([]string, error) {
	var found []string
	seen := map[string]bool{}
	for queue := []string{executable}; len(queue) > 0; queue = queue[1:] {
		linker, needed, err := imports(queue[0])
		if err != nil {
			return nil, err
		}
		if linker != "" && !seen[linker] {
			seen[linker] = true
			found = append(found, linker)
		}
		for _, name := range needed {
			if seen[name] {
				continue
			}
			seen[name] = true
			library, err := library(name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", executable, err)
			}
			found = append(found, library)
			queue = append(queue, library)
		}
	}
	return found, nil
}

func imports(path string) (linker string, needed []string, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil {
			return "", nil, fmt.Errorf("%s: %w", path, err)
		}
		linker = strings.TrimRight(string(name), "\x00")
	}
	needed, err = f.ImportedLibraries()
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	return linker, needed, nil
}

func library(name string) (string, error) {
	for _, dir := range libraryDirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("shared library %s is in none of the usual directories", name)
}
