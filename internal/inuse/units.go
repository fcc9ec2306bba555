package inuse

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"
)

// unitDirs are where units are that somebody wrote (systemd.unit(5)). Those that
// a generator makes of fstab and crypttab are not among them.
var unitDirs = [...]string{"etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system"}

// unitEntries reads what units mount and swap to (systemd.mount(5),
// systemd.swap(5)), whether or not they are enabled, and their drop-ins.
func (l *look) unitEntries() []entry {
	var all []entry
	for _, dir := range unitDirs {
		for _, pattern := range []string{"*.mount", "*.swap", "*.mount.d/*.conf", "*.swap.d/*.conf"} {
			// The only error is that of a faulty pattern.
			paths, _ := filepath.Glob(filepath.Join(l.root, dir, pattern))
			for _, path := range paths {
				text, err := os.ReadFile(path)
				var entries []entry
				if err == nil {
					entries, err = parseUnit(l.fromRoot(path), text)
				}
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					l.report.doubt("be root, and mend the unit", "what is named for use cannot be read: %v", err)
				}
				all = append(all, entries...)
			}
		}
	}
	return all
}

// fromRoot gives the name of a file below the root as the machine has it.
func (f *Finder) fromRoot(path string) string {
	return strings.TrimPrefix(path, strings.TrimSuffix(filepath.Clean(f.root), "/"))
}

// parseUnit reads the devices that a unit, or a drop-in of one, names.
func parseUnit(name string, text []byte) ([]entry, error) {
	options, err := unit.DeserializeOptions(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var point string
	for _, o := range options {
		if o.Section == "Mount" && o.Name == "Where" {
			point = o.Value
		}
	}
	var entries []entry
	for _, o := range options {
		if o.Name != "What" {
			continue
		}
		e := entry{place: name, text: o.Value}
		switch {
		case o.Section == "Swap":
			e.text += " as swap"
		case o.Section == "Mount" && point != "":
			e.point = point
			e.text += " on " + point
		case o.Section != "Mount":
			continue
		}
		for _, e.spec = range parseSpecs(o.Value) {
			entries = append(entries, e)
		}
	}
	return entries, nil
}
