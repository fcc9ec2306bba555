// Package daemon listens to the kernel and brings each device that the policy
// names under its driver, as it is plugged.
//
// One goroutine reads events and does nothing that can wait. Every device has
// a lane: a mailbox and, while there is work, a goroutine of its own. A device
// on which the kernel hangs holds up its own lane and no other.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/internal/uevent"
	"vfio-hotplug/policy"
)

// Source gives the kernel's events; *uevent.Conn is one. Close wakes a Receive
// that waits, which then returns os.ErrClosed.
type Source interface {
	Receive(*uevent.Event) error
	Close() error
}

// Operator carries out what is decided; *operate.Operator is one.
type Operator interface {
	Take(context.Context, operate.Request) operate.Result
	Release(context.Context, operate.Request) operate.Result
	StillUsed(context.Context, inuse.Report) bool
	Watched(ctx context.Context, r operate.Request, last operate.Result) (news operate.Result, is bool)
	Unplugged(pci.Address) (operate.Result, bool)
	Recorded() ([]pci.Address, error)
	Standing(pci.Address) (operate.Standing, error)
	Survey(p *policy.Policy) ([]operate.Line, error)
	Match(ctx context.Context, r operate.Request, driver string) operate.Result
	LoadDriver(ctx context.Context, driver string) error
	Seats(*operate.Guarding, func(pci.Address) bool) ([]guard.Seat, error)
	Exposed([]pci.Pattern, func(pci.Address) bool) ([]guard.Seat, error)
	Shield(context.Context, []guard.Seat) error
	Unshield(context.Context, []guard.Seat) error
	Free(context.Context) error
}

// Config is what a daemon is made of.
type Config struct {
	FS       sysfs.FS
	Events   Source
	Operator Operator
	// Users tells when users of devices have gone, nil for not at all. Run closes
	// it.
	Users Users
	// Guard is the machine's guard, nil for none, and Machine reads what the
	// choice of one depends on.
	Guard   Guard
	Machine func() (guard.Machine, error)
	// Added reports whether the kernel has finished adding the device at an
	// address, so that drivers may match it; nil where that cannot be known.
	Added func(pci.Address) bool
	// Unannounced says that the kernel tells of taking a vfio driver away only
	// when no program holds the device any more, so that whoever wants to know
	// before has to look.
	Unannounced bool
	// Load reads the policy from its files.
	Load func() (*policy.Policy, error)
	Log  *slog.Logger
	// Notify tells the service manager a state (sd_notify(3)); nil for none.
	Notify func(state string)
	// Watchdog is how often the service manager wants a sign of life, 0 for
	// never.
	Watchdog time.Duration
	// Kept, if not nil, is called when all that udev's coldplug has kept from
	// drivers has been seen to; nil says that it has kept nothing.
	Kept func() error
	// Reload receives when the policy is to be read again.
	Reload <-chan os.Signal
}

// readyWithin bounds the wait for the first scan: a device that hangs must not
// keep the machine from booting.
const readyWithin = 10 * time.Second

// grace is how long a stop waits for lanes that are between two steps.
const grace = 500 * time.Millisecond

// Daemon is a running daemon.
type Daemon struct {
	Config
	policy   atomic.Pointer[policy.Policy]
	guarding atomic.Pointer[operate.Guarding]
	chosen   atomic.Pointer[chosen] // the guard, nil before it was chosen
	again    chan struct{}          // the guard is to be judged and armed again ...
	// loadAgain says that the drivers it needs are to be loaded before.
	loadAgain atomic.Bool
	guardSaid string // the last word on the guard, of the goroutine that keeps it armed

	shields shields
	surveys surveys
	groups  groups

	mu       sync.Mutex
	lanes    map[pci.Address]*lane
	stopping bool           // no lane begins to work any more
	work     sync.WaitGroup // lanes at work

	// stalled is when the event loop began to handle an event, in nanoseconds
	// since the epoch, 0 while it waits for one.
	stalled atomic.Int64
}

// New makes a daemon with the policy that its files hold now. A policy with
// faults is an error: there is none to fall back to.
func New(c Config) (*Daemon, error) {
	p, err := c.Load()
	if err != nil {
		return nil, err
	}
	d := &Daemon{Config: c, lanes: map[pci.Address]*lane{}, again: make(chan struct{}, 1)}
	d.policy.Store(p)
	return d, nil
}

// Run works until ctx ends or the event source fails. It listens first, then
// looks at every device that is there, then says READY: nothing that is plugged
// meanwhile is missed. It changes no device on its way out.
func (d *Daemon) Run(ctx context.Context) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	d.recallGuard() // before the events of its catch, which wait in the socket
	heard := make(chan error, 1)
	go func() { heard <- d.listen(working) }()
	defer d.leave(stop)

	if d.Users != nil {
		d.begin(func() { d.hearUsers(working) })
	}
	d.logPolicy("policy loaded")
	if d.firstScan(working) {
		d.settled(working)
	}
	d.notify("READY=1")
	d.Log.Info("ready", journal.MessageStarted.Attr())
	d.begin(func() {
		d.free(working)
		d.keepArmed(working)
	})

	ticks, stopTicks := d.ticks()
	defer stopTicks()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-heard:
			if ctx.Err() != nil { // closed on the way out
				return nil
			}
			return fmt.Errorf("listen to the kernel: %w", err)
		case <-d.Reload:
			d.reload(working)
		case <-ticks:
			if d.Watchdog > 0 && d.alive() {
				d.notify("WATCHDOG=1")
			}
			if d.Unannounced {
				d.lookForHeld(working)
			}
		}
	}
}

// leave stops the event loop and waits a moment for the lanes. One that the
// kernel holds is left behind: what it was doing is in the ledger.
func (d *Daemon) leave(stop context.CancelFunc) {
	d.notify("STOPPING=1")
	stop()
	_ = d.Events.Close()
	if d.Users != nil {
		_ = d.Users.Close()
	}
	d.mu.Lock()
	d.stopping = true
	d.mu.Unlock()
	done := make(chan struct{})
	go func() { d.work.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(grace):
	}
	d.Log.Info("stopped; what is bound stays bound", journal.MessageStopped.Attr())
}

// listen hands each event to its lane until the source is closed.
func (d *Daemon) listen(ctx context.Context) error {
	var ev uevent.Event
	for {
		err := d.Events.Receive(&ev)
		d.stalled.Store(time.Now().UnixNano())
		switch {
		case err == nil:
			d.dispatch(ctx, &ev)
		case errors.Is(err, uevent.ErrOverrun):
			d.Log.Warn("the kernel's event queue overflowed; looking at every device again", journal.MessageOverrun.Attr())
			d.lost()
			d.scan(ctx, nil)
		default:
			return err
		}
		d.stalled.Store(0)
	}
}

// alive reports whether the event loop answers: it has not been busy with one
// event for a whole watchdog period.
func (d *Daemon) alive() bool {
	since := d.stalled.Load()
	return since == 0 || time.Since(time.Unix(0, since)) < d.Watchdog
}

func (d *Daemon) ticks() (<-chan time.Time, func()) {
	every := d.Watchdog / 2
	switch {
	case d.Watchdog <= 0 && !d.Unannounced:
		return nil, func() {}
	case d.Watchdog <= 0:
		every = lookEvery
	}
	t := time.NewTicker(every)
	return t.C, t.Stop
}

func (d *Daemon) notify(state string) {
	if d.Notify != nil {
		d.Notify(state)
	}
}
