package sysfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"vfio-hotplug/internal/pci"
)

// ErrReplaced says that another device has taken the address since the handle
// was opened.
var ErrReplaced = errors.New("another device is at this address now")

// FS is the part of sysfs that concerns PCI.
type FS struct {
	root       Dir
	expendable Expendable
}

// New gives the PCI view of a sysfs tree. Writes that can hang for ever go
// through expendable.
func New(root Dir, expendable Expendable) FS { return FS{root: root, expendable: expendable} }

// Root is the tree itself.
func (f FS) Root() Dir { return f.root }

// Devices lists the PCI functions that are present, in order of address.
func (f FS) Devices() ([]pci.Address, error) {
	names, err := f.root.List("bus/pci/devices")
	if err != nil {
		return nil, err
	}
	addresses := make([]pci.Address, 0, len(names))
	for _, name := range names {
		if a, err := pci.ParseAddress(name); err == nil {
			addresses = append(addresses, a)
		}
	}
	slices.SortFunc(addresses, pci.Address.Compare)
	return addresses, nil
}

// HasDriver reports whether a PCI driver of this name is registered.
func (f FS) HasDriver(name string) (bool, error) {
	d, err := f.root.Open("bus/pci/drivers/" + name)
	if Gone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, d.Close()
}

// Open opens the function that is at an address now. The caller closes it. An
// error is Gone only where the bus lists no device there: much is forgotten, and
// nothing put back, of a device that has gone.
func (f FS) Open(a pci.Address) (*Device, error) {
	d, err := f.open(a)
	if !Gone(err) || !f.listed(a) {
		return d, err
	}
	// It came just now, or the answer was wrong.
	if d, err = f.open(a); Gone(err) {
		return nil, fmt.Errorf("%s is listed, and cannot be opened: %v", a, err)
	}
	return d, err
}

func (f FS) open(a pci.Address) (*Device, error) {
	dir, err := f.root.Open(devicePath(a))
	if err != nil {
		return nil, err
	}
	id, err := dir.Identity()
	if err != nil {
		dir.Close()
		return nil, err
	}
	return &Device{fs: f, dir: dir, address: a, identity: id}, nil
}

// listed reports whether the bus lists a device at an address, or may.
func (f FS) listed(a pci.Address) bool {
	devices, err := f.Devices()
	return err != nil || slices.Contains(devices, a)
}

// Device is a handle on one PCI function, from its plugging to its removal.
// What is at the same address afterwards is another Device.
type Device struct {
	fs       FS
	dir      Dir
	address  pci.Address
	identity uint64
}

// Address is where the device is.
func (d *Device) Address() pci.Address { return d.address }

// Identity tells the device from every other that was or will be at its
// address since the machine was booted.
func (d *Device) Identity() uint64 { return d.identity }

// Dir is the device's directory.
func (d *Device) Dir() Dir { return d.dir }

// Close releases the handle.
func (d *Device) Close() error { return d.dir.Close() }

// Present says whether the address still leads to this device: nil, a Gone
// error, or ErrReplaced.
func (d *Device) Present() error {
	now, err := d.fs.Open(d.address)
	if err != nil {
		return err
	}
	defer now.Close()
	if now.identity != d.identity {
		return fmt.Errorf("%s: %w", d.address, ErrReplaced)
	}
	return nil
}

// Driver gives the name of the bound driver, "" for none. The link is the
// only proof of a bind; reading it takes no lock.
func (d *Device) Driver() (string, error) { return d.link("driver") }

// Override reads driver_override, "" for none. Before Linux 6.12.91 it waits
// for the device lock.
func (d *Device) Override() (string, error) {
	text, err := d.attribute("driver_override")
	if err != nil || text == noOverride {
		return "", err
	}
	return text, nil
}

// SetOverride writes driver_override, so that only the named driver can bind
// the device; "" clears it. Before Linux 6.12.91 it waits for the device lock.
func (d *Device) SetOverride(driver string) error {
	return d.dir.Write("driver_override", driver+"\n")
}

// noOverride is what driver_override reads when there is none.
const noOverride = "(null)"

// SwapOverride sets driver_override to another name if it is the one that is
// given, "" being none; else the error is ErrOther. It may wait for the device
// lock, but not the caller: it returns when ctx ends. The files in hold stay
// open until the kernel has answered.
func (d *Device) SwapOverride(ctx context.Context, from, to string, hold ...*os.File) error {
	if from == "" {
		from = noOverride
	}
	return d.fs.expendable(ctx, Write{
		Attribute: devicePath(d.address) + "/driver_override",
		Value:     to + "\n",
		Device:    d.address,
		Identity:  d.identity,
		Only:      from,
		Hold:      hold,
	})
}

// Probe lets the kernel match the device against its drivers again. Success
// says nothing: the kernel answers the same when no driver matched, when its
// probe failed, and while the device is not yet open for matching. Read Driver.
func (d *Device) Probe() error {
	return d.control("bus/pci/drivers_probe")
}

// Bind binds the device to one driver and passes on the error of its probe.
func (d *Device) Bind(driver string) error {
	return d.control("bus/pci/drivers/" + driver + "/bind")
}

// control writes the device's address to an attribute of the bus. Such an
// attribute knows addresses only, so the check before it leaves a gap in which
// the device may be replaced; a slot needs far longer than that to come up.
func (d *Device) control(attribute string) error {
	if err := d.Present(); err != nil {
		return err
	}
	return d.fs.root.Write(attribute, d.address.String())
}

func (d *Device) attribute(name string) (string, error) {
	text, err := d.dir.Read(name)
	return strings.TrimSuffix(text, "\n"), err
}

// link gives the last part of a symbolic link's target, "" where there is no
// such link.
func (d *Device) link(name string) (string, error) {
	target, err := d.dir.Readlink(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return path.Base(target), nil
}

func devicePath(a pci.Address) string { return "bus/pci/devices/" + a.String() }
