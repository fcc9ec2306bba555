package vmtest

import (
	"context"
	"fmt"
	"math"
	"time"

	"vfio-hotplug/internal/vmtest/wire"
)

// What the guest's agent says of uevents.
type (
	Uevent = wire.Uevent
	Match  = wire.Match
)

// Mark is a place in the guest's stream of uevents: now.
func (g *Guest) Mark(ctx context.Context) (int, error) {
	var reply wire.UeventsReply
	err := g.call(ctx, "Uevents", wire.Uevents{Since: math.MaxInt32, Match: Match{Action: "none"}}, &reply)
	return reply.Next, err
}

// Uevents gives the uevents since a Mark that match; 0 is the start of the
// agent.
func (g *Guest) Uevents(ctx context.Context, mark int, m Match) ([]Uevent, error) {
	var reply wire.UeventsReply
	if err := g.call(ctx, "Uevents", wire.Uevents{Since: mark, Match: m}, &reply); err != nil {
		return nil, err
	}
	if reply.Lost > 0 {
		return reply.Events, fmt.Errorf("the guest's witness lost uevents, %d times", reply.Lost)
	}
	return reply.Events, nil
}

// WaitUevents gives the first count uevents since a Mark that match, and waits
// for them.
func (g *Guest) WaitUevents(ctx context.Context, mark int, m Match, count int) ([]Uevent, error) {
	var all []Uevent
	for len(all) < count {
		var reply wire.UeventsReply
		ask := wire.Uevents{Since: mark, Match: m, Count: count - len(all), Timeout: patience}
		if err := g.call(ctx, "Uevents", ask, &reply); err != nil {
			return all, fmt.Errorf("%d of %d uevents came: %w", len(all), count, err)
		}
		all = append(all, reply.Events...)
		mark = reply.Next
	}
	return all, nil
}

// WaitFor calls ready until it says yes: at each uevent, and a few times a
// second besides.
func (g *Guest) WaitFor(ctx context.Context, what string, ready func(context.Context) (bool, error)) error {
	mark, err := g.Mark(ctx)
	if err != nil {
		return err
	}
	for {
		ok, err := ready(ctx)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		var reply wire.UeventsReply
		if err := g.call(ctx, "Uevents", wire.Uevents{Since: mark, Count: 1, Timeout: 200 * time.Millisecond}, &reply); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		mark = reply.Next
	}
}
