package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"vfio-hotplug/internal/sysfs"
)

// users says which block devices are mounted or swapped to, and what programs
// have open.
type users struct {
	mounts map[number][]string // mount points
	points map[string]bool     // all mount points
	lines  map[string][]string // of mountinfo, by mount point
	swaps  map[number]string   // the paths by which the kernel lists them
	loops  map[number][]string // loop devices, by what they are backed by
	opens  opens               // nil until programs has been asked

	exports map[device][]export
}

// users reads who uses devices directly, but for programs. What cannot be read is
// noted as a doubt.
func (l *look) users() users {
	u := users{
		mounts: map[number][]string{}, points: map[string]bool{}, lines: map[string][]string{}, swaps: map[number]string{},
		loops: map[number][]string{}, exports: map[device][]export{},
	}
	l.doing("the look for mounts and swap")
	l.addMounts(u)
	l.addSwaps(u)
	l.addBtrfs(u)
	l.addLoops(u)
	l.addExports(u)
	return u
}

func (l *look) addMounts(u users) {
	place := filepath.Join(l.proc, "1/mountinfo")
	table, err := l.mountTable()
	if err != nil {
		l.report.doubt("run as root with CAP_SYS_PTRACE", "what is mounted cannot be read: %v", err)
	}
	number := 0
	for line := range strings.Lines(table) {
		number++
		if m, ok := parseMount(line); ok {
			u.lines[m.point] = append(u.lines[m.point], line)
			l.addMount(u, m)
		} else {
			l.unclear("what is mounted", place, number, line)
		}
	}
}

// unclear notes a line of a table of the kernel's that cannot be understood: it
// may be about the device.
func (l *look) unclear(what, place string, number int, line string) {
	l.report.doubt("report that line as a bug of vfio-hotplug", "%s cannot be read: line %d of %s is %q",
		what, number, place, strings.TrimSuffix(line, "\n"))
}

// addSwaps reads proc_swaps(5).
func (l *look) addSwaps(u users) {
	place := filepath.Join(l.proc, "swaps")
	table, err := os.ReadFile(place)
	if errors.Is(err, fs.ErrNotExist) && l.allOfProc() { // a kernel without swap
		return
	}
	if err != nil {
		l.report.doubt("run as root, where all of /proc is to be seen", "what is swapped to cannot be read: %v", err)
	}
	number := 0
	for line := range strings.Lines(string(table)) {
		number++
		switch fields := strings.Fields(line); {
		case number == 1: // the titles
		case len(fields) > 1 && fields[1] == "file": // which the mount of its file system covers
		case len(fields) > 1 && fields[1] == "partition":
			l.addSwap(u, fields[0])
		default:
			l.unclear("what is swapped to", place, number, line)
		}
	}
}

// addSwap notes swap space under its device, by the path that the table has of it.
func (l *look) addSwap(u users, listed string) {
	node := unescape(listed)
	d, ok, err := l.led(node)
	if rest, again := strings.CutSuffix(node, " (deleted)"); again && err != nil { // the node was made anew
		d, ok, err = l.led(rest)
	}
	if err != nil {
		l.report.doubt("see what it is: swapon --show", "what is swapped to cannot be told: %v", err)
	}
	if ok {
		u.swaps[d.number] = listed
	}
}

// allOfProc reports whether procfs shows more than processes: a unit may have
// ProcSubset=pid.
func (l *look) allOfProc() bool {
	_, err := os.Stat(filepath.Join(l.proc, "cmdline"))
	return err == nil
}

// blockNumber gives the number of a block device by its name in the kernel.
func (f *Finder) blockNumber(name string) (number, error) {
	text, err := attribute(f.sys, "class/block/"+name+"/dev")
	if err != nil {
		return number{}, err
	}
	return parseNumber(text)
}

// nodeNumber gives the block device that a path names: by its node, or by its
// name alone where the node is not to be seen from here.
func (f *Finder) nodeNumber(path string) (number, bool) {
	if !strings.HasPrefix(path, "/dev/") {
		return number{}, false
	}
	d, err := f.device(path)
	return d.number, err == nil && !d.character
}

// kernelNames are how the kernel names the nodes of block devices, and of NVMe
// controllers. Such a name goes with its device, and not before.
var kernelNames = regexp.MustCompile(`^/dev/(nvme\d+(n\d+(p\d+)?)?|ng\d+n\d+|sg\d+|(sd|hd|vd|xvd|ub)[a-z]+\d*|` +
	`(dm-|sr|scd|fd|ram|zd|pmem)\d+[a-z]?(p\d+)?|md_[^/]+|(md|md_d|loop|nbd|zram|mmcblk|drbd|rbd|rnbd|bcache|ublkb)\d+(p\d+)?)$`)

