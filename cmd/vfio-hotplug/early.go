package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/journal"
)

// earlyLimit is how long the early scan may take: the boot waits for it.
const earlyLimit = 8 * time.Second

// newEarlyCommand is for the unit before udev's coldplug; it is hidden, since
// later in the life of a machine the daemon does the same and more.
func newEarlyCommand(m *machine) *cobra.Command {
	return &cobra.Command{
		Use:    "early",
		Short:  "Take the devices that no driver has yet, before udev loads drivers",
		Args:   noArguments,
		Hidden: true,
		RunE:   func(cmd *cobra.Command, _ []string) error { return early(cmd, m) },
	}
}

func early(cmd *cobra.Command, m *machine) error {
	outlastReaders()
	if off, err := isOff(m); off || err != nil {
		return err
	}
	log, flush := openLog(slog.LevelInfo, journal.Auto)
	defer flush()
	operator, err := m.operator()
	if err != nil {
		return err
	}
	operator.Limit.Load = earlyLimit / 2
	d, err := daemon.New(daemon.Config{FS: operator.FS, Operator: operator, Load: m.policy, Log: log})
	if err != nil {
		return policyFaults(cmd, err)
	}
	if err := m.beginColdplug(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), earlyLimit)
	defer cancel()
	there, err := present(operator.FS)
	if err != nil {
		return err
	}
	err = d.Boot(ctx)
	if errors.Is(err, daemon.ErrLate) { // a slow boot lacks nothing, and is no failed unit
		log.Warn("scan at boot: "+err.Error(), journal.MessageStuck.Attr())
		return nil
	}
	if err != nil {
		return err
	}
	return m.seenAtBoot(there)
}
