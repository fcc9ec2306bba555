package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// notNVMe is how nodes are named that no NVMe drive brings: what the kernel
// calls the disks of other drivers, and udev's links to these.
var notNVMe = regexp.MustCompile(`^/dev/((sd|sr|scd|st|hd|vd|xvd|mmcblk|fd|pmem|ram|zram|loop|nbd|rbd)[a-z0-9]*|(cdrom|cdrw|dvd|dvdrw|floppy)[0-9]*|disk/by-id/(ata|scsi|usb|virtio|mmc|wwn)-.*)$`)

// zpoolCache lists the ZFS pools that are imported at boot, and their devices in a
// format of ZFS's own.
const zpoolCache = "etc/zfs/zpool.cache"

// Awaited gives what fstab, crypttab, units or the kernel's command line name and is
// not there yet, though an NVMe drive may bring it, or a list of ZFS pools, on
// whatever drives they are; "" for nothing. It is for the time before udev loads
// drivers: a drive that no driver has read may then be the one that the machine
// waits for, itself or as a part of a volume group or an array. Lines with noauto
// or nofail do not count: the boot goes on without what they name.
//
// It opens no device and does not wait. A table that cannot be read is an error.
func (f *Finder) Awaited() (string, error) {
	l := &look{Finder: f}
	points, err := l.ownPoints()
	if err != nil {
		return "", err
	}
	entries := l.entries(users{points: points})
	if doubts := l.report.Doubts; len(doubts) > 0 {
		return "", errors.New(doubts[0].Text)
	}
	for _, e := range entries {
		if !e.found && !e.spare && !e.isRoot() && !notNVMe.MatchString(e.node) {
			return e.String(), nil
		}
	}
	if pools, err := os.Stat(filepath.Join(l.root, zpoolCache)); err == nil && pools.Size() > 0 {
		return "/" + zpoolCache + ": ZFS pools", nil
	}
	return "", nil
}

// isRoot reports whether an entry is the kernel's name for the root file system,
// which is there, or we were not: the link of a PARTUUID need not be.
func (e entry) isRoot() bool {
	return e.place == commandLine && strings.HasPrefix(e.text, "root=")
}

// ownPoints gives the mount points that this process sees. So early there is
// nothing of others to hide, and to read process 1's takes a capability.
func (l *look) ownPoints() (map[string]bool, error) {
	table, err := os.ReadFile(filepath.Join(l.proc, "self/mountinfo"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read what is mounted: %w", err)
	}
	points := map[string]bool{}
	number := 0
	for line := range strings.Lines(string(table)) {
		number++
		m, ok := parseMount(line)
		if !ok {
			return nil, fmt.Errorf("read what is mounted: line %d of mountinfo is %q", number, strings.TrimSuffix(line, "\n"))
		}
		points[m.point] = true
	}
	return points, nil
}
