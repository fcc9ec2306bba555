// Package operate carries one device all the way: judged by the policy and the
// checks, locked, recorded, bound and verified, or left as it was found. The
// daemon, bind, release and explain go through it; there is no second path.
//
// Its calls read and write sysfs and may block for as long as the kernel does:
// each device gets a goroutine of its own from the caller.
package operate

import (
	"context"
	"io"
	"time"

	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/policy"
)

// Operator has what an operation needs. Its methods may be called from many
// goroutines at once, for one device one after the other.
type Operator struct {
	FS     sysfs.FS
	Ledger *ledger.Ledger
	Uses   Uses
	// Added reports whether the kernel has finished adding the device at an
	// address; nil where that is not known. Until then its slot may not be.
	Added func(pci.Address) bool
	// Load loads a kernel module.
	Load func(ctx context.Context, module string) error
	// Aliases opens the running kernel's modules.alias.
	Aliases func() (io.ReadCloser, error)
	// Dev is where the device nodes are, /dev.
	Dev string
	// Proc is where procfs is, /proc.
	Proc  string
	Limit Limits
}

// Uses finds out who uses a device.
type Uses interface {
	// Look gives what stands in the way of taking the device, as far as how asks
	// for it. What it holds open stays so until the Hold is
	// closed; a nil Hold is an empty one.
	Look(ctx context.Context, dev *sysfs.Device, facts pci.Device, how inuse.How) (inuse.Report, *inuse.Hold, error)
	// Still reports whether the uses that a report names are there still.
	Still(ctx context.Context, r inuse.Report) bool
	// Awaited gives what the machine has put down for use and is not there yet,
	// though a drive that no driver has read may bring it; "" for nothing.
	Awaited() (string, error)
}

// Limits are the times after which waiting for the kernel ends.
type Limits struct {
	// Attach is how long a new device may take until it can be bound: the
	// kernel's own set-up of a whole bus is in it.
	Attach time.Duration
	// Caught is how long a device that the guard catches may take until it has
	// the guard's driver.
	Caught time.Duration
	// Settle is how long another driver may take to bring up its device, so
	// that its contents can be checked.
	Settle time.Duration
	// Slow is when a step that has not come back is reported.
	Slow time.Duration
	// Load is how long a module may take to load.
	Load time.Duration
}

// DefaultLimits are generous: each is far beyond what a healthy machine needs.
// nvme gives a controller up to two minutes to become ready.
func DefaultLimits() Limits {
	return Limits{Attach: 30 * time.Second, Caught: 10 * time.Second, Settle: 150 * time.Second, Slow: 10 * time.Second, Load: 30 * time.Second}
}

// Arrival says how a device came before us.
type Arrival uint8

// The arrivals.
const (
	Found     Arrival = iota // by a scan
	HotAdd                   // by an add event of the kernel
	ByHand                   // by a command
	AtBoot                   // by the scan before udev loads drivers
	Bystander                // not at all: others do something with it
)

// Request asks for a device to be judged and, if all is well, taken.
type Request struct {
	Device *sysfs.Device
	// Policy gives the policy that is in force. It is asked again after each
	// wait, and must give the same pointer for the same policy.
	Policy  func() *policy.Policy
	Arrival Arrival
	// At is when the kernel's event arrived, for HotAdd.
	At time.Time
	// Watch tells what the kernel says of the device meanwhile.
	Watch Watch
	// Guard is the guard that is armed.
	Guard *Guarding
	// Slow is called when a step takes longer than Limits.Slow.
	Slow func(step string, since time.Duration)
	// Hand is what a person asked for, for ByHand.
	Hand Hand
}

// Hand is what a person may ask for beyond the policy.
type Hand struct {
	Driver   string           // "" for the rule's, or vfio-pci
	Takeover *policy.Takeover // nil for the rule's
}

// Watch follows the kernel's events about one device.
type Watch interface {
	// Wake receives when something has happened to the device since the last
	// receive.
	Wake() <-chan struct{}
	// Foreign gives the first driver other than those known that was seen on the
	// device since it was added, "" for none; and whether events may be missing.
	Foreign(known ...string) (driver string, lost bool)
	// Saw reports whether an event told that driver is bound.
	Saw(driver string) bool
}

// blind is the Watch of a caller that receives no events: it only has the
// clock.
type blind struct{}

func (blind) Wake() <-chan struct{}            { return nil }
func (blind) Foreign(...string) (string, bool) { return "", false }
func (blind) Saw(string) bool                  { return true }

func (r *Request) watch() Watch {
	if r.Watch == nil {
		return blind{}
	}
	return r.Watch
}
