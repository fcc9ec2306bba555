package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/policy"
)

// held is what a lane knows of a device whose driver the kernel is taking away,
// for an unplug or an unbind, without coming to the end of it: a program does
// not let go of it, or the drive does not answer.
type held struct {
	since  time.Time      // when it began, or was first seen; zero for not held
	before operate.Result // the last word on the device before
	again  bool           // a look at the device ended there, and is to be made anew
}

// forget forgets the device that has gone: what is at the address next is
// another. That it was held is still to be told to be over.
func (h *held) forget() { h.before, h.again = operate.Result{}, false }

// lookEvery is how often devices are looked at of which the kernel tells
// nothing, where no service manager wants a sign of life in between.
const lookEvery = 15 * time.Second

// bystand looks what others have done to the device: whether the kernel is held
// up in taking its driver away, and when that is over; and whether it has
// another driver. It only tells. leaving is when the kernel has said that it
// begins, zero for not known.
func (l *lane) bystand(ctx context.Context, leaving time.Time) {
	dev, err := l.d.FS.Open(l.address)
	if err != nil {
		l.letGo()
		return
	}
	defer dev.Close()
	news, is := l.d.Operator.Watched(ctx, operate.Request{Device: dev, Watch: l}, l.lastBeforeHeld())
	switch {
	case is:
		news.Since = operate.Earlier(news.Since, leaving)
		l.keep(news, operate.Bystander)
	case l.letGo():
		l.ask(ctx, func(t *todo) { t.look = true })
	}
}

// othersDid has the device looked at after an event that may be the doing of
// others. After one of our own doing there is no news. An operation that is under
// way may be about to end with the device held, and the event be the end of that.
func (l *lane) othersDid(ctx context.Context) {
	l.mu.Lock()
	known := l.running || !l.held.since.IsZero() || l.last.Outcome.Bound()
	l.mu.Unlock()
	if known {
		l.ask(ctx, func(t *todo) { t.bystand = true })
	}
}

// lastBeforeHeld gives the last word on the device that was not that it is held.
func (l *lane) lastBeforeHeld() operate.Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held.since.IsZero() {
		return l.held.before
	}
	return l.last
}

// hold notes that the device is held, and gives since when; began is what this
// look knows of that. Called with l.mu held.
func (l *lane) hold(before operate.Result, arrival operate.Arrival, began time.Time) time.Time {
	if l.held.since.IsZero() {
		l.held.since, l.held.before = began, before
	}
	switch arrival {
	case operate.Found, operate.HotAdd:
		l.held.again = true
	}
	return l.held.since
}

// isHeld reports whether the device was held when it was last looked at.
func (l *lane) isHeld() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.held.since.IsZero()
}

// letGo notes that the kernel is held up no more. It reports whether a look
// at it is to be made anew.
func (l *lane) letGo() (again bool) {
	l.mu.Lock()
	was := l.held
	l.held = held{}
	if !was.since.IsZero() {
		l.last = was.before
	}
	l.mu.Unlock()
	if !was.since.IsZero() {
		l.d.logLetGo(l.address, time.Since(was.since))
	}
	return was.again
}

// lookForHeld has those devices looked at that may have lost their vfio driver
// without a word. Where that is not so, a look is a link that is read, without a
// lock of the kernel's.
func (d *Daemon) lookForHeld(ctx context.Context) {
	for _, l := range d.onVFIO() {
		l.ask(ctx, func(t *todo) { t.bystand = true })
	}
}

// onVFIO gives the lanes of the devices that had a driver of vfio's when they
// were last looked at, or have had one since they were added: somebody else may
// have given it to them again.
func (d *Daemon) onVFIO() []*lane {
	return slices.DeleteFunc(d.everyLane(), func(l *lane) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return !l.last.OnVFIO() && !slices.ContainsFunc(l.drivers, policy.IsVFIO)
	})
}

// logLetGo tells that the kernel goes on.
func (d *Daemon) logLetGo(a pci.Address, after time.Duration) {
	d.Log.Info(fmt.Sprintf("%s is held up no longer: the kernel goes on after %v", a, after.Round(time.Second)),
		slog.String("pci_address", a.String()),
		slog.Duration("since", after),
		journal.MessageHeld.Attr())
}
