package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/pilebones/go-udev/netlink"

	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/uevent"
)

// Users tells when users of devices may have gone; *inuse.Watcher is one.
type Users interface {
	// Watch has Wait tell when a use that the report names may have ended. With
	// news, what ended since the report may not be told.
	Watch(pci.Address, inuse.Report) (news bool, err error)
	Forget(pci.Address)
	// Wait blocks until there is something to tell. After Close it gives
	// os.ErrClosed.
	Wait() ([]pci.Address, error)
	Close() error
}

// A sign that a user may have gone is seldom alone: an umount, a volume that is
// taken down, a table that is written. So a look waits for calm, and the next
// one for rest, however many signs there are. Most are of others: what was found
// before is looked up first, and while it is there, that is all.
const (
	calm = 500 * time.Millisecond
	rest = 5 * time.Second
)

// What shows can go before its claim does: a file system that was unmounted
// lets go of its device when all is written. And a mount that fails, or mkfs, has
// a claim for a moment. Nothing tells of the end of those, so a device of which
// only a claim is seen is looked at again by the clock, after a second and then
// ever more rarely, for two minutes; and so again after a later sign, since a pool
// that is exported unmounts first.
const (
	firstPause = time.Second
	lastPause  = 64 * time.Second
)

// vacancy is what a lane knows of the users of its device, while these are why
// it was refused.
type vacancy struct {
	inUse  *inuse.Report // nil while nobody is waited for
	looked time.Time     // when a sign last led to a look
	due    bool          // the next look is on its way
	pause  time.Duration // before the next look by the clock, 0 for none
}

// hearUsers has devices looked at again of which users may have gone.
func (d *Daemon) hearUsers(ctx context.Context) {
	for {
		devices, err := d.Users.Wait()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			d.Log.Error("users that go are no longer noticed: "+err.Error()+": restart the daemon", journal.MessageFailed.Attr())
			return
		}
		for _, address := range devices {
			if l := d.known(address); l != nil {
				l.vacated(ctx)
			}
		}
	}
}

// dispatchBlock takes what the kernel tells of a block device for a sign: that a
// volume, an array, a loop device or a partition has changed or gone.
func (d *Daemon) dispatchBlock(ctx context.Context, ev *uevent.Event) {
	if ev.Action != netlink.CHANGE && ev.Action != netlink.REMOVE {
		return
	}
	if address, ok := parent(ev.KObj); ok {
		if l := d.known(address); l != nil {
			l.vacated(ctx)
		}
		return
	}
	for _, l := range d.stacked() {
		l.vacated(ctx)
	}
}

// stacked gives the lanes of devices on which others are built.
func (d *Daemon) stacked() []*lane {
	return slices.DeleteFunc(d.everyLane(), func(l *lane) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.vacancy.inUse == nil || !l.vacancy.inUse.Stacked()
	})
}

// vacated has a device looked at again, in a while, that was refused because of
// its users.
func (l *lane) vacated(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.vacancy.pause > lastPause {
		l.vacancy.pause = 0
	}
	l.lookIn(ctx, max(calm, rest-time.Since(l.vacancy.looked)))
}

// lookIn has the device looked at after a pause, if it is still refused because
// of its users then. The lane is locked.
func (l *lane) lookIn(ctx context.Context, pause time.Duration) {
	if l.vacancy.inUse == nil || l.vacancy.due {
		return
	}
	l.vacancy.due = true
	time.AfterFunc(pause, func() {
		l.mu.Lock()
		l.vacancy.due = false
		l.vacancy.looked = time.Now()
		wanted := l.vacancy.inUse != nil
		l.mu.Unlock()
		if wanted {
			l.ask(ctx, func(t *todo) { t.sign = true })
		}
	})
}

// recheck looks at a device that was refused because of its users, unless what
// was found then is there still. It is for the lane's own goroutine.
func (l *lane) recheck(ctx context.Context) {
	l.mu.Lock()
	report := l.vacancy.inUse
	l.mu.Unlock()
	switch {
	case report == nil:
	case l.d.Operator.StillUsed(ctx, *report):
		l.pace(ctx, report, *report, false)
	default:
		l.visit(ctx, operate.Request{Arrival: operate.Found}, l.d.Operator.Take)
	}
}

// follow watches the users that are why a device was refused, and nobody else's:
// what no rule names would not be taken when they have gone. It is for the lane's
// own goroutine.
func (l *lane) follow(ctx context.Context, result operate.Result) {
	now := result.InUse
	if l.d.Users == nil || result.Rule == "" {
		now = nil
	}
	l.mu.Lock()
	before := l.vacancy.inUse
	l.vacancy.inUse = now
	l.mu.Unlock()
	if now == nil {
		l.unfollow()
		return
	}
	l.followed = true
	news, err := l.d.Users.Watch(l.address, *now)
	if err != nil && ctx.Err() == nil {
		l.d.logUnfollowed(l.address, err)
	}
	l.pace(ctx, before, *now, news)
}

// pace says when the device is looked at next without a sign, if at all: before
// and now are why it was refused.
func (l *lane) pace(ctx context.Context, before *inuse.Report, now inuse.Report, news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !now.Claimed():
		l.vacancy.pause = 0
	case l.vacancy.pause == 0 || before == nil || !before.Claimed():
		l.vacancy.pause = firstPause
	default:
		l.vacancy.pause *= 2
	}
	switch pause := l.vacancy.pause; {
	case 0 < pause && pause <= lastPause:
		l.lookIn(ctx, pause)
	case news:
		l.lookIn(ctx, calm)
	}
}

// unfollow ends what follow has begun.
func (l *lane) unfollow() {
	if l.followed {
		l.followed = false
		l.d.Users.Forget(l.address)
	}
}

func (d *Daemon) logUnfollowed(a pci.Address, err error) {
	d.Log.Warn(fmt.Sprintf("that all users of %s have gone may not be noticed: %s; next: vfio-hotplug bind %s when they have", a, oneLine(err), a),
		slog.String("pci_address", a.String()), journal.MessageFailed.Attr())
}
