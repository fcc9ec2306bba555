package inuse

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vfio-hotplug/internal/sysfs"
)

// number is the device number of a block or character device.
type number struct{ major, minor uint32 }

func (n number) String() string { return fmt.Sprintf("%d:%d", n.major, n.minor) }

func (n number) compare(o number) int {
	return cmp.Or(cmp.Compare(n.major, o.major), cmp.Compare(n.minor, o.minor))
}

func parseNumber(s string) (number, error) {
	major, minor, _ := strings.Cut(s, ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if err1 != nil || err2 != nil {
		return number{}, fmt.Errorf("%q is not a device number", s)
	}
	return number{uint32(a), uint32(b)}, nil
}

// disk is a block device: a whole one, or a partition.
type disk struct {
	name   string // such as nvme1n1, the kernel's and that of its node
	number number
	bytes  int64

	// by is the part of the device under the look that leads to this disk, where
	// that is not the disk itself: a path of its head, or the same namespace
	// through another controller.
	by string
	// twin says that another disk of the look has the same contents.
	twin bool
}

// chain gives the beginning of a chain, down to the disk or a partition of it.
func (d disk) chain(name string) []string {
	if d.by == "" {
		return []string{name}
	}
	return []string{d.by, name}
}

// node is the path of the disk's node below /dev. The kernel writes a slash in
// a name as "!" (lib/kobject.c).
func (d disk) node(dev string) string { return dev + "/" + strings.ReplaceAll(d.name, "!", "/") }

var errHidden = errors.New("the kernel shows no block device for it")

// readDisk reads the directory of a block device. A disk without a number has
// no node and is errHidden (block/genhd.c, GENHD_FL_HIDDEN).
func readDisk(dir sysfs.Dir, name string) (disk, error) {
	hidden, err := attribute(dir, "hidden")
	if err != nil && !sysfs.Gone(err) {
		return disk{}, err
	}
	if hidden == "1" {
		return disk{}, errHidden
	}
	text, err := attribute(dir, "dev")
	if err != nil {
		return disk{}, err
	}
	d := disk{name: name}
	if d.number, err = parseNumber(text); err != nil {
		return disk{}, err
	}
	size, err := attribute(dir, "size")
	if err != nil {
		return disk{}, err
	}
	// In units of 512 bytes, whatever the disk's own.
	sectors, err := strconv.ParseInt(size, 10, 64)
	d.bytes = sectors * 512
	return d, err
}

// partitions gives the partitions of a disk or of a device built on disks. A device
// that has gone has none.
func (f *Finder) partitions(name string) ([]disk, error) {
	dir, err := f.sys.Open("class/block/" + name)
	if sysfs.Gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.List(".")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var parts []disk
	for _, child := range names {
		if !strings.HasPrefix(child, name) { // as the kernel names all partitions (block/partitions/core.c)
			continue
		}
		part, err := readPartition(dir, child)
		if sysfs.Gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}

func readPartition(of sysfs.Dir, name string) (disk, error) {
	dir, err := of.Open(name)
	if err != nil {
		return disk{}, err
	}
	defer dir.Close()
	return readDisk(dir, name)
}

func attribute(dir sysfs.Dir, name string) (string, error) {
	text, err := dir.Read(name)
	return strings.TrimSpace(text), err
}

// list gives the names in a directory in order, none where it is missing.
func list(dir sysfs.Dir, name string) ([]string, error) {
	names, err := dir.List(name)
	if err != nil && !sysfs.Gone(err) {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}
