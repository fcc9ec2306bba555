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

// lock takes the device's lock. A process that hangs in an earlier operation
// on the device still has it: a person is told who, the daemon waits.
func (j *judge) lock(ctx context.Context) (*ledger.Lock, error) {
	lock, err := j.Ledger.Lock(j.Device.Address())
	if !errors.Is(err, ledger.ErrLocked) {
		return lock, err
	}
	if j.Arrival == ByHand {
		waiting, cancel := context.WithTimeout(ctx, j.Limit.Slow)
		defer cancel()
		ctx = waiting
	}
	err = j.patiently(fmt.Sprintf("wait: %v", err), func() (err error) {
		lock, err = j.Ledger.LockWait(ctx, j.Device.Address())
		return err
	})
	return lock, err
}
