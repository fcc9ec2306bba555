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
	if t.origin.New {
		t.origin = t.back
	}
	if reason := t.tooEarly(from); reason != "" {
		return t.giveUp(ctx, Result{Outcome: Left, Reason: reason})
	}
	for _, check := range []func() Check{
		func() Check { return t.checkTakeover(from) },
		t.checkVFs,
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
	if err := t.record(); err != nil {
		return t.refused(ctx, veto("ledger", "", "%v", err))
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
// so that nobody can begin. It waits until its driver has brought it up: before
// that, an empty device and a full one look the same.
func (t *taking) holdUnused(ctx context.Context, from string) (*inuse.Hold, Check, error) {
	const name = "in use"
	how := inuse.How{Blank: t.decision.Takeover == policy.Blank, Exclusive: true}
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
		case report.Veto():
			return hold, veto(name, report.Remedy(), "%s", report), nil
		default:
			return hold, pass(name, "%s", report), nil
		}
		select {
		case <-t.watch().Wake():
		case <-time.After(pause):
		case <-giveUp.C:
			return nil, veto(name, "look at the drive: nvme list; dmesg",
				"it could not be checked in %v: %v", limit, err), nil
		case <-ctx.Done():
			return nil, Check{}, ctx.Err()
		}
	}
}
