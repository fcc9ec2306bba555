package sysfstest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// Lab is a machine that Contract may do to what it likes: the model, or a
// guest with a real kernel.
//
// It has an IOMMU and two empty bays, 0 and 1, that are hot-plugged. The
// drivers nvme and vfio-pci are loaded, in this order; pci-stub is not, and
// can be.
type Lab interface {
	// Release is the kernel's, such as 6, 12.
	Release() (major, minor int)
	// Root is /sys.
	Root() sysfs.Dir
	// Expendable carries out writes that can hang.
	Expendable() sysfs.Expendable
	// Next waits for the next uevent since the Lab was made.
	Next(ctx context.Context) (Event, error)
	// Plug plugs a new blank NVMe drive into a bay. It may return before the
	// kernel has noticed.
	Plug(bay int) error
	// Unplug takes the drive of a bay away. It may return before the kernel
	// has let go.
	Unplug(bay int) error
	// Load loads the module of a driver, and Unload unloads it.
	Load(driver string) error
	Unload(driver string) error
	// Hold opens a device through vfio until release is called.
	Hold(a pci.Address) (release func(), err error)
}

// patience is how long Contract waits for what must come. An emulated guest
// takes seconds for an unplug.
const patience = 90 * time.Second

// hangs is how long Contract looks at what must not end. Emulated, an unbind
// takes a tenth of it.
const hangs = time.Second

// absent is an address at which nothing is plugged in.
const absent = "0000:fe:1f.7"

// Contract holds a Lab to what the project takes for granted of the kernel.
// It leaves the bays empty.
func Contract(t *testing.T, lab Lab) {
	c := contract{lab: lab, fs: sysfs.New(lab.Root(), lab.Expendable())}
	t.Run("one drive", func(t *testing.T) {
		drive := c.plugInto(t, 0, "nvme")
		t.Cleanup(func() { c.unplug(t, 0, drive.Address()) })
		for _, s := range statements() {
			t.Run(s.name, func(t *testing.T) {
				t.Cleanup(func() { c.giveBack(t, drive) })
				c.catchUp(t, drive)
				s.check(t, c, drive)
			})
		}
	})
	for _, s := range hotplugStatements() {
		t.Run(s.name, func(t *testing.T) { s.check(t, c) })
	}
}

// ContractWithoutIOMMU holds a Lab that has no IOMMU, and is otherwise as
// Contract wants it, to what the project takes for granted.
func ContractWithoutIOMMU(t *testing.T, lab Lab) {
	c := contract{lab: lab, fs: sysfs.New(lab.Root(), lab.Expendable())}
	drive := c.plugInto(t, 0, "nvme")
	t.Cleanup(func() { c.unplug(t, 0, drive.Address()) })
	for _, s := range noIOMMUStatements() {
		t.Run(s.name, func(t *testing.T) {
			t.Cleanup(func() { c.giveBack(t, drive) })
			s.check(t, c, drive)
		})
	}
}

// statements are about a drive that nvme has, without an override.
func statements() []statement {
	var whole []statement
	for _, some := range [][]statement{factStatements(), overrideStatements(), bindStatements(), idStatements(), vfioStatements()} {
		whole = append(whole, some...)
	}
	return whole
}

// statement is a sentence about the kernel, and its proof. What it changes of
// the drive's driver and override is put back behind it.
type statement struct {
	name  string
	check func(t *testing.T, c contract, drive *sysfs.Device)
}

// contract is a Lab with what the statements do to it.
type contract struct {
	lab Lab
	fs  sysfs.FS
}

// atLeast reports whether the kernel is of a release or newer.
func (c contract) atLeast(major, minor int) bool {
	haveMajor, haveMinor := c.lab.Release()
	return haveMajor > major || haveMajor == major && haveMinor >= minor
}

// plug plugs a drive in and opens it when its add event has come.
func (c contract) plug(t *testing.T, bay int) *sysfs.Device {
	t.Helper()
	if err := c.lab.Plug(bay); err != nil {
		t.Fatalf("plug into bay %d: %v", bay, err)
	}
	added := c.awaitEvent(t, "add of an NVMe drive", addOfNVMe)
	a, err := pci.ParseAddress(added.Env["PCI_SLOT_NAME"])
	must(t, err)
	d, err := c.fs.Open(a)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// plugInto is plug, and waits until a driver has the drive.
func (c contract) plugInto(t *testing.T, bay int, driver string) *sysfs.Device {
	t.Helper()
	d := c.plug(t, bay)
	c.awaitEvent(t, "bind to "+driver, boundTo(driver, d))
	c.settle(t, d)
	return d
}

// settle waits until nvme, if it has the drive, has made its block device.
// Linux 6.1 goes on with that after the bind, and crashes when the drive is
// unplugged meanwhile: nvme_async_probe then frees memory for a device that is
// gone.
func (c contract) settle(t *testing.T, d *sysfs.Device) {
	t.Helper()
	for c.driver(t, d) == "nvme" && !hasDisk(t, d) {
		c.awaitEvent(t, "add of a block device", addOfBlock)
	}
}

// hasDisk reports whether nvme has made the block device of a drive.
func hasDisk(t *testing.T, d *sysfs.Device) bool {
	t.Helper()
	controllers, err := d.Dir().List("nvme")
	if sysfs.Gone(err) {
		return false
	}
	must(t, err)
	for _, controller := range controllers {
		names, err := d.Dir().List("nvme/" + controller)
		if err != nil && !sysfs.Gone(err) {
			t.Fatal(err)
		}
		if slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, controller+"n") }) {
			return true
		}
	}
	return false
}

