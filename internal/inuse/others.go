package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"syscall"

	"vfio-hotplug/internal/sysfs"
)

// The base classes of what is known to have disks, and interfaces (PCI Code and
// ID Assignment Specification).
const (
	storage = 0x01
	network = 0x02
)

// others looks at a device that is not an NVMe drive on nvme, and gives the
// disks below it.
func (l *look) others() ([]disk, error) {
	user, err := l.userSpace()
	if err != nil {
		return nil, err
	}
	found, err := below(l.dir, deepestDevice)
	if err != nil {
		return nil, fmt.Errorf("look at what is below the device: %w", err)
	}
	for _, h := range found.hidden {
		l.report.doubt("look for it in every network namespace: lsns -t net; ip netns", "%s", h)
	}
	for _, where := range found.deep {
		l.report.doubt("look what it is: ls -R /sys/bus/pci/devices/"+l.device.Address().String(), "%s is too far below the device to be looked at", where)
	}
	if err := l.memory(); err != nil {
		return nil, fmt.Errorf("look for memory of the device: %w", err)
	}
	if !user {
		l.characters = found.characters
		l.unlisted()
		l.expect(found)
	}
	for _, net := range found.nets {
		if err := l.network(net); err != nil {
			return nil, err
		}
	}
	disks, err := l.foundDisks(found.disks)
	if err != nil || !user {
		return disks, err
	}
	if !l.decided() {
		l.userUses()
	}
	if l.Blank && l.facts.Class>>16 == storage {
		l.report.doubt("say takeover = \"idle\" if its contents may go", "what is on it cannot be read on %s", l.facts.Driver)
	}
	return disks, nil
}

// expect notes what must be below a device of its class and was not found:
// without it nothing of the device has been checked.
func (l *look) expect(found children) {
	driver := l.facts.Driver
	switch class := l.facts.Class >> 16; {
	case class == storage && len(found.disks) == 0:
		// It may be looking for them still, or have given the whole device to
		// somebody, as Xen's pciback does.
		l.report.doubt(fmt.Sprintf("if nothing uses it: echo %s > /sys/bus/pci/drivers/%s/unbind", l.device.Address(), driver),
			"no disk of it can be seen, though %s has it", driver)
	case len(found.hidden) > 0:
	case class == network && len(found.nets) == 0:
		l.report.doubt("look for its interface in every network namespace: ip netns",
			"no network interface of it can be seen, though %s has it", driver)
	case len(found.disks)+len(found.nets) > 0:
	case l.Blank:
		l.report.doubt("say takeover = \"idle\" if that is right",
			"nothing can be checked of a device of class %s on %s", l.facts.Class, driver)
	default:
		l.report.unchecked("who uses a device of class %s on %s", l.facts.Class, driver)
	}
}

func (l *look) foundDisks(paths []string) ([]disk, error) {
	var disks []disk
	for _, where := range paths {
		dir, err := l.dir.Open(where)
		if err != nil {
			return nil, err
		}
		d, err := readDisk(dir, path.Base(where))
		removable, err2 := attribute(dir, "removable")
		dir.Close()
		if err == nil && !sysfs.Gone(err2) {
			err = err2
		}
		switch {
		case errors.Is(err, errHidden):
			l.report.doubt("see what it is: lsblk --all", "%s has no block device: its contents cannot be checked", path.Base(where))
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", path.Base(where), err)
		case d.bytes > 0:
			disks = append(disks, d)
		case removable != "1": // a reader may have nothing in it; a disk is not ready
			l.report.doubt("look for "+d.name+" in the kernel's log: dmesg", "%s has no size: its contents cannot be checked", d.name)
		}
	}
	return disks, nil
}

// network notes an interface that is up. IFF_UP is what an administrator sets;
// an interface that is down carries nothing.
func (l *look) network(where string) error {
	const up = 1 // IFF_UP, linux/if.h
	text, err := attribute(l.dir, where+"/flags")
	if sysfs.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	flags, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return fmt.Errorf("read the flags of %s: %w", path.Base(where), err)
	}
	if flags&up != 0 {
		l.report.use(Network, path.Base(where), "up")
	}
	return nil
}

