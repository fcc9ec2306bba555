package operate

import (
	"context"
	"time"
)

// Watched looks what has become of a device at the hands of others since last,
// and gives the news if there is any: that the kernel is taking its vfio driver
// away and waits for a program that holds it, which is Stuck; or that somebody
// has given it to another driver or to none, which is Left.
//
// It changes nothing, takes no lock of the kernel's, and returns within a few
// seconds. Without news it reads one link.
func (o *Operator) Watched(ctx context.Context, r Request, last Result) (news Result, is bool) {
	now, err := r.Device.Driver()
	if err != nil || now != "" && now == last.Driver {
		return Result{}, false
	}
	t := &taking{judge: judge{Operator: o, Request: r}}
	if t.facts, err = readTold(r.Device); err != nil {
		return Result{}, false
	}
	if result, stuck := t.leaving(ctx); stuck {
		return t.told(result), true
	}
	if !last.Outcome.Bound() {
		return Result{}, false
	}
	if now, err = t.settled(ctx); err != nil || now == last.Driver {
		return Result{}, false
	}
	reason, remedy := givenAway(r.Device.Address(), last.Driver, now)
	result := t.told(Result{Outcome: Left, Driver: now, Reason: reason, Remedy: remedy})
	result.Rule = last.Rule
	return result, true
}

// settled gives the driver that the device has when whoever unbound it has had
// the time to bind it again. An error says that it has gone.
func (t *taking) settled(ctx context.Context) (string, error) {
	giveUp := time.NewTimer(leaves)
	defer giveUp.Stop()
	for {
		now, err := t.Device.Driver()
		if err == nil {
			err = t.Device.Present()
		}
		if err != nil || now != "" {
			return now, err
		}
		select {
		case <-t.watch().Wake():
		case <-giveUp.C:
			return "", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}
