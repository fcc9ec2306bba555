package guard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	turn       chan struct{} // whoever changes something has put one in
}

// New gives the guard whose record is the file. Writes that can hang go through
// expendable.
func New(sys sysfs.Dir, expendable sysfs.Expendable, file string) *Guard {
	return &Guard{sys: sys, expendable: expendable, file: file, turn: make(chan struct{}, 1)}
}

const autoprobe = "bus/pci/drivers_autoprobe"

// HungError says that the kernel has not come back from a write of a new ID:
// it waits for a device that hangs. The ID works all the same, for new devices
// too (drivers/pci/pci-driver.c, pci_add_dynid comes before driver_attach).
type HungError struct{ Driver string }

func (e *HungError) Error() string {
	return "a new ID of " + e.Driver + " works, but the kernel has not come back from it: some device that it matches hangs: dmesg"
}

// Arm brings the kernel from whatever is armed to what is wanted: what is new
// is added before what is no longer wanted is taken away, so that a drive that
// both guard is guarded all the time; and if something cannot be added, nothing
// is taken away. What is right already is not touched. seen are the devices that
// are there and are not the guard's catch.
//
// The kernel may hang on a new ID for as long as some device does: the error is
// then a *HungError, and ended is closed when the kernel has come back from all
// that was begun.
func (g *Guard) Arm(ctx context.Context, want Want, seen []Seat) (ended <-chan struct{}, err error) {
	a := &arming{Guard: g, ctx: ctx}
	err = a.run(want, seen)
	done := make(chan struct{})
	go func() {
		a.under.Wait()
		close(done)
	}()
	return done, err
}

// Disarm takes back everything that the record says we added. Devices that are
// bound stay bound; those that the guard has caught are for the caller to see
// to, who then says Settled.
func (g *Guard) Disarm(ctx context.Context) error {
	return (&arming{Guard: g, ctx: ctx}).run(Want{}, nil)
}

// arming is one way from what is armed to what is wanted.
type arming struct {
	*Guard
	ctx   context.Context
	r     record
	under sync.WaitGroup // writes that the kernel has not come back from
}

func (g *arming) run(want Want, seen []Seat) error {
	unlock, err := g.lock(g.ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := g.current(); err != nil {
		return err
	}
	if seen != nil {
		g.r.Seen = seen
		if err := g.write(g.r); err != nil {
			return err
		}
	}
	hung, err := g.addAll(want)
	if err != nil {
		return err
	}
	faults := []error{hung}
	for _, a := range slices.Clone(g.r.IDs) {
		if !slices.Contains(want.IDs[a.Driver], a.Pattern) {
			faults = append(faults, g.remove(a))
		}
	}
	if !want.Gate {
		faults = append(faults, g.open())
	}
	return errors.Join(faults...)
}

// addAll adds what is wanted and not armed. hung is a *HungError or nil.
func (g *arming) addAll(want Want) (hung, err error) {
	var faults []error
	for _, driver := range slices.Sorted(maps.Keys(want.IDs)) {
		for _, pattern := range want.IDs[driver] {
			switch err := g.add(driver, pattern); {
			case errors.As(err, new(*HungError)):
				hung = err
			default:
				faults = append(faults, err)
			}
		}
	}
	if want.Gate {
		faults = append(faults, g.shut())
	}
	return hung, errors.Join(faults...)
}

// lock keeps other goroutines and processes from changing the guard; it waits
// for them until ctx ends. The kernel drops the lock of a process when its file
// is closed, however that comes about.
func (g *Guard) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("lock the guard: another arming is under way: %w", ctx.Err())
	}
	f, err := g.lockFile(ctx)
	if err != nil {
		<-g.turn
		return nil, fmt.Errorf("lock the guard: %w", err)
	}
	return func() {
		f.Close()
		<-g.turn
	}, nil
}

func (g *Guard) lockFile(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(g.file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if err != unix.EWOULDBLOCK {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("another process is at it: %w", errors.Join(ctx.Err(), f.Close()))
		}
	}
}

