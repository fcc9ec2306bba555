// Package inuse finds out who uses a device: for a drive, the chain from its
// namespaces to mounts, swap, the block devices built on them, exports and the
// programs that have a node of it open, and where nobody uses it, who has put
// it down for use; for others, their network interfaces, block
// devices and nodes; for one that user space has, the programs that hold its
// node open. It reads, and writes nothing.
//
// Every finder may veto. What could not be checked although it must be is a
// veto too: a drive is free only if that was shown. What counts is what process 1
// sees, whatever a sandbox hides from this one.
//
// What is not seen so far:
//   - what opens a node inside the kernel without a claim, other than loop, nvmet
//     and LIO: a USB gadget, RNBD;
//   - drives that are named elsewhere than in fstab, crypttab, units of systemd
//     and the kernel's command line: in a volume group of which another drive's
//     part is active;
//   - the disks that a host adapter has yet to find beside those it has found;
//   - a descriptor that no process shows: one that is under way in a socket, or
//     that was registered with io_uring and closed;
//   - what opens the drive after the last look, right before the unbind, without
//     claiming it: a program, a loop device, an export.
package inuse

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/procfs"
	"vfio-hotplug/internal/sysfs"
)

// Finder looks at devices. Its methods may be called from several goroutines.
type Finder struct {
	sys   sysfs.Dir
	root  string
	top   string // where the paths that others have given begin
	proc  string
	dev   string
	nodes nodes
	// blkid is the program that knows signatures (util-linux, not busybox).
	blkid string
	// patience is how long a look may take. A healthy drive takes milliseconds;
	// the kernel gives one 30 s for a read before it resets it.
	patience time.Duration

	*answers
}

// answers are what many looks share that begin at about the same time.
type answers struct {
	mountTables                   shared[readTable]
	descriptorScans, mappingScans shared[*scan]
}

// New gives a Finder for the machine whose sysfs is sys, and whose proc, dev
// and etc are below root. What process 1 sees of sysfs counts, where that can be
// reached and is not what sys shows.
func New(sys sysfs.Dir, root string) *Finder {
	return &Finder{
		sys: sys, root: root, top: root, proc: filepath.Join(root, "proc"), dev: filepath.Join(root, "dev"),
		nodes: kernelNodes{}, blkid: "blkid", patience: time.Minute, answers: &answers{},
	}
}

// How says what a look is for.
type How struct {
	// Blank asks for signatures on a drive as well as for its users.
	Blank bool
	// Exclusive keeps others from beginning to use the drive after the look,
	// for as long as the Hold is open: for a drive that is about to be taken.
	Exclusive bool
	// Passive opens no node of the device, so that nobody is kept from it and
	// nobody hears of a closing. It sees the uses that show: not what only a
	// claim shows, nor what is on a drive. The rest does not count then. It is the
	// look for right before the device is taken.
	Passive bool
	// All looks for every use, for a person to see: else a look ends at the first
	// step that finds one.
	All bool
}

// NotSettledError says that the driver is still bringing the device up, so
// that what is on it cannot be seen yet, or that udev or the like is looking at
// it just now. The caller looks again when the kernel
// says something of the device or its block devices, and gives up in the end: a
// namespace that never appears was never checked.
type NotSettledError struct {
	Reason string
}

func (e *NotSettledError) Error() string { return e.Reason }

// Look finds out who uses a device. facts.Driver and facts.Class say what to
// look for. The Hold is nil unless the report is free of vetoes; a nil Hold may
// be used like any other.
//
// It opens the nodes of loop devices and, where no use shows, of drives for reading,
// and reads some megabytes of each drive for Blank, or where fstab and the like
// name drives by what is on them. That can wait for a sick drive: after a minute, or when ctx ends,
// Look returns without it.
//
// It needs CAP_SYS_ADMIN for the list of namespaces, and CAP_SYS_PTRACE and
// CAP_DAC_READ_SEARCH for process 1's mounts and what all processes have open.
// It must run where all of them are to be seen, in the first PID namespace.
//
// Of a device that has gone, or whose address another one has, it says so: the
// error is Gone or ErrReplaced (package sysfs).
func (f *Finder) Look(ctx context.Context, dev *sysfs.Device, facts pci.Device, how How) (Report, *Hold, error) {
	patience, cancel := context.WithTimeout(ctx, f.patience)
	defer cancel()
	l := &look{Finder: f, How: how, device: dev, dir: dev.Dir(), facts: facts}
	type answer struct {
		report Report
		hold   *Hold
		err    error
	}
	answered := make(chan answer)
	go func() {
		report, hold, err := l.run(patience)
		select {
		case answered <- answer{report, hold, err}:
		case <-patience.Done():
			hold.Close()
		}
	}()
	select {
	case a := <-answered:
		return a.report, a.hold, a.err
	case <-patience.Done():
	}
	if ctx.Err() != nil {
		return Report{}, nil, ctx.Err()
	}
	step := "the look"
	if at := l.step.Load(); at != nil {
		step = *at
	}
	return Report{Doubts: []Doubt{{
		Text:   fmt.Sprintf("%s has not ended in %v", step, f.patience),
		Remedy: "look for the drive in the kernel's log: dmesg",
	}}}, nil, nil
}

