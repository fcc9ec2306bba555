package operate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"vfio-hotplug/internal/ledger"
)

// patiently runs a step that the kernel may not come back from, and reports it
// for as long as it does not: after Limits.Slow, then ever more rarely.
func (j *judge) patiently(step string, run func() error) error {
	if j.Slow == nil {
		return run()
	}
	p := &patience{wait: j.Limit.Slow, start: time.Now()}
	p.mu.Lock()
	p.timer = time.AfterFunc(p.wait, func() { p.report(func(since time.Duration) { j.Slow(step, since) }) })
	p.mu.Unlock()
	defer p.end()
	return run()
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

// enter takes the device's lock, and reports whether it had to wait for it. A
// process that hangs in an earlier operation on the device still has it: a
// person is told who after a while, the daemon waits.
func (t *taking) enter(ctx context.Context) (waited bool, err error) {
	t.lock, err = t.Ledger.Lock(t.Device.Address())
	if !errors.Is(err, ledger.ErrLocked) {
		return false, err
	}
	patient := ctx
	if t.Arrival == ByHand {
		var cancel context.CancelFunc
		patient, cancel = context.WithTimeout(ctx, t.Limit.Slow)
		defer cancel()
	}
	return true, t.patiently(fmt.Sprintf("wait: %v", err), func() (err error) {
		t.lock, err = t.Ledger.LockWait(patient, t.Device.Address())
		return err
	})
}
