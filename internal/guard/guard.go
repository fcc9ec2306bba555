package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// Guard is the guard of a machine: what is armed in the kernel, and the record
// of it. Its methods may be called from several goroutines; those that change
// the kernel do so one after the other, and may block for as long as the kernel
// does: a new ID waits for the lock of every device that it matches.
type Guard struct {
	sys        sysfs.Dir
	expendable sysfs.Expendable
	file       string

	mu sync.Mutex
}

// New gives the guard whose record is the file. Writes that can hang go through
// expendable.
func New(sys sysfs.Dir, expendable sysfs.Expendable, file string) *Guard {
	return &Guard{sys: sys, expendable: expendable, file: file}
}

const autoprobe = "bus/pci/drivers_autoprobe"

// Want is a guard to be armed: dynamic IDs by driver, or the closed gate.
type Want struct {
	IDs  map[string][]pci.Pattern
	Gate bool
	// Idle are, of a gate that is closed, the devices that had no driver when it
	// was: they are not waiting for it.
	Idle []pci.Address
}

// Wanted gives what a choice comes to for the IDs of a policy.
func Wanted(c Choice, ids []ID) Want {
	w := Want{IDs: map[string][]pci.Pattern{}}
	for _, id := range ids {
		switch c.Mode {
		case Claim:
			w.IDs[id.Driver] = append(w.IDs[id.Driver], id.Pattern)
		case Stub:
			w.IDs[PCIStub] = append(w.IDs[PCIStub], id.Pattern)
		}
	}
	w.Gate = c.Mode == Gate
	return w
}

// Arm brings the kernel from whatever is armed to what is wanted: what is new
// is added before what is no longer wanted is taken away, so that a drive that
// both guard is guarded all the time. What is right already is not touched.
func (g *Guard) Arm(ctx context.Context, want Want) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	lock, err := g.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	r, err := g.current(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for _, driver := range drivers(want) {
		for _, pattern := range want.IDs[driver] {
			faults = append(faults, g.add(ctx, &r, driver, pattern))
		}
	}
	if want.Gate {
		faults = append(faults, g.shut(&r))
	}
	for _, a := range slices.Clone(r.IDs) {
		if !slices.Contains(want.IDs[a.Driver], a.Pattern) {
			faults = append(faults, g.remove(ctx, &r, a))
		}
	}
	if !want.Gate {
		faults = append(faults, g.open(&r))
	}
	return errors.Join(faults...)
}

// lock keeps other processes from arming and disarming; it waits for them
// until ctx ends. The kernel drops it when its file is closed, however that
// comes about.
func (g *Guard) lock(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(g.file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the guard: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if err != unix.EWOULDBLOCK {
			return nil, fmt.Errorf("lock the guard: %w", errors.Join(err, f.Close()))
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("lock the guard: another process is at it: %w", errors.Join(ctx.Err(), f.Close()))
		}
	}
}

// Disarm takes back everything that the record says we added. Devices that are
// bound stay bound.
func (g *Guard) Disarm(ctx context.Context) error { return g.Arm(ctx, Want{}) }

// Armed gives the patterns that are armed, by driver, as the record says.
func (g *Guard) Armed() (Want, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, err := g.read()
	w := Want{IDs: map[string][]pci.Pattern{}, Gate: r.Gate, Idle: r.Idle}
	for _, a := range r.IDs {
		w.IDs[a.Driver] = append(w.IDs[a.Driver], a.Pattern)
	}
	return w, err
}

// current gives the record, without the IDs that went with their driver, and
// makes sure of those that a crash left in doubt by taking them back.
func (g *Guard) current(ctx context.Context) (record, error) {
	r, err := g.read()
	if err != nil {
		return r, err
	}
	before := len(r.IDs)
	r.IDs = slices.DeleteFunc(r.IDs, func(a armed) bool {
		instance, err := g.instance(a.Driver)
		return err == nil && instance != a.Instance
	})
	if len(r.IDs) != before {
		if err := g.write(r); err != nil {
			return r, err
		}
	}
	for _, a := range slices.Clone(r.IDs) {
		if !a.Sure {
			if err := g.remove(ctx, &r, a); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

// instance tells a driver from an earlier one of its name; 0 for none.
func (g *Guard) instance(driver string) (uint64, error) {
	d, err := g.sys.Open("bus/pci/drivers/" + driver)
	if sysfs.Gone(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer d.Close()
	return d.Identity()
}

// add adds a dynamic ID, unless it is ours already.
func (g *Guard) add(ctx context.Context, r *record, driver string, pattern pci.Pattern) error {
	if slices.ContainsFunc(r.IDs, func(a armed) bool { return a.Driver == driver && a.Pattern == pattern }) {
		return nil
	}
	instance, err := g.instance(driver)
	if err == nil && instance == 0 {
		err = errors.New("the driver is not loaded")
	}
	if err != nil {
		return fmt.Errorf("arm the guard on %s: %w", driver, err)
	}
	mark, err := r.freeMark(driver, pattern)
	if err != nil {
		return fmt.Errorf("arm the guard on %s: %w", driver, err)
	}
	id := armed{Driver: driver, Instance: instance, Pattern: pattern, Mark: mark}
	r.IDs = append(r.IDs, id)
	if err := g.write(*r); err != nil {
		return err
	}
	if err := g.expendable(ctx, sysfs.Write{Attribute: "bus/pci/drivers/" + driver + "/new_id", Value: id.newID()}); err != nil {
		return fmt.Errorf("arm the guard on %s: %w", driver, err)
	}
	r.IDs[len(r.IDs)-1].Sure = true
	return g.write(*r)
}

// remove takes a dynamic ID away. One that is gone already, or whose driver
// is, is not an error.
func (g *Guard) remove(ctx context.Context, r *record, a armed) error {
	err := g.expendable(ctx, sysfs.Write{Attribute: "bus/pci/drivers/" + a.Driver + "/remove_id", Value: a.removeID()})
	if err != nil && !errors.Is(err, syscall.ENODEV) && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("take the guard off %s: %w", a.Driver, err)
	}
	r.IDs = slices.DeleteFunc(r.IDs, func(b armed) bool { return a == b })
	return g.write(*r)
}

// shut closes the gate. One that somebody else has closed is not ours to open.
func (g *Guard) shut(r *record) error {
	now, err := g.sys.Read(autoprobe)
	if err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	if r.Gate || strings.TrimSpace(now) != "1" {
		return nil
	}
	if r.Idle, err = g.idle(); err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	r.Gate = true
	if err := g.write(*r); err != nil {
		return err
	}
	if err := g.sys.Write(autoprobe, "0"); err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	return nil
}

// open opens the gate that we closed. Devices that came meanwhile and have no
// driver are for the caller to probe.
func (g *Guard) open(r *record) error {
	if !r.Gate {
		return nil
	}
	if err := g.sys.Write(autoprobe, "1"); err != nil {
		return fmt.Errorf("open the gate: %w", err)
	}
	r.Gate, r.Idle = false, nil
	return g.write(*r)
}

// idle lists the devices that have no driver.
func (g *Guard) idle() ([]pci.Address, error) {
	names, err := g.sys.List("bus/pci/devices")
	if err != nil {
		return nil, err
	}
	var idle []pci.Address
	for _, name := range names {
		_, err := g.sys.Readlink("bus/pci/devices/" + name + "/driver")
		if a, parseErr := pci.ParseAddress(name); parseErr == nil && errors.Is(err, fs.ErrNotExist) {
			idle = append(idle, a)
		}
	}
	return idle, nil
}

func drivers(w Want) []string {
	var names []string
	for name := range w.IDs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
