package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

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

// disarm takes back what we have armed. Devices that came while the gate was
// closed are matched once it is open.
func disarm(ctx context.Context, o *operate.Operator, g *guard.Guard) error {
	armed, err := g.Armed()
	if err != nil {
		return err
	}
	err = g.Disarm(ctx)
	if armed.Gate {
		err = errors.Join(err, o.Unblock(armed.Idle))
	}
	return err
}
