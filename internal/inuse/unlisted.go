package inuse

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vfio-hotplug/internal/sysfs"
)

// unlisted finds the major numbers of character devices that the driver has
// registered under its name, or that of its module. What has such a number need not
// show in sysfs: nvidia makes its nodes without it. They tell nothing of which
// device of the driver they are for, so that each counts for every one.
func (l *look) unlisted() {
	table, err := os.ReadFile(filepath.Join(l.proc, "devices"))
	if errors.Is(err, fs.ErrNotExist) && l.allOfProc() { // else it shows processes only
		err = nil
	}
	names := []string{plainName(l.facts.Driver)}
	module, fault := l.sys.Readlink("bus/pci/drivers/" + l.facts.Driver + "/module")
	switch {
	case fault == nil:
		names = append(names, plainName(path.Base(module)))
	case !sysfs.Gone(fault): // else it is built in
		err = both(err, fault)
	}
	if err != nil {
		l.report.doubt("be root", "which nodes %s has cannot be told: %v", l.facts.Driver, err)
	}
	l.majors = parseMajors(string(table), func(name string) bool {
		return slices.ContainsFunc(names, func(ours string) bool { return strings.HasPrefix(plainName(name), ours) })
	})
}

// plainName gives a name as the kernel compares those of modules.
func plainName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// parseMajors gives the major numbers of the character devices in /proc/devices
// that have a wanted name.
func parseMajors(table string, wanted func(name string) bool) []uint32 {
	characters, _, _ := strings.Cut(table, "Block devices:")
	var majors []uint32
	for line := range strings.Lines(characters) {
		fields := strings.Fields(line)
		if len(fields) != 2 || !wanted(fields[1]) {
			continue
		}
		if major, err := strconv.ParseUint(fields[0], 10, 32); err == nil {
			majors = append(majors, uint32(major))
		}
	}
	return majors
}

// unlistedUses notes the programs that have such a device open, unless sysfs shows
// it below a device: below ours it was found there.
func (l *look) unlistedUses(all opens) {
	if len(l.majors) == 0 {
		return
	}
	var ours []device
	for d := range all {
		if d.character && slices.Contains(l.majors, d.number.major) && l.belongsToNone(d.number) {
			ours = append(ours, d)
		}
	}
	slices.SortFunc(ours, func(a, b device) int { return a.number.compare(b.number) })
	for _, d := range ours {
		name := d.number.String()
		if target, err := os.Readlink(all[d][0].link); err == nil && strings.HasPrefix(target, l.dev+"/") {
			l.report.nodes = append(l.report.nodes, target)
			name = strings.TrimPrefix(target, l.dev+"/")
		}
		l.openUses(all, d, []string{name})
	}
}

// belongsToNone reports whether sysfs shows a character device below no other,
// or not at all.
func (l *look) belongsToNone(n number) bool {
	target, err := l.sys.Readlink("dev/char/" + n.String())
	return err != nil || strings.Contains(target, "/devices/virtual/")
}