func addOfNVMe(e Event) bool {
	return e.Action == "add" && e.Env["SUBSYSTEM"] == "pci" && e.Env["PCI_CLASS"] == "10802"
}

func addOfBlock(e Event) bool { return e.Action == "add" && e.Env["SUBSYSTEM"] == "block" }

func boundTo(driver string, d *sysfs.Device) func(Event) bool {
	return func(e Event) bool { return e.about("bind", d.Address()) && e.Env["DRIVER"] == driver }
}

// all is true once each of the conditions was true of an event.
func all(conditions ...func(Event) bool) func(Event) bool {
	return func(e Event) bool {
		conditions = slices.DeleteFunc(conditions, func(met func(Event) bool) bool { return met(e) })
		return len(conditions) == 0
	}
}

// unplug takes a drive away and waits until the kernel has let go.
func (c contract) unplug(t *testing.T, bay int, a pci.Address) {
	t.Helper()
	if err := c.lab.Unplug(bay); err != nil {
		t.Fatalf("unplug bay %d: %v", bay, err)
	}
	c.await(t, "remove", a)
}

// await waits for an event of a PCI device and gives it.
func (c contract) await(t *testing.T, action string, a pci.Address) Event {
	t.Helper()
	return c.awaitEvent(t, action+" of "+a.String(), func(e Event) bool { return e.about(action, a) })
}

// catchUp reads all events up to one that it asks the kernel for.
func (c contract) catchUp(t *testing.T, d *sysfs.Device) {
	t.Helper()
	const mark = "7ad10d10-27a2-4a5c-b01b-d4c1ffee0001"
	must(t, d.Dir().Write("uevent", "change "+mark))
	c.awaitEvent(t, "change that was asked for", func(e Event) bool { return e.Env["SYNTH_UUID"] == mark })
}

func (e Event) about(action string, a pci.Address) bool {
	return e.Action == action && e.Env["SUBSYSTEM"] == "pci" && e.Env["PCI_SLOT_NAME"] == a.String()
}

func (c contract) awaitEvent(t *testing.T, what string, wanted func(Event) bool) Event {
	t.Helper()
	events := c.awaitEvents(t, what, wanted)
	return events[len(events)-1]
}

// awaitEvents gives the events up to the wanted one.
func (c contract) awaitEvents(t *testing.T, what string, wanted func(Event) bool) []Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var seen []Event
	for {
		e, err := c.lab.Next(ctx)
		if err != nil {
			t.Fatalf("no event %q came: %v; there were %v", what, err, summary(seen))
		}
		seen = append(seen, e)
		if wanted(e) {
			return seen
		}
	}
}

func summary(events []Event) []string {
	var lines []string
	for _, e := range events {
		lines = append(lines, e.Action+" "+e.DevPath)
	}
	return lines
}

// giveBack brings the drive back to nvme, without an override.
func (c contract) giveBack(t *testing.T, d *sysfs.Device) {
	t.Helper()
	must(t, d.SetOverride(""))
	driver := c.driver(t, d)
	if driver != "nvme" && driver != "" {
		must(t, d.Unbind(context.Background(), driver))
	}
	must(t, d.Probe())
	if driver := c.driver(t, d); driver != "nvme" {
		t.Fatalf("the drive did not go back to nvme: driver is %q", driver)
	}
	c.settle(t, d)
}

// move brings the drive to a driver: override, unbind, probe.
func (c contract) move(t *testing.T, d *sysfs.Device, driver string) {
	t.Helper()
	must(t, d.SetOverride(driver))
	must(t, d.Unbind(t.Context(), c.driver(t, d)))
	must(t, d.Probe())
	wantDriver(t, d, driver)
}

func (c contract) driver(t *testing.T, d *sysfs.Device) string {
	t.Helper()
	driver, err := d.Driver()
	must(t, err)
	return driver
}

// write writes an attribute below the root.
func (c contract) write(attribute, value string) error { return c.lab.Root().Write(attribute, value) }

// load loads a driver for the time of a statement.
func (c contract) load(t *testing.T, driver string) {
	t.Helper()
	must(t, c.lab.Load(driver))
	t.Cleanup(func() { must(t, c.lab.Unload(driver)) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantDriver(t *testing.T, d *sysfs.Device, want string) {
	t.Helper()
	driver, err := d.Driver()
	must(t, err)
	if driver != want {
		t.Errorf("driver is %q, want %q", driver, want)
	}
}

// wantErrno checks for an errno; 0 is success.
func wantErrno(t *testing.T, what string, err error, want syscall.Errno) {
	t.Helper()
	switch {
	case want == 0 && err != nil:
		t.Errorf("%s: %v, want success", what, err)
	case want != 0 && !errors.Is(err, want):
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func wantGone(t *testing.T, what string, err error) {
	t.Helper()
	if !sysfs.Gone(err) {
		t.Errorf("%s: %v, want the answer that it is gone", what, err)
	}
}

func wantOverride(t *testing.T, d *sysfs.Device, want string) {
	t.Helper()
	raw, err := d.Dir().Read("driver_override")
	must(t, err)
	if raw != want+"\n" {
		t.Errorf("driver_override reads %.40q, want %q", raw, want+"\n")
	}
	name, err := d.Override()
	must(t, err)
	if want = strings.TrimPrefix(want, "(null)"); name != want {
		t.Errorf("override is %q, want %q", name, want)
	}
}
