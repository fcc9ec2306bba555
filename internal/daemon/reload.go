package daemon

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/journal"
)

// reload reads the policy again. One with faults changes nothing: the policy
// that runs stays. With a new one every device is looked at as at the start.
func (d *Daemon) reload(ctx context.Context) {
	d.notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonicMicroseconds()))
	defer d.notify("READY=1")
	p, err := d.Load()
	if err != nil {
		d.Log.Error("policy not reloaded, the one before stays in force: "+err.Error(), journal.MessagePolicyBad.Attr())
		return
	}
	d.policy.Store(p)
	d.logPolicy("policy reloaded")
	d.scan(ctx, nil)
	d.armAgain(true)
}

func (d *Daemon) logPolicy(what string) {
	p := d.policy.Load()
	d.Log.Info(what+": "+p.Summary(), slog.Any("files", p.Files()), journal.MessagePolicyLoaded.Attr())
}

// monotonicMicroseconds is CLOCK_MONOTONIC as sd_notify(3) wants it.
func monotonicMicroseconds() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return now.Nano() / 1000
}
