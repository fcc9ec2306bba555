package vmtest

import (
	"context"
	"fmt"

	"vfio-hotplug/internal/vmtest/wire"
)

// SysWrite is a write below /sys, as the kernel's trace saw it.
type SysWrite = wire.SysWrite

// TraceWrites begins a trace of every write below /sys by any process: what was
// written before is forgotten.
func (g *Guest) TraceWrites(ctx context.Context) error {
	var reply wire.Outcome
	if err := g.call(ctx, "TraceWrites", wire.Nothing{}, &reply); err != nil {
		return err
	}
	if err := failure(reply); err != nil {
		return fmt.Errorf("trace writes below /sys: %w", err)
	}
	return nil
}

// Writes gives the writes that were seen since TraceWrites, oldest first. A
// trace that lost entries, or that is blind to a write made to test it, is an
// error.
func (g *Guest) Writes(ctx context.Context) ([]SysWrite, error) {
	var reply wire.TraceReply
	if err := g.call(ctx, "Writes", wire.Nothing{}, &reply); err != nil {
		return nil, err
	}
	if err := failure(reply.Outcome); err != nil {
		return nil, fmt.Errorf("read the trace of writes: %w", err)
	}
	if reply.Lost > 0 {
		return nil, fmt.Errorf("the trace of writes lost %d entries", reply.Lost)
	}
	return reply.Writes, nil
}
