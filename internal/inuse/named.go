package inuse

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// tables are where drives are named that nobody need be using.
var tables = [...]struct {
	path  string
	parse func(string) ([]entry, error)
}{
	{"etc/fstab", parseFstab},
	{"etc/crypttab", parseCrypttab},
	{"proc/cmdline", parseCommandLine},
}

// entries reads the tables and systemd's units. One that is not there names nothing.
func (l *look) entries(u users) []entry {
	l.doing("the look for what is named in fstab and the like")
	var all []entry
	for _, table := range tables {
		text, err := os.ReadFile(filepath.Join(l.root, table.path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.report.doubt("be root", "what is named for use cannot be read: %v", err)
		}
		entries, err := table.parse(string(text))
		if err != nil {
			l.report.doubt("mend or delete that line", "what is named for use cannot be read: %v", err)
		}
		all = append(all, entries...)
	}
	all = append(all, l.unitEntries()...)
	for i := range all {
		l.find(u, &all[i])
	}
	return all
}

// numberLinks is where udev has a link for the number of each block device.
const numberLinks = "/dev/block/"

// made is how nodes are named that a container may bring: all that others than
// the kernel name, and the kernel's names of devices that are made of others.
var made = regexp.MustCompile(`^/dev/([^/]+/|md|dm-|bcache|drbd|zd)`)

// find looks whether what an entry names is there.
func (l *look) find(u users, e *entry) {
	var err error
	if text, ok := strings.CutPrefix(e.node, numberLinks); ok {
		e.device.number, err = parseNumber(text)
	} else {
		e.device, err = l.Finder.device(e.node)
	}
	e.there = err == nil
	e.found = e.there || u.points[e.point] || errors.Is(err, errNoNode)
}

// names reports whether an entry names a block device, by its number or by
// what is on it.
func (e entry) names(n number, c contents) bool {
	return e.there && e.device == device{number: n} || e.fits(c)
}

// named notes the entries that name a block device, chain being the way to it,
// and reports whether there are any.
//
// A volume, an array or what is in a LUKS container shows only once it is
// brought up. So a member of one is as good as named by every entry whose
// device is not there.
func (l *look) named(entries []entry, n number, c contents, chain []string) bool {
	before := len(l.report.Uses)
	for _, e := range entries {
		if e.names(n, c) {
			l.report.use(Named, append(slices.Clone(chain), e.String())...)
		}
	}
	if len(l.report.Uses) > before {
		return true
	}
	if !c.container() {
		return false
	}
	for _, e := range entries {
		if !e.found && made.MatchString(e.node) {
			l.report.doubt("bring up what is on it, or take that entry out if it is out of date",
				"%s carries %s, and may hold what is not there of %s", chain[len(chain)-1], c.kind(), e)
			return true
		}
	}
	return false
}

// unlinked reports whether udev may still have to make the link by which an
// entry names a block device: it writes its record of a device when it has made
// its links (systemd, src/udev/udev-event.c).
func (l *look) unlinked(entries []entry, n number) bool {
	const records = "run/udev/data"
	if !slices.ContainsFunc(entries, func(e entry) bool { return !e.there && e.tag == "" }) {
		return false
	}
	if _, err := os.Stat(filepath.Join(l.root, records)); err != nil {
		return false // no udev, no links
	}
	_, err := os.Stat(filepath.Join(l.root, records, "b"+n.String()))
	return errors.Is(err, fs.ErrNotExist)
}
