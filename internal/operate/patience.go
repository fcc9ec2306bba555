package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
)

// patiently runs a step that the kernel may not come back from, and reports it
// for as long as it does not: after Limits.Slow, then ever more rarely.
func (j *judge) patiently(step string, run func() error) error {
	if j.Slow == nil {
		return run()
	}
	p := &patience{wait: j.Limit.Slow, start: time.Now()}
	p.mu.Lock()
	p.timer = time.AfterFunc(p.wait, func() {
		at := j.heldUp(step) // not under the lock: this look may hang as well
		p.report(func(since time.Duration) { j.Slow(at, since) })
	})
	p.mu.Unlock()
	defer p.end()
	return run()
}

// heldUp names a step and, where the kernel waits for programs that hold the
// device, them.
func (j *judge) heldUp(step string) string {
	if who, _ := j.awaited(j.Device); who != "" {
		return step + ", held up by " + who + ","
	}
	return step
}

// patience is the timer of one step.
type patience struct {
	mu    sync.Mutex
	timer *time.Timer
	wait  time.Duration
	start time.Time
	over  bool
}

func (p *patience) report(slow func(time.Duration)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	slow(time.Since(p.start))
	p.wait *= 2
	p.timer.Reset(p.wait)
}

func (p *patience) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.timer.Stop()
}

// enter takes the locks of the device and of those that may have to come along,
// and reports whether it had to wait. All who want several take them in order
// of address and while they have no other, so that nobody waits in a ring.
//
// A process that hangs in an earlier operation on a device still has its lock: a
// person is told who after a while, the daemon waits.
func (t *taking) enter(ctx context.Context) (waited bool, err error) {
	all := append([]pci.Address{t.Device.Address()}, t.beside...)
	slices.SortFunc(all, pci.Address.Compare)
	t.locks = map[pci.Address]*ledger.Lock{}
	for _, a := range slices.Compact(all) {
		lock, wait, err := t.enterOne(ctx, a)
		if err != nil {
			t.leave()
			return waited, err
		}
		t.locks[a], waited = lock, waited || wait
	}
	t.lock = t.locks[t.Device.Address()]
	return waited, nil
}

func (t *taking) enterOne(ctx context.Context, a pci.Address) (lock *ledger.Lock, waited bool, err error) {
	lock, err = t.Ledger.Lock(a)
	if !errors.Is(err, ledger.ErrLocked) {
		return lock, false, err
	}
	patient := ctx
	if t.Arrival == ByHand {
		var cancel context.CancelFunc
		patient, cancel = context.WithTimeout(ctx, t.Limit.Slow)
		defer cancel()
	}
	err = t.patiently(fmt.Sprintf("wait: %v", err), func() (err error) {
		lock, err = t.Ledger.LockWait(patient, a)
		return err
	})
	return lock, true, err
}

// leave gives up what an operation holds: the devices that were to come along,
// and the locks.
func (t *taking) leave() {
	for _, c := range t.companions {
		_ = c.hold.Close()
		_ = c.Device.Close()
	}
	for _, lock := range t.locks {
		_ = lock.Unlock()
	}
}