// userSpace reports whether vfio or uio has given the device to user space, and
// notes the nodes by which programs use it. Those of its group are among them: the
// group is one.
func (l *look) userSpace() (bool, error) {
	uio, err := list(l.dir, "uio")
	if err != nil {
		return false, err
	}
	vfio, err := list(l.dir, "vfio-dev")
	if err != nil {
		return false, err
	}
	if len(uio)+len(vfio) == 0 {
		return false, nil
	}
	for _, name := range uio {
		l.userNodes = append(l.userNodes, l.dev+"/"+name)
	}
	for _, name := range vfio {
		l.userNodes = append(l.userNodes, l.dev+"/vfio/devices/"+name)
	}
	switch target, err := l.dir.Readlink("iommu_group"); {
	case err == nil:
		group := path.Base(target)
		l.userNodes = append(l.userNodes, l.dev+"/vfio/"+group, l.dev+"/vfio/noiommu-"+group)
	case !sysfs.Gone(err):
		return false, err
	}
	l.report.nodes = slices.Clone(l.userNodes)
	return true, nil
}

// userUses notes the programs that hold a device of user space open.
func (l *look) userUses() {
	missing := true
	for _, node := range l.userNodes {
		holders, err := Holders(l.proc, node)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		missing = false
		if err != nil {
			l.report.doubt("run as root with CAP_SYS_PTRACE", "who has %s open cannot be seen: %v", node, err)
			break
		}
		for _, h := range holders {
			l.report.use(Open, node, h.String())
		}
	}
	if missing {
		l.report.doubt("let the service see "+l.dev, "no node of it is in %s, so that who has it open cannot be seen", l.dev)
	}
}

// deepestDevice is how far below a PCI function its disks are looked for: a
// SAS disk behind two expanders is at 11.
const deepestDevice = 16

// children are what was found below a device, as paths from it, and the other
// devices that have a node.
type children struct {
	disks, nets []string
	deep        []string // directories that were not looked into
	hidden      []hidden
	characters  []character
}

// hidden is a directory that has more than this view of sysfs shows: interfaces,
// or devices for RDMA, of other network namespaces.
type hidden struct {
	where string
	count int
}

func (h hidden) String() string {
	const more = "%s has %d more than %s in this network namespace, and whether %s in use cannot be seen"
	if h.count == 1 {
		return fmt.Sprintf(more, h.where, h.count, "shows", "that is")
	}
	return fmt.Sprintf(more, h.where, h.count, "show", "these are")
}

// below walks the devices below a directory, and knows a disk and a network
// interface by their class. Links lead away and are not followed.
func below(dir sysfs.Dir, depth int) (children, error) {
	var found children
	before, err := dir.Subdirs(".")
	if err != nil {
		return found, err
	}
	if depth == 0 {
		if before > 0 {
			found.deep = []string{"."}
		}
		return found, nil
	}
	names, err := list(dir, ".")
	if err != nil {
		return found, err
	}
	shown := 0
	for _, name := range names {
		if name == "." || name == ".." {
			continue
		}
		if _, err := dir.Readlink(name); err == nil {
			continue
		}
		child, err := dir.Open(name)
		if errors.Is(err, syscall.ENOTDIR) || sysfs.Gone(err) {
			continue
		}
		if err != nil {
			return found, err
		}
		shown++
		err = found.add(child, name, depth)
		child.Close()
		if err != nil {
			return found, err
		}
	}
	// One that comes or goes meanwhile is not hidden.
	after, err := dir.Subdirs(".")
	if count := min(before, after) - shown; count > 0 {
		found.hidden = append(found.hidden, hidden{".", count})
	}
	return found, err
}

// add adds a directory, or what is below it.
func (c *children) add(dir sysfs.Dir, name string, depth int) error {
	class, err := dir.Readlink("subsystem")
	switch path.Base(class) {
	case "block":
		c.disks = append(c.disks, name)
		return nil
	case "net":
		c.nets = append(c.nets, name)
		return nil
	}
	if err != nil && !sysfs.Gone(err) {
		return err
	}
	if err := c.addCharacter(dir, name); err != nil {
		return err
	}
	more, err := below(dir, depth-1)
	c.characters = append(c.characters, more.characters...)
	for _, disk := range more.disks {
		c.disks = append(c.disks, name+"/"+disk)
	}
	for _, net := range more.nets {
		c.nets = append(c.nets, name+"/"+net)
	}
	for _, where := range more.deep {
		c.deep = append(c.deep, path.Join(name, where))
	}
	for _, h := range more.hidden {
		c.hidden = append(c.hidden, hidden{path.Join(name, h.where), h.count})
	}
	return err
}

func (c *children) addCharacter(dir sysfs.Dir, name string) error {
	text, err := attribute(dir, "dev")
	if sysfs.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := parseNumber(text)
	if err != nil {
		return fmt.Errorf("read the number of %s: %w", name, err)
	}
	c.characters = append(c.characters, character{name, n})
	return nil
}
