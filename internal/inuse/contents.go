package inuse

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
)

// contents is what blkid knows of a block device: udev's properties of it, nil
// for nothing.
type contents map[string]string

// parseProperties reads what blkid -o udev prints.
func parseProperties(text string) contents {
	c := contents{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		c[key] = value
	}
	return c
}

// kind is what is there, in words. Anything that blkid says is something.
func (c contents) kind() string {
	switch kind, table := decode(c["ID_FS_TYPE"]), c["ID_PART_TABLE_TYPE"]; {
	case kind != "":
		return kind
	case table != "":
		return "a partition table (" + table + ")"
	}
	return "something that blkid knows"
}

func (c contents) label() string { return decode(c["ID_FS_LABEL_ENC"]) }

// String is what is there with its label, such as `ext4 "data"`.
func (c contents) String() string { return words(c.kind(), c.label()) }

// container reports whether other block devices are made of it: a member of
// LVM, md and the like, LUKS, and those that blkid counts otherwise.
func (c contents) container() bool {
	switch c["ID_FS_USAGE"] {
	case "raid", "crypto":
		return true
	}
	return c["ID_FS_TYPE"] == "zfs_member" || c["ID_FS_TYPE"] == "bcache"
}

// contents looks at disks that nobody uses: whether somebody has put them down
// for use, and for Blank, whether anything is on them. Files are those that are
// open already.
func (l *look) contents(ctx context.Context, u users, disks []disk, files []*os.File) error {
	if len(disks) == 0 {
		return nil
	}
	entries := l.entries(u)
	for i, d := range disks {
		if d.twin {
			continue
		}
		var file *os.File
		if i < len(files) {
			file = files[i]
		}
		if err := l.diskContents(ctx, entries, d, file); err != nil {
			return fmt.Errorf("look at what is on %s: %w", d.name, err)
		}
	}
	return nil
}

func (l *look) diskContents(ctx context.Context, entries []entry, d disk, file *os.File) error {
	parts, err := l.partitions(d.name)
	if err != nil {
		return err
	}
	for _, p := range append([]disk{d}, parts...) {
		if l.unlinked(entries, p.number) {
			return &NotSettledError{"udev has not made its links for " + p.name + " yet"}
		}
	}
	// An entry with a tag, or one whose device is not there, is about contents.
	about := slices.ContainsFunc(entries, func(e entry) bool { return e.tag != "" || !e.found })
	var c contents
	if l.Blank || about {
		if c, err = l.readDisk(ctx, d, file); err != nil {
			return err
		}
	}
	if !l.named(entries, d.number, c, d.chain(d.name)) && l.Blank && c != nil {
		l.report.Signatures = append(l.report.Signatures, Signature{Disk: d.name, Type: c.kind(), Label: c.label()})
	}
	for _, p := range parts {
		var c contents
		if about {
			if c, err = l.readDisk(ctx, p, nil); err != nil {
				return err
			}
		}
		l.named(entries, p.number, c, d.chain(p.name))
	}
	return nil
}

// readDisk reads a disk or a partition, through a file of it or by opening it
// for the moment, without a claim.
func (l *look) readDisk(ctx context.Context, d disk, file *os.File) (contents, error) {
	if file == nil {
		var err error
		if file, err = l.open(d, false); file == nil {
			return nil, err
		}
		defer file.Close()
	}
	return l.read(ctx, d, file), nil
}
