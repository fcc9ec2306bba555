package inuse

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"vfio-hotplug/internal/sysfs"
)

// mount is a line of mountinfo (proc(5)).
type mount struct {
	number number
	point  string
	fstype string
	source string
}

func parseMount(line string) (mount, bool) {
	fields := strings.Fields(line)
	dash := slices.Index(fields, "-")
	if dash < 6 || len(fields) < dash+3 {
		return mount{}, false
	}
	n, err := parseNumber(fields[2])
	return mount{n, unescape(fields[4]), fields[dash+1], unescape(fields[dash+2])}, err == nil
}

// addMount notes a mount under its device. A file system of several devices,
// such as btrfs or bcachefs, has a number of its own with major 0; its source
// then names one device or, with colons, all. Others with such a number may call their
// source what they like, and to follow a path can wait for a dead file server.
func (l *look) addMount(u users, m mount) {
	u.points[m.point] = true
	if m.number.major != 0 {
		u.mounts[m.number] = append(u.mounts[m.number], m.point)
		return
	}
	btrfs, bcachefs := m.fstype == "btrfs", m.fstype == "bcachefs"
	sources := []string{m.source}
	switch {
	case bcachefs:
		sources = nodesOf(m.source)
	case !btrfs && !strings.HasPrefix(path.Clean(m.source), "/dev/"):
		return
	}
	for _, source := range sources {
		d, ok, err := l.led(source)
		switch {
		case err != nil && (bcachefs || btrfs && !l.showsBtrfs()):
			l.report.doubt("see what it is: findmnt "+m.point, "what is mounted on %s cannot be told: %v", m.point, err)
		case ok && !d.character:
			u.mounts[d.number] = append(u.mounts[d.number], m.point)
		}
	}
}

// showsBtrfs reports whether sysfs shows devices of btrfs: then it shows all of
// those that are mounted, whatever the name that they were mounted by.
func (l *look) showsBtrfs() bool {
	ids, _ := list(l.sys, "fs/btrfs")
	return slices.ContainsFunc(ids, func(id string) bool {
		names, _ := list(l.sys, "fs/btrfs/"+id+"/devices")
		return len(names) > 0
	})
}

// addBtrfs gives every device of a mounted btrfs the mounts that mountinfo
// shows for any of them.
func (l *look) addBtrfs(u users) {
	ids, err := list(l.sys, "fs/btrfs")
	for _, id := range ids {
		members, fault := l.btrfsMembers(id)
		err = both(err, fault)
		var points []string
		for _, n := range members {
			points = append(points, u.mounts[n]...)
		}
		if len(points) == 0 {
			points = []string{"btrfs " + id}
		}
		for _, n := range members {
			u.mounts[n] = points
		}
	}
	if err != nil {
		l.report.doubt("run as root", "the devices of btrfs cannot be read: %v", err)
	}
}

func (l *look) btrfsMembers(id string) ([]number, error) {
	names, err := list(l.sys, "fs/btrfs/"+id+"/devices")
	var members []number
	for _, name := range names {
		n, fault := l.blockNumber(name)
		switch {
		case fault == nil:
			members = append(members, n)
		case !sysfs.Gone(fault):
			err = both(err, fault)
		}
	}
	return members, err
}

// unescape undoes the \ooo by which procfs writes blanks and backslashes
// (fs/seq_file.c, mangle_path).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
