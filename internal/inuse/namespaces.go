package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"vfio-hotplug/internal/sysfs"
)

// namespaces gives the disks that an NVMe drive shows. That need not be all of
// them: nvme scans for namespaces after its bind (Linux 6.1), so that a full drive
// has no disks for a moment. Complete therefore asks the drive itself which
// namespaces there are.
func (l *look) namespaces() ([]disk, error) {
	controllers, err := list(l.dir, "nvme")
	if err != nil {
		return nil, fmt.Errorf("find the NVMe controllers: %w", err)
	}
	if len(controllers) == 0 {
		return nil, &NotSettledError{"nvme has not made its controller yet"}
	}
	var disks []disk
	for _, name := range controllers {
		found, err := l.controller(name)
		if err != nil {
			return nil, err
		}
		disks = append(disks, found...)
	}
	for _, d := range disks {
		if err := l.generic(d); err != nil {
			return nil, fmt.Errorf("find the generic device of %s: %w", d.name, err)
		}
	}
	return disks, nil
}

func (l *look) controller(name string) ([]disk, error) {
	dir, err := l.dir.Open("nvme/" + name)
	if err != nil {
		return nil, fmt.Errorf("find the NVMe controllers: %w", err)
	}
	defer dir.Close()
	state, err := attribute(dir, "state")
	if err != nil {
		return nil, fmt.Errorf("read the state of %s: %w", name, err)
	}
	switch state {
	case "live":
	case "new", "resetting", "connecting":
		return nil, &NotSettledError{fmt.Sprintf("%s is %s", name, state)}
	default: // dead, deleting, or what a later kernel invents
		l.report.doubt("look for "+name+" in the kernel's log: dmesg", "%s is %s: its contents cannot be checked", name, state)
		return nil, nil
	}
	text, err := attribute(dir, "dev")
	if err != nil {
		return nil, fmt.Errorf("read the number of %s: %w", name, err)
	}
	number, err := parseNumber(text)
	if err != nil {
		return nil, fmt.Errorf("read the number of %s: %w", name, err)
	}
	l.characters = append(l.characters, character{name, number})
	disks, shown, err := l.shown(dir, name)
	l.controllers = append(l.controllers, controller{name, number, shown})
	return disks, err
}

// controller is an NVMe controller with the namespaces that are accounted for.
type controller struct {
	name   string
	number number
	shown  map[uint32]bool
}

// complete asks each controller whether it has more namespaces than are shown.
func (l *look) complete() error {
	for _, c := range l.controllers {
		active, err := l.active(c)
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(active, func(id uint32) bool { return c.shown[id] })
		if len(missing) > 0 && !l.report.Veto() { // with a veto there is nothing to wait for
			return &NotSettledError{fmt.Sprintf("namespace %s of %s has no block device: its contents cannot be checked", numbers(missing), c.name)}
		}
	}
	return nil
}

// active asks a controller for its active namespaces. What keeps it from that is
// noted as a doubt.
func (l *look) active(c controller) ([]uint32, error) {
	name := c.name
	l.doing("asking %s for its namespaces", name)
	active, err := l.nodes.namespaces(l.dev+"/"+name, c.number)
	switch {
	case err == nil:
		return slices.Clone(active), nil
	case errors.Is(err, fs.ErrPermission):
		l.report.doubt("run as root with CAP_SYS_ADMIN, and let the service open "+name, "%s may not be asked for its namespaces: %v", name, err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, &NotSettledError{fmt.Sprintf("%s has no node in %s", name, l.dev)}
	case errors.Is(err, syscall.EAGAIN): // it began a reset since its state was read
		return nil, &NotSettledError{name + " is not live"}
	case sysfs.Gone(err):
		return nil, fmt.Errorf("ask %s for its namespaces: %w", name, err)
	default:
		l.report.doubt("look for "+name+" in the kernel's log: dmesg", "%s does not tell its namespaces: %v", name, err)
	}
	return nil, nil
}

// A namespace is nvmeXnY. Where several controllers can reach it, that is the
// head of its paths, and each controller has a hidden nvmeXcYnZ, named alike
// but for the controller (drivers/nvme/host/core.c, nvme_alloc_ns).
var (
	namespaceName = regexp.MustCompile(`^nvme\d+(c\d+)?n\d+$`)
	pathPart      = regexp.MustCompile(`c\d+`)
)

// shown gives the disks of a controller, and the namespaces that are
// accounted for: by a disk, or by a doubt because it will never have one.
func (l *look) shown(dir sysfs.Dir, controller string) ([]disk, map[uint32]bool, error) {
	names, err := list(dir, ".")
	if err != nil {
		return nil, nil, fmt.Errorf("find the namespaces of %s: %w", controller, err)
	}
	var disks []disk
	shown := map[uint32]bool{}
	for _, name := range names {
		if !namespaceName.MatchString(name) {
			continue
		}
		id, d, err := l.namespace(dir, name)
		switch {
		case sysfs.Gone(err): // not all there yet, or no longer
			continue
		case errors.Is(err, errHidden):
			l.report.doubt(identifyCommand(controller, id), "namespace %d of %s has no block device: its contents cannot be checked", id, controller)
		case err != nil:
			return nil, nil, fmt.Errorf("read %s: %w", name, err)
		case d.bytes <= 0:
			l.report.doubt(identifyCommand(controller, id), "%s has no size: its contents cannot be checked", d.name)
		default:
			disks = append(disks, d)
			if d.by == "" {
				twins, err := l.twins(controller, id, d.name)
				if err != nil {
					return nil, nil, fmt.Errorf("find %s through other controllers: %w", d.name, err)
				}
				disks = append(disks, twins...)
			}
		}
		shown[id] = true
	}
	return disks, shown, nil
}

// namespace reads one namespace of a controller, through its head if it is a
// path.
func (l *look) namespace(controller sysfs.Dir, name string) (uint32, disk, error) {
	dir, err := controller.Open(name)
	if err != nil {
		return 0, disk{}, err
	}
	defer dir.Close()
	id, err := namespaceID(dir)
	if err != nil {
		return 0, disk{}, err
	}
	if !strings.Contains(name, "c") {
		d, err := readDisk(dir, name)
		return id, d, err
	}
	by, name := name, pathPart.ReplaceAllString(name, "")
	head, err := l.sys.Open("class/block/" + name)
	if err != nil {
		return id, disk{}, err
	}
	defer head.Close()
	same, err := namespaceID(head)
	if err == nil && same != id { // it has become another's
		err = fs.ErrNotExist
	}
	if err != nil {
		return id, disk{}, err
	}
	d, err := readDisk(head, name)
	d.by = by
	return id, d, err
}

func identifyCommand(controller string, id uint32) string {
	return fmt.Sprintf("see what it is: nvme id-ns /dev/%s --namespace-id=%d", controller, id)
}

func namespaceID(dir sysfs.Dir) (uint32, error) {
	text, err := attribute(dir, "nsid")
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(text, 10, 32)
	return uint32(id), err
}

func numbers(ids []uint32) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = strconv.FormatUint(uint64(id), 10)
	}
	return strings.Join(words, ", ")
}
