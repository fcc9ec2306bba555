// Package initramfs makes the small root file systems that guests boot from.
package initramfs

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// An Archive writes a cpio archive in the "newc" format (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst). Archives may be
// written one after the other: the kernel unpacks them all, a later file
// replacing an earlier one. Parent directories come by themselves. All belongs
// to root.
//
// Names are absolute. /bin, /sbin, /lib and /lib64 are links into /usr, as on
// Debian.
type Archive struct {
	w    io.Writer
	ino  int
	made map[string]bool
	err  error
}

// The types of file that an archive has, as in stat(2).
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
)

// New starts an archive. The first error of w is kept for Close.
func New(w io.Writer) *Archive {
	a := &Archive{w: w, made: map[string]bool{".": true, "/": true}}
	for _, dir := range merged {
		a.Symlink("/"+dir, "usr/"+dir)
	}
	return a
}

var merged = [...]string{"bin", "sbin", "lib", "lib64"}

// Dir adds a directory.
func (a *Archive) Dir(name string) {
	name = clean(name)
	if a.made[name] {
		return
	}
	a.parents(name)
	a.made[name] = true
	a.entry(name, typeDir|0o755, nil)
}

// File adds a file with contents.
func (a *Archive) File(name string, mode fs.FileMode, contents []byte) {
	name = clean(name)
	a.parents(name)
	a.entry(name, typeFile|uint32(mode.Perm()), contents)
}

// Symlink adds a symbolic link.
func (a *Archive) Symlink(name, target string) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	a.parents(name)
	a.entry(name, typeLink|0o777, []byte(target))
}

// Copy adds the file at hostPath under another name, with its permissions.
func (a *Archive) Copy(name, hostPath string) error {
	info, err := os.Stat(hostPath)
	if err != nil {
		return err
	}
	contents, err := os.ReadFile(hostPath)
	if err != nil {
		return err
	}
	a.File(name, info.Mode(), contents)
	return nil
}

// Tree adds all files below the directory hostDir under name.
func (a *Archive) Tree(name, hostDir string) error {
	return filepath.WalkDir(hostDir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(hostDir, file)
		if err != nil {
			return err
		}
		return a.Copy(path.Join(name, rel), file)
	})
}

// Close ends the archive and gives the first error there was.
func (a *Archive) Close() error {
	a.entry(trailer, 0, nil)
	return a.err
}

func clean(name string) string {
	name = strings.TrimPrefix(path.Clean(name), "/")
	first, _, _ := strings.Cut(name, "/")
	for _, dir := range merged {
		if first == dir {
			return "usr/" + name
		}
	}
	return name
}

func (a *Archive) parents(name string) {
	if parent := path.Dir(name); !a.made[parent] {
		a.Dir("/" + parent)
	}
}

func (a *Archive) entry(name string, mode uint32, contents []byte) {
	a.ino++
	header := fmt.Sprintf(magic+"%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.ino, mode, 0, 0, 1, 0, len(contents), 0, 0, 0, 0, len(name)+1, 0)
	a.write(pad(append([]byte(header+name), 0)))
	a.write(pad(contents))
}

func (a *Archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
	}
}

// pad fills up to a multiple of four bytes. A header with its name starts at
// such a multiple.
func pad(b []byte) []byte {
	return append(b[:len(b):len(b)], make([]byte, -len(b)&3)...)
}
