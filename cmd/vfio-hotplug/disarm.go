package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/operate"
)

// newDisarmCommand is for the unit that outlives the daemon's restarts; it is
// hidden, since a running daemon would arm again at its next reload.
func newDisarmCommand(m *machine) *cobra.Command {
	return &cobra.Command{
		Use:    "disarm",
		Short:  "Take the guard's dynamic IDs back and open its gate",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			operator, err := m.operator()
			if err != nil {
				return err
			}
			g, err := m.guard(operator)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			return disarm(ctx, operator, g)
		},
	}
}

// disarm takes back what we have armed. What the guard has caught and nobody
// has seen to goes to the driver that it would have had.
func disarm(ctx context.Context, o *operate.Operator, g *guard.Guard) error {
	state, err := g.State()
	if err != nil {
		return err
	}
	err = errors.Join(g.Disarm(ctx), o.Unshield(ctx, state.Shielded))
	if err := errors.Join(err, o.Settle(ctx, daemon.Recall(state, time.Now()))); err != nil {
		return err
	}
	return errors.Join(g.Settled(ctx), g.Shielded(ctx, nil))
}
