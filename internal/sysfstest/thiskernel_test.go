package sysfstest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/internal/uevent"
)

// repliesVar names the pipe through which the host of a guest answers. Only
// there is this kernel one to play with.
const repliesVar = "SYSFSTEST_REPLIES"

// TestContractOfThisKernel runs in a guest that TestContractOfRealKernels has
// booted.
func TestContractOfThisKernel(t *testing.T) {
	replies := os.Getenv(repliesVar)
	if replies == "" {
		t.Skipf("%s is not set: this is no guest of TestContractOfRealKernels", repliesVar)
	}
	lab := newGuestLab(t, replies)
	if groups, err := lab.Root().List("kernel/iommu_groups"); err != nil || len(groups) == 0 {
		ContractWithoutIOMMU(t, lab)
		return
	}
	Contract(t, lab)
}

// guestLab is the kernel that this process runs on. What only its host can do
// it asks for: a line "lab: plug 0" on the standard output, answered by a line
// through a pipe, "ok" or an error.
type guestLab struct {
	root    sysfs.Dir
	program string
	events  *uevent.Conn
	replies *bufio.Reader
}

func newGuestLab(t *testing.T, pipe string) *guestLab {
	must(t, unix.Mkfifo(pipe, 0o600))
	replies, err := os.OpenFile(pipe, os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { replies.Close() })
	root, err := sysfs.OpenRoot("/sys")
	must(t, err)
	t.Cleanup(func() { root.Close() })
	events, err := uevent.Listen()
	must(t, err)
	t.Cleanup(func() { events.Close() })
	program, err := os.Executable()
	must(t, err)
	return &guestLab{root: root, program: program, events: events, replies: bufio.NewReader(replies)}
}

func (l *guestLab) Release() (major, minor int) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return 0, 0
	}
	fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return major, minor
}

func (l *guestLab) Root() sysfs.Dir { return l.root }

func (l *guestLab) Expendable() sysfs.Expendable { return sysfs.InProcess(l.program, "/sys") }

func (l *guestLab) Next(ctx context.Context) (Event, error) {
	deadline, _ := ctx.Deadline()
	if err := l.events.SetReadDeadline(deadline); err != nil {
		return Event{}, err
	}
	var e uevent.Event
	if err := l.events.Receive(&e); err != nil {
		return Event{}, err
	}
	return Event{Action: e.Action.String(), DevPath: e.KObj, Env: e.Env, Seq: e.Seq}, nil
}

// ask has the host do something.
func (l *guestLab) ask(what string, argument any) error {
	fmt.Printf("\nlab: %s %v\n", what, argument)
	reply, err := l.replies.ReadString('\n')
	if err != nil {
		return err
	}
	if reply != "ok\n" {
		return errors.New(strings.TrimSpace(reply))
	}
	return nil
}

func (l *guestLab) Plug(bay int) error         { return l.ask("plug", bay) }
func (l *guestLab) Unplug(bay int) error       { return l.ask("unplug", bay) }
func (l *guestLab) Load(driver string) error   { return l.ask("load", driver) }
func (l *guestLab) Unload(driver string) error { return l.ask("unload", driver) }

// Hold opens the device as a user of VFIO does (Documentation: driver-api/vfio).
func (l *guestLab) Hold(a pci.Address) (func(), error) {
	group, err := l.root.Readlink("bus/pci/devices/" + a.String() + "/iommu_group")
	if err != nil {
		return nil, err
	}
	node, err := openNode("/dev/vfio/" + path.Base(group))
	if err != nil {
		return nil, err
	}
	container, err := openNode("/dev/vfio/vfio")
	if err != nil {
		node.Close()
		return nil, err
	}
	device, err := attach(node, container, a)
	if err != nil {
		container.Close()
		node.Close()
		return nil, err
	}
	// The group first. While the device is being unplugged, Linux 6.1 takes the
	// group from a container that is closed in the same moment: a NULL pointer in
	// vfio_iommu_type1_notify.
	return func() {
		unix.Close(device)
		node.Close()
		container.Close()
	}, nil
}

// openNode opens a character device that knows no polling.
func openNode(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// attach puts a group into a container and opens one device of it
// (include/uapi/linux/vfio.h).
func attach(group, container *os.File, a pci.Address) (device int, err error) {
	const (
		setIOMMU     = 0x3b66
		setContainer = 0x3b68
		getDeviceFD  = 0x3b6a
		type1v2      = 3
	)
	if err := unix.IoctlSetPointerInt(int(group.Fd()), setContainer, int(container.Fd())); err != nil {
		return -1, fmt.Errorf("VFIO_GROUP_SET_CONTAINER: %w", err)
	}
	if err := unix.IoctlSetInt(int(container.Fd()), setIOMMU, type1v2); err != nil {
		return -1, fmt.Errorf("VFIO_SET_IOMMU: %w", err)
	}
	name, err := unix.BytePtrFromString(a.String())
	if err != nil {
		return -1, err
	}
	device, err = ioctlString(int(group.Fd()), getDeviceFD, name)
	if err != nil {
		return -1, fmt.Errorf("VFIO_GROUP_GET_DEVICE_FD: %w", err)
	}
	return device, nil
}
