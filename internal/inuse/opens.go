package inuse

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"vfio-hotplug/internal/procfs"
	"vfio-hotplug/internal/sysfs"
)

// device is what a node stands for. Block and character devices are numbered
// apart.
type device struct {
	character bool
	number    number
}

// character is a character device of the device under the look.
type character struct {
	name   string
	number number
}

// opens says who has which devices open, or mapped.
type opens map[device][]opener

// opener is a process that has a device open.
type opener struct {
	pid  int
	link string // in procfs; leads to the device for as long as it is open
}

// scan is a look through all processes, which many looks may share.
type scan struct {
	opens    opens
	fault    error // not all processes can be seen
	closed   int   // how many may not be looked into
	faults   []processFault
	restless []int // which change faster than they can be read
}

type processFault struct {
	pid int
	err error
}

// programs looks through what all processes have open, and goes by what it leads
// to: a node may have any name. What cannot be seen is noted as a doubt; a process
// that has ended meanwhile has nothing open. What changes too fast to be seen is
// looked at again, as a visitor is.
//
// Mappings too are looked through, which takes far longer, where the look is the
// last one before the device is taken, or for somebody who wants to know all.
func (l *look) programs() opens {
	l.doing("the look for programs that have it open")
	mapped := l.Passive || l.All
	scans := &l.descriptorScans
	if mapped {
		scans = &l.mappingScans
	}
	s := scans.get(func() *scan { return l.scan(mapped) })
	switch {
	case errors.Is(s.fault, procfs.ErrRestless):
		l.visits = append(l.visits, "new processes start faster than they can be looked into")
	case s.fault != nil:
		l.report.doubt("be root", "what programs have open cannot be seen: %v", s.fault)
	}
	for _, pid := range s.restless {
		l.visits = append(l.visits, fmt.Sprintf("what process %d has open changes faster than it can be read", pid))
	}
	for _, f := range s.faults {
		l.report.doubt("be root, or stop that program", "what process %d has open cannot be seen: %v", f.pid, f.err)
	}
	if s.closed > 0 {
		l.report.doubt("be root", "what %s may have open cannot be seen: %v", processCount(s.closed), fs.ErrPermission)
	}
	return s.opens
}

func (f *Finder) scan(mapped bool) *scan {
	s := &scan{opens: opens{}}
	files := map[string]seen{}
	s.fault = procfs.Dir(f.proc).EachProcess(func(pid int) {
		err := f.addDescriptors(s.opens, pid)
		if mapped {
			err = cmp.Or(err, f.addMappings(s.opens, files, pid))
		}
		switch {
		case errors.Is(err, procfs.ErrRestless):
			s.restless = append(s.restless, pid)
		case errors.Is(err, fs.ErrPermission):
			s.closed++
		case err != nil:
			s.faults = append(s.faults, processFault{pid, err})
		}
	})
	return s
}

// addDescriptors adds what one process has open.
func (f *Finder) addDescriptors(found opens, pid int) error {
	return procfs.Dir(f.proc).Descriptors(pid, func(link string) error {
		d, is, err := f.nodes.behind(link)
		if is {
			found.add(d, pid, link)
		}
		return err
	})
}

// seen is what a file has turned out to be.
type seen struct {
	device device
	is     bool // a device
}

// addMappings adds what one process has mapped. Most have the same files mapped,
// so that each file is asked only once.
func (f *Finder) addMappings(found opens, files map[string]seen, pid int) error {
	return procfs.Dir(f.proc).Mappings(pid, func(name, link string) error {
		file, known := files[name]
		if !known {
			var err error
			if file.device, file.is, err = f.nodes.behind(link); err != nil {
				return err
			}
			files[name] = file
		}
		if file.is {
			found.add(file.device, pid, link)
		}
		return nil
	})
}

// add notes that a process has a device open. All of one process is noted before
// anything of the next: a device may have very many openers.
func (o opens) add(d device, pid int, link string) {
	if all := o[d]; len(all) == 0 || all[len(all)-1].pid != pid {
		o[d] = append(all, opener{pid, link})
	}
}

func (o opens) has(d device, pid int) bool {
	return slices.ContainsFunc(o[d], func(o opener) bool { return o.pid == pid })
}

// openUses notes the programs that have a device open, chain being the way to
// it. Open for ourselves is no use: that is this look, or another one's.
func (l *look) openUses(all opens, d device, chain []string) {
	name, proc := chain[len(chain)-1], procfs.Dir(l.proc)
	self := proc.Self()
	for _, o := range all[d] {
		p, err := proc.Process(o.pid)
		parent, _ := proc.Process(p.Parent)
		switch {
		// A child has copies of all our descriptors until it runs its program.
		case o.pid == self || p.Parent == self:
		case procfs.Ended(err): // but it may have passed its descriptors on
			l.visits = append(l.visits, fmt.Sprintf("process %d, which had %s open, has just ended", o.pid, name))
		case visits(p.Command), visits(parent.Command):
			l.visits = append(l.visits, fmt.Sprintf("%s is still looking at %s", p, name))
		default:
			l.report.trace(opened{o.link, d})
			l.report.use(Open, append(slices.Clone(chain), p.String())...)
		}
	}
}

// visits reports whether a program, by the name that the kernel keeps of it,
// looks at each new drive for a moment and goes. Were that a use, the drive
// would be refused for good because we looked in that moment; so it is a reason
// to look again. A name proves nothing, and need not: who stays is a refusal in
// the end. Whatever udev's workers start (mdadm, lvm, multipath) is their child.
func visits(command string) bool {
	switch command {
	case "(udev-worker)", "systemd-udevd", "udevd", "udevadm", "blkid", // as systemd 251 names it, and others
		"udisksd", "fwupd", "smartd",
		"vfio-hotplug": // explain, by a process of its own
		return true
	}
	return false
}

// settled says whether a visitor is still there. With a veto there is nothing
// to wait for.
func (l *look) settled() error {
	if len(l.visits) == 0 || l.report.Veto() {
		return nil
	}
	return &NotSettledError{strings.Join(l.visits, ", ")}
}

// generic adds the character device by which a namespace is open to commands:
// ngXnY beside nvmeXnY (drivers/nvme/host/core.c, nvme_add_ns_cdev).
func (l *look) generic(d disk) error {
	name := "ng" + strings.TrimPrefix(d.name, "nvme")
	text, err := attribute(l.sys, "class/nvme-generic/"+name+"/dev")
	if sysfs.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := parseNumber(text)
	l.characters = append(l.characters, character{name, n})
	return err
}
