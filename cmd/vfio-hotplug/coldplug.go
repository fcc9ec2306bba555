package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// coldplug is a file that is there from the early scan until the daemon starts:
// only in between do the udev rules ask for a decision about a device that has
// no driver. Whoever finds the policy faulty meanwhile removes it, so that this
// is said once and not for every device.
func (m *machine) coldplug() string { return m.path("run/vfio-hotplug/coldplug") }

func (m *machine) beginColdplug() error {
	f, err := os.OpenFile(m.coldplug(), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("let udev ask for decisions: %w", err)
	}
	return f.Close()
}

// kept is the same file when the coldplug has ended: what the rules have kept
// from drivers may not have been seen to.
func (m *machine) kept() string { return m.path("run/vfio-hotplug/coldplug.kept") }

// endColdplug reports whether it was this call that ended it.
func (m *machine) endColdplug() (bool, error) {
	err := os.Rename(m.coldplug(), m.kept())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// keptAtBoot gives what is to be called when all has been seen to that a coldplug
// has kept, nil where there was none.
func (m *machine) keptAtBoot() func() error {
	if _, err := os.Stat(m.kept()); err != nil {
		return nil
	}
	return func() error { return os.Remove(m.kept()) }
}
