package main

import (
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/wire"
)

// monotonic is CLOCK_MONOTONIC, the clock of the kernel's trace too.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Clock gives the guest's time.
func (a *Agent) Clock(_ wire.Nothing, now *time.Duration) error {
	*now = monotonic()
	return nil
}
