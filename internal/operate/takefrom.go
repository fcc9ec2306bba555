package operate

import (
	"context"
	"errors"
	"time"

	"vfio-hotplug/internal/bind"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/policy"
)

// takeFrom takes a device from another driver, if it is not in use.
func (t *taking) takeFrom(ctx context.Context, from string) Result {
	t.back.Driver, t.back.New = from, false
	if t.prior == nil || t.origin.New {
		t.origin = t.back
	}
	if reason := t.tooEarly(from); reason != "" {
		return t.giveUp(ctx, Result{Outcome: Left, Check: tooEarlyCheck, Reason: reason})
	}
	for _, check := range []func() Check{
		func() Check { return t.checkTakeover(from) },
		t.checkVFs,
		t.checkGroup, // a sibling may have come, or lost its race, since the first look
	} {
		if c := check(); c.Veto {
			return t.refused(ctx, c)
		}
	}
	hold, c, err := t.holdUnused(ctx, from)
	if err != nil {
		return t.failure(ctx, err)
	}
	defer hold.Close()
	if c.Veto {
		return t.refused(ctx, c)
	}
	if result, changed := t.reconsider(ctx); changed {
		return result
	}
	if result, ok := t.bringAlong(ctx); !ok {
		return result
	}
	switch c, err := t.shows(ctx, from); { // what has begun since, and claims nothing
	case err != nil:
		return t.failure(ctx, err)
	case c.Veto:
		return t.refused(ctx, c)
	}
	if result, changed := t.reconsider(ctx); changed {
		return result
	}
	if err := t.record(ctx); err != nil {
		return t.unrecorded(ctx, err)
	}
	files := append(hold.Files(), t.lock.File())
	err = t.patiently("unbind from "+from, func() error {
		return bind.Take(ctx, t.Device, t.driver, t.back, files...)
	})
	if err != nil {
		return t.failure(ctx, err)
	}
	return t.bound(ctx, from)
}

// holdUnused looks whether the device is in use and, if not, keeps hold of it
// so that nobody can begin.
func (t *taking) holdUnused(ctx context.Context, from string) (*inuse.Hold, Check, error) {
	return t.lookWhenSettled(ctx, from, inuse.How{Blank: t.decision.Takeover == policy.Blank, Exclusive: true})
}

// shows is the check of the uses that show. It opens no node of the device, and is
// the last before the device is changed.
func (t *taking) shows(ctx context.Context, from string) (Check, error) {
	_, c, err := t.lookWhenSettled(ctx, from, inuse.How{Passive: true})
	return c, err
}

// lookWhenSettled looks whether the device is in use. It waits until its driver
// has brought it up: before that, an empty device and a full one look the same.
func (t *taking) lookWhenSettled(ctx context.Context, from string, how inuse.How) (*inuse.Hold, Check, error) {
	facts := t.facts
	facts.Driver = from
	limit := t.Limit.Settle
	if t.Arrival == ByHand { // a person waits, and may ask again
		limit = min(limit, t.Limit.Slow)
	}
	giveUp := time.NewTimer(limit)
	defer giveUp.Stop()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		report, hold, err := t.Uses.Look(ctx, t.Device, facts, how)
		var unsettled *inuse.NotSettledError
		switch {
		case t.vanished():
			return nil, Check{}, errors.Join(bind.ErrGone, hold.Close())
		case errors.As(err, &unsettled):
		case err != nil:
			return nil, Check{}, err
		default:
			return hold, t.unused(report), nil
		}
		select {
		case <-t.watch().Wake():
		case <-time.After(pause):
		case <-giveUp.C:
			return nil, veto(inUse, "look at the drive: nvme list; dmesg",
				"it could not be checked in %v: %v", limit, err), nil
		case <-ctx.Done():
			return nil, Check{}, ctx.Err()
		}
	}
}

// inUse is the name of the check of who uses a device.
const inUse = "in use"

// unused is the check that a report makes.
func (t *taking) unused(report inuse.Report) Check {
	t.unchecked = report.Unchecked
	if report.Veto() {
		t.inUse = &report
		return veto(inUse, report.Remedy(), "%s", report)
	}
	return pass(inUse, "%s", report)
}

// StillUsed reports whether what stood in the way, as a Result's InUse told, is
// there still, so that another Take would be refused again. It costs far less.
func (o *Operator) StillUsed(ctx context.Context, r inuse.Report) bool { return o.Uses.Still(ctx, r) }
