package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/sysfs"
)

// coldplug is a file that is there from the early scan until the daemon starts:
// only in between do the udev rules ask for a decision about a device that has
// no driver. Whoever finds the policy faulty meanwhile removes it, so that this
// is said once and not for every device. It lists the devices that the early
// scan has seen to, which are no business of the rules any more.
func (m *machine) coldplug() string { return m.path("run/vfio-hotplug/coldplug") }

func (m *machine) beginColdplug() error {
	f, err := os.OpenFile(m.coldplug(), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("let udev ask for decisions: %w", err)
	}
	return f.Close()
}

// present gives a line for each device that is there: its address, and its
// identity, which the next one at the address has not.
func present(s sysfs.FS) ([]string, error) {
	addresses, err := s.Devices()
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, a := range addresses {
		device, err := s.Open(a)
		if err != nil {
			continue // it has gone
		}
		lines = append(lines, coldplugLine(device))
		_ = device.Close()
	}
	return lines, nil
}

func coldplugLine(d *sysfs.Device) string { return fmt.Sprintf("%s %d\n", d.Address(), d.Identity()) }

// seenAtBoot has the udev rules leave devices alone.
func (m *machine) seenAtBoot(lines []string) error {
	err := os.WriteFile(m.coldplug(), []byte(strings.Join(lines, "")), 0o644)
	if err != nil {
		return fmt.Errorf("say what was seen at boot: %w", err)
	}
	return nil
}

// asksAtBoot reports whether the udev rules may keep a device from drivers.
func (m *machine) asksAtBoot(d *sysfs.Device) bool {
	seen, err := os.ReadFile(m.coldplug())
	return err == nil && !strings.Contains("\n"+string(seen), "\n"+coldplugLine(d))
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

// freeKept ends a coldplug that no daemon follows: what the rules have kept goes
// to the driver that it would have had.
func (m *machine) freeKept(o *operate.Operator) error {
	if _, err := m.endColdplug(); err != nil {
		return err
	}
	done := m.keptAtBoot()
	if done == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := o.Free(ctx); err != nil {
		return err
	}
	return done()
}