// look is one look at one device.
type look struct {
	*Finder
	How
	device *sysfs.Device
	dir    sysfs.Dir // the device's
	facts  pci.Device
	report Report

	userNodes   []string // by which programs use it through vfio or uio
	characters  []character
	controllers []controller // that complete is to ask
	majors      []uint32     // of devices of the driver that need not show below it
	unasked     []wayTo      // devices that programs may have open
	visits      []string     // of programs that look at the device and go

	step atomic.Pointer[string] // what it is doing, for whoever waits
}

func (l *look) doing(format string, a ...any) {
	step := fmt.Sprintf(format, a...)
	l.step.Store(&step)
}

// run looks at the device, and last whether it is still there: the directory of
// a device that has gone says of everything that there is none.
func (l *look) run(ctx context.Context) (Report, *Hold, error) {
	hold, err := l.all(ctx)
	if gone := l.device.Present(); gone != nil {
		err = fmt.Errorf("see that the device is still there: %w", gone)
	}
	if err != nil {
		hold.Close()
		return Report{}, nil, err
	}
	if l.report.Veto() {
		hold.Close()
		hold = nil
	}
	return l.report, hold, nil
}

// all looks as process 1, by the driver: what a device can be used for is the driver's
// affair, not the class's.
//
// It goes from what costs little and disturbs nobody to what does, and ends at
// the first step that has found a veto, unless all are asked for. Claimed are only
// disks against which nothing speaks, and what is claimed is looked at once more,
// so that nothing can have begun in between.
func (l *look) all(ctx context.Context) (*Hold, error) {
	hold := &Hold{}
	end, err := l.asProcess1()
	defer end()
	if err != nil {
		return hold, err
	}
	disks, err := l.disks()
	if err != nil || len(disks)+len(l.characters)+len(l.majors) == 0 {
		return hold, err
	}
	u := l.users()
	if l.All {
		u.opens = l.programs()
	}
	if err := l.uses(ctx, u, disks, nil); err != nil || l.decided() {
		return hold, err
	}
	if u.opens == nil {
		u.opens = l.programs()
		for _, way := range l.unasked {
			l.openUses(u.opens, way.device, way.chain)
		}
	}
	l.unlistedUses(u.opens)
	switch {
	case l.decided():
		return hold, nil
	case l.Passive:
		return hold, l.settled()
	}
	l.report.blank = l.Blank && (len(disks) > 0 || l.facts.Driver == "nvme") // which says that it has no namespaces
	for _, step := range []func() error{
		l.settled,
		l.complete,
		func() error { return l.contents(ctx, u, disks, nil) },
	} {
		if err := step(); err != nil || l.report.Veto() {
			return hold, err
		}
	}
	if l.Exclusive && len(disks) > 0 {
		return hold, l.keepOut(ctx, hold, disks)
	}
	return hold, nil
}

// decided reports whether there is nothing more to find out.
func (l *look) decided() bool { return l.report.Veto() && !l.All }

// disks gives the disks of the device, and notes its other nodes.
func (l *look) disks() ([]disk, error) {
	switch l.facts.Driver {
	case "", "pci-stub":
		l.report.unchecked("no driver has read it")
		return nil, nil
	case "nvme":
		return l.namespaces()
	}
	return l.others()
}

// uses notes the uses of the device that u tells of. A disk that is busy has one
// for certain.
func (l *look) uses(ctx context.Context, u users, disks []disk, busy []bool) error {
	l.report.nodes, l.unasked = slices.Clone(l.userNodes), nil
	for _, c := range l.characters {
		l.report.nodes = append(l.report.nodes, l.dev+"/"+c.name)
		l.nodeUses(u, device{character: true, number: c.number}, []string{c.name})
	}
	for i, d := range disks {
		before := len(l.report.Uses) + len(l.visits)
		if err := l.diskUses(u, d); err != nil {
			return err
		}
		if busy != nil && busy[i] && len(l.report.Uses)+len(l.visits) == before {
			l.claimed(ctx, u, d)
		}
	}
	return nil
}

// keepOut claims disks that nobody uses, and looks for what has begun before it
// could: a claim, what takes none, and what has been written. For programs the
// caller looks again.
func (l *look) keepOut(ctx context.Context, hold *Hold, disks []disk) error {
	busy, err := l.claim(hold, disks)
	if err != nil || l.report.Veto() {
		return err
	}
	u := l.users()
	if slices.Contains(busy, true) {
		u.opens = l.programs()
	}
	if err := l.uses(ctx, u, disks, busy); err != nil || l.report.Veto() {
		return err
	}
	if err := l.settled(); err != nil {
		return err
	}
	return l.contents(ctx, u, disks, hold.files)
}

// claimed notes that a disk is claimed, and no finder has found by whom. It may
// be another look of ours: two functions of a drive can have one disk. Else it
// helps to say what is there: ZFS shows by its label, which is the pool's name.
func (l *look) claimed(ctx context.Context, u users, d disk) {
	if u.opens.has(device{number: d.number}, procfs.Dir(l.proc).Self()) {
		l.visits = append(l.visits, "another operation of ours holds "+d.name)
		return
	}
	l.report.trace(claim{d.node(l.dev), d.number})
	const claimed = "claimed, but nothing shows by whom"
	parts, _ := l.partitions(d.name)
	told := false
	for _, p := range append([]disk{d}, parts...) {
		if c, err := l.readDisk(ctx, p, nil); err == nil && c["ID_FS_TYPE"] != "" {
			l.report.use(Claim, append(d.chain(p.name), c.String()+", and "+claimed)...)
			told = true
		}
	}
	if !told {
		l.report.use(Claim, append(d.chain(d.name), claimed)...)
	}
}