// current reads the record, forgets the IDs that went with their driver, and
// makes sure of those that a crash left in doubt by taking them back.
func (g *arming) current() error {
	var err error
	if g.r, err = g.read(); err != nil {
		return err
	}
	for _, a := range slices.Clone(g.r.IDs) {
		instance, err := g.instance(a.Driver)
		switch {
		case err == nil && instance != a.Instance:
			err = g.drop(a)
		case !a.Sure:
			err = g.remove(a)
		default:
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// drop takes an ID from the record.
func (g *arming) drop(a armed) error {
	g.r.IDs = slices.DeleteFunc(g.r.IDs, func(b armed) bool { return a == b })
	g.r.remember(a)
	return g.write(g.r)
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

// patience is how long a write of a new ID may take.
const patience = 10 * time.Second

// add adds a dynamic ID, unless it is ours already.
func (g *arming) add(driver string, pattern pci.Pattern) error {
	if slices.ContainsFunc(g.r.IDs, func(a armed) bool { return a.Driver == driver && a.Pattern == pattern }) {
		return nil
	}
	if err := g.addNew(driver, pattern); err != nil {
		return fmt.Errorf("arm the guard on %s: %w", driver, err)
	}
	return nil
}

func (g *arming) addNew(driver string, pattern pci.Pattern) error {
	instance, err := g.instance(driver)
	if err == nil && instance == 0 {
		err = errors.New("the driver is not loaded")
	}
	if err != nil {
		return err
	}
	mark, err := g.r.freeMark(driver, pattern)
	if err != nil {
		return err
	}
	id := armed{Driver: driver, Instance: instance, Pattern: pattern, Mark: mark}
	g.r.IDs = append(g.r.IDs, id)
	if err := g.write(g.r); err != nil {
		return err
	}
	hung, err := g.writeID(driver, "new_id", id.newID())
	if err != nil {
		return err
	}
	g.r.IDs[len(g.r.IDs)-1].Sure = true
	if err := g.write(g.r); err != nil {
		return err
	}
	if hung {
		return &HungError{Driver: driver}
	}
	return nil
}

// writeID writes to new_id or remove_id, and reports whether the kernel has not
// come back from it in time.
func (g *arming) writeID(driver, attribute, value string) (hung bool, err error) {
	bounded, cancel := context.WithTimeout(g.ctx, patience)
	defer cancel()
	g.under.Add(1)
	var ended atomic.Bool
	err = g.expendable(bounded, sysfs.Write{
		Attribute: "bus/pci/drivers/" + driver + "/" + attribute, Value: value,
		Kill:  true, // what is not begun when we give up must not come after what takes it back
		Ended: func() { ended.Store(true); g.under.Done() },
	})
	if g.ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) && !ended.Load() {
		return true, nil
	}
	return false, err
}

// remove takes a dynamic ID away. One that is gone already, or whose driver
// is, is not an error.
func (g *arming) remove(a armed) error {
	hung, err := g.writeID(a.Driver, "remove_id", a.removeID())
	if hung {
		err = errors.New("the kernel has not come back from remove_id: dmesg")
	}
	if err != nil && !errors.Is(err, syscall.ENODEV) && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("take the guard off %s: %w", a.Driver, err)
	}
	return g.drop(a)
}

// shut closes the gate. One that somebody else has closed is not ours to open;
// one of ours that somebody has opened, or that was never closed since we were
// killed, is closed.
func (g *arming) shut() error {
	now, err := g.sys.Read(autoprobe)
	if err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	if strings.TrimSpace(now) != "1" {
		return nil
	}
	g.r.Gate = true
	if err := g.write(g.r); err != nil {
		return err
	}
	if err := g.sys.Write(autoprobe, "0"); err != nil {
		return fmt.Errorf("close the gate: %w", err)
	}
	return nil
}

// open opens the gate that we closed. Devices that came meanwhile and have no
// driver are for the caller to see to.
func (g *arming) open() error {
	if !g.r.Gate {
		return nil
	}
	if err := g.sys.Write(autoprobe, "1"); err != nil {
		return fmt.Errorf("open the gate: %w", err)
	}
	g.r.Gate, g.r.WasGate = false, true
	return g.write(g.r)
}
