package inuse

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

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

// opens says which processes have which devices open.
type opens map[device][]int

// opens looks once through the descriptors of all processes, and goes by what
// they lead to: a node may have any name. What may not be seen is noted as a
// doubt; a process that has ended meanwhile has nothing open.
func (l *look) opens() opens {
	l.doing("the look for programs that have it open")
	found := opens{}
	pids, err := processes(l.proc)
	if err != nil {
		l.report.doubt("be root", "what programs have open cannot be seen: %v", err)
	}
	closed := 0
	for _, pid := range pids {
		switch err := l.addOpens(found, pid); {
		case errors.Is(err, fs.ErrPermission):
			closed++
		case err != nil:
			l.report.doubt("be root, or stop that program", "what process %d has open cannot be seen: %v", pid, err)
		}
	}
	if closed > 0 {
		l.report.doubt("be root", "what %s may have open cannot be seen: %v", processCount(closed), fs.ErrPermission)
	}
	return found
}

// addOpens adds what one process has open. Its error is the first, and does not
// keep it from looking on.
func (l *look) addOpens(found opens, pid int) error {
	tables, err := descriptorTables(filepath.Join(l.proc, strconv.Itoa(pid)))
	for _, table := range tables {
		names, fault := entries(table)
		err = cmp.Or(err, fault)
		for _, name := range names {
			d, ok, fault := l.nodes.behind(filepath.Join(table, name))
			if !ended(fault) {
				err = cmp.Or(err, fault)
			}
			if ok && !slices.Contains(found[d], pid) {
				found[d] = append(found[d], pid)
			}
		}
	}
	return err
}

// descriptorTables gives the directories of a process's descriptors. That is
// its first thread's; but the first thread may have ended before the others,
// and then only theirs show what is open.
func descriptorTables(process string) ([]string, error) {
	first := filepath.Join(process, "fd")
	if names, err := entries(first); err != nil || len(names) > 0 {
		return []string{first}, err
	}
	threads, err := entries(filepath.Join(process, "task"))
	tables := make([]string, len(threads))
	for i, thread := range threads {
		tables[i] = filepath.Join(process, "task", thread, "fd")
	}
	return tables, err
}

// entries gives the names in a directory of a process, none once it has ended.
func entries(dir string) ([]string, error) {
	file, err := os.Open(dir)
	if ended(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	names, err := file.Readdirnames(-1)
	if ended(err) {
		err = nil
	}
	return names, err
}

// openUses notes the programs that have a device open, chain being the way to
// it. Open for ourselves is no use: that is this look, or another one's.
func (l *look) openUses(u users, d device, chain []string) {
	name := chain[len(chain)-1]
	for _, pid := range u.opens[d] {
		p, err := readProcess(l.proc, pid)
		parent, _ := readProcess(l.proc, p.parent)
		switch {
		// A child has copies of all our descriptors until it runs its program.
		case pid == u.self || p.parent == u.self:
		case ended(err): // but it may have passed its descriptors on
			l.visits = append(l.visits, fmt.Sprintf("process %d, which had %s open, has just ended", pid, name))
		case visits(p.Command), visits(parent.Command):
			l.visits = append(l.visits, fmt.Sprintf("%s is still looking at %s", p, name))
		default:
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