// led gives the device to which a path led when somebody used it, if it was a
// device's: it may lead elsewhere, or nowhere, since. That is an error, unless
// the name is one that the kernel gave: then the device has gone too.
func (f *Finder) led(node string) (d device, ok bool, err error) {
	d, err = f.device(node)
	switch {
	case err == nil:
		return d, true, nil
	case errors.Is(err, errNoNode), errors.Is(err, fs.ErrNotExist) && kernelNames.MatchString(path.Clean(node)):
		return d, false, nil
	}
	return d, false, err
}

// device gives the device that an absolute path leads to, as nodeNumber does.
func (f *Finder) device(path string) (device, error) {
	d, err := f.nodes.device(f.top, path)
	if rest, ok := strings.CutPrefix(path, "/dev/"); ok && errors.Is(err, fs.ErrNotExist) {
		if n, err := f.blockNumber(strings.ReplaceAll(rest, "/", "!")); err == nil {
			return device{number: n}, nil
		}
	}
	return d, err
}

// diskUses notes every use of a disk and its partitions.
func (l *look) diskUses(u users, d disk) error {
	l.doing("the look for what is built on %s", d.name)
	l.report.nodes = append(l.report.nodes, d.node(l.dev))
	if err := l.blockUses(u, d.name, d.number, d.chain(d.name)); err != nil {
		return err
	}
	parts, err := l.partitions(d.name)
	for _, p := range parts {
		l.report.nodes = append(l.report.nodes, p.node(l.dev))
		// Its name says which disk it is of.
		err = both(err, l.blockUses(u, p.name, p.number, d.chain(p.name)))
	}
	if err != nil {
		return fmt.Errorf("look for what is built on %s: %w", d.name, err)
	}
	return nil
}

// blockUses notes every use of one block device, chain being the way to it.
func (l *look) blockUses(u users, name string, n number, chain []string) error {
	for _, point := range u.mounts[n] {
		kind := Mount
		if id, hidden := strings.CutPrefix(point, "btrfs "); hidden { // mounted where mountinfo does not show it
			kind = Holder
			l.report.trace(link("fs/btrfs/" + id + "/devices/" + name))
		}
		for _, line := range u.lines[point] {
			l.report.trace(mountLine(line))
		}
		l.report.use(kind, append(chain, point)...)
	}
	if path, swapped := u.swaps[n]; swapped {
		l.report.trace(swapPath(path))
		l.report.use(Swap, append(chain, "swap")...)
	}
	l.nodeUses(u, device{number: n}, chain)
	holders := "class/block/" + name + "/holders"
	names, err := list(l.sys, holders)
	if err != nil {
		return err
	}
	for _, holder := range names {
		l.report.trace(link(holders + "/" + holder))
	}
	for _, loop := range u.loops[n] {
		l.traceValue("class/block/" + loop + "/loop/backing_file")
	}
	return l.builtOn(u, append(names, u.loops[n]...), chain)
}

// traceValue notes an attribute that is as it is for as long as a use lasts.
func (l *look) traceValue(path string) {
	if is, err := attribute(l.sys, path); err == nil {
		l.report.trace(value{path, is})
	}
}

// nodeUses notes who uses a device by its node: the kernel, for others, and
// programs. As long as nobody has looked for programs, it notes the device to be
// looked for.
func (l *look) nodeUses(u users, d device, chain []string) {
	for _, e := range u.exports[d] {
		l.report.use(e.kind, append(slices.Clone(chain), e.name)...)
		l.report.exports = append(l.report.exports, filepath.Join(l.top, "sys", e.where))
		l.traceValue(e.where + "/enable")
	}
	if u.opens == nil {
		l.unasked = append(l.unasked, wayTo{d, slices.Clone(chain)})
		return
	}
	l.openUses(u.opens, d, chain)
}

// wayTo is a device with the chain that leads to it.
type wayTo struct {
	device device
	chain  []string
}

// deepest is how long a chain may get: the kernel stacks block devices far
// less deep.
const deepest = 32

// builtOn follows the devices that are built on one, such as dm, md
// (block/holder.c) and loop, to their own users. One that nobody uses is a use
// itself.
func (l *look) builtOn(u users, names, chain []string) error {
	for _, holder := range names {
		way := append(slices.Clone(chain), l.label(holder))
		n, err := l.blockNumber(holder)
		if sysfs.Gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		before := len(l.report.Uses)
		if len(way) < deepest {
			err = l.blockUses(u, holder, n, way)
		}
		parts, err2 := l.partitions(holder)
		if err := both(err, err2); err != nil {
			return err
		}
		for _, p := range parts {
			if err := l.blockUses(u, p.name, p.number, append(slices.Clone(way), p.name)); err != nil {
				return err
			}
		}
		if len(l.report.Uses) == before {
			l.report.use(Holder, way...)
		}
	}
	return nil
}

// label is the name of a block device, with the name that its owner gave it:
// dm-3 (vg-data).
func (l *look) label(name string) string {
	if given, err := attribute(l.sys, "class/block/"+name+"/dm/name"); err == nil && given != "" {
		return name + " (" + given + ")"
	}
	return name
}
