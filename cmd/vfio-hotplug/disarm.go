package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/operate"
)

// newDisarmCommand is for the unit that outlives the daemon's restarts, and for
// who has a daemon that was killed and does not start again.
func newDisarmCommand(m *machine) *cobra.Command {
	return &cobra.Command{
		Use:   "disarm",
		Short: "Take back the guard of a daemon that was killed",
		Long: `disarm takes back what a daemon has armed to keep other drivers from new
devices: its dynamic IDs and its gate. It is for a daemon that was killed and
will not start again; one that stops for good has it done. What is bound stays
bound.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			outlastReaders()
			if answers(cmd.Context(), m) {
				return refusedError{errors.New("a daemon is running, and counts on its guard: stop it, which disarms: systemctl stop vfio-hotplug")}
			}
			operator, err := m.operator()
			if err != nil {
				return err
			}
			g := m.guard(operator)
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			return disarm(ctx, operator, g)
		},
	}
}

// answers reports whether a daemon is at work. One that was killed while the
// kernel held it up may still have its socket.
func answers(ctx context.Context, m *machine) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var reply control.StatusReply
	asked, err := call(ctx, m, control.MethodStatus, control.StatusRequest{}, &reply)
	return asked && err == nil
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
	return errors.Join(g.Settled(ctx), g.Unshielded(ctx, state.Shielded))
}
