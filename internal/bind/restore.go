package bind

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Restore puts a device back to the state before, as far as it is still ours
// to change: it unbinds only the driver ours, and clears or rewrites only an
// override that names ours or the driver it was on its way back to. It is safe
// to run twice, after an unplug (which is not an error) and after a crash at
// any of its steps.
//
// Unbinding ours blocks while a program holds the device open; see
// Device.Unbind for what ctx and hold do.
func Restore(ctx context.Context, dev Device, ours string, before State, hold ...*os.File) error {
	err := truth(dev, restore(ctx, dev, ours, before, hold))
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

func restore(ctx context.Context, dev Device, ours string, before State, hold []*os.File) error {
	now, err := look(dev)
	if err != nil {
		return err
	}
	override, err := dev.Override()
	if err != nil {
		return err
	}
	if now == ours && before.Driver != ours {
		// The override goes first, or a probe by anybody would bind ours again.
		if override, err = steer(dev, override, ours, before); err != nil {
			return err
		}
		if err := dev.Unbind(ctx, ours, hold...); err != nil {
			return fmt.Errorf("unbind %s: %w", ours, err)
		}
		now = ""
	}
	if now == "" && before.Driver != "" {
		if override, err = steer(dev, override, ours, before); err != nil {
			return err
		}
		if err := back(dev, before.Driver); err != nil {
			return also(err, clear(dev, override, ours, before))
		}
	}
	if err := clear(dev, override, ours, before); err != nil {
		return err
	}
	if before.New {
		_, err = Probe(dev)
	}
	return err
}

// steer points an override that is ours, or nobody's, at the driver that the
// device goes back to, so that no third driver matches meanwhile, nor ours again
// by a dynamic ID.
func steer(dev Device, override, ours string, before State) (string, error) {
	if override != ours && override != "" || before.Driver == "" {
		return override, nil
	}
	if err := dev.SetOverride(before.Driver); err != nil {
		return override, fmt.Errorf("write driver_override: %w", err)
	}
	return before.Driver, nil
}

// back binds the device to the driver that it had.
func back(dev Device, driver string) error {
	now, err := Probe(dev)
	if err == nil && now == "" {
		now, err = insist(dev, driver)
	}
	if err != nil {
		return err
	}
	if now != driver {
		return fmt.Errorf("bind %s: %s took the device: %w", driver, now, ErrChanged)
	}
	return nil
}

// clear writes the override of before, if the present one is ours.
func clear(dev Device, override, ours string, before State) error {
	steered := before.Driver != "" && override == before.Driver
	if override == before.Override || override != ours && !steered {
		return nil
	}
	if err := dev.SetOverride(before.Override); err != nil {
		return fmt.Errorf("write driver_override: %w", err)
	}
	return nil
}

// also joins two errors on one line.
func also(first, second error) error {
	if second == nil {
		return first
	}
	return fmt.Errorf("%w; %w", first, second)
}
