package sysfstest

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"vfio-hotplug/internal/sysfs"
)

// bindStatements are about bind, unbind and drivers_probe, error by error.
func bindStatements() []statement {
	return []statement{
		{"bind of a bound device: EBUSY", func(t *testing.T, c contract, d *sysfs.Device) {
			wantErrno(t, "bind nvme", d.Bind("nvme"), syscall.EBUSY)
			must(t, d.SetOverride("vfio-pci"))
			wantErrno(t, "bind vfio-pci", d.Bind("vfio-pci"), syscall.EBUSY)
			wantDriver(t, d, "nvme")
		}},
		{"bind of what does not match: ENODEV", func(t *testing.T, c contract, d *sysfs.Device) {
			wantErrno(t, "bind vfio-pci to a bound drive", d.Bind("vfio-pci"), syscall.ENODEV)
			must(t, d.Unbind(t.Context(), "nvme"))
			wantErrno(t, "bind vfio-pci to an unbound drive", d.Bind("vfio-pci"), syscall.ENODEV)
			wantDriver(t, d, "")
		}},
		{"bind needs no probe", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("vfio-pci"))
			must(t, d.Unbind(t.Context(), "nvme"))
			must(t, d.Bind("vfio-pci"))
			wantDriver(t, d, "vfio-pci")
		}},
		{"an address may end in a newline", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.Unbind(t.Context(), "nvme"))
			must(t, c.write("bus/pci/drivers/nvme/bind", d.Address().String()+"\n"))
			wantDriver(t, d, "nvme")
		}},
		{"nothing at the address: ENODEV", func(t *testing.T, c contract, d *sysfs.Device) {
			for _, attribute := range []string{"drivers/nvme/bind", "drivers/nvme/unbind", "drivers_probe"} {
				wantErrno(t, attribute, c.write("bus/pci/"+attribute, absent), syscall.ENODEV)
				wantErrno(t, attribute+" of no address", c.write("bus/pci/"+attribute, "nonsense"), syscall.ENODEV)
			}
		}},
		{"a driver that is not loaded: ENOENT", func(t *testing.T, c contract, d *sysfs.Device) {
			wantErrno(t, "bind pci-stub", d.Bind("pci-stub"), syscall.ENOENT)
			wantErrno(t, "unbind pci-stub", d.Unbind(t.Context(), "pci-stub"), syscall.ENOENT)
		}},
		{"unbind from a driver that has it not: ENODEV", func(t *testing.T, c contract, d *sysfs.Device) {
			wantErrno(t, "unbind vfio-pci", d.Unbind(t.Context(), "vfio-pci"), syscall.ENODEV)
			wantDriver(t, d, "nvme")
			must(t, d.Unbind(t.Context(), "nvme"))
			wantErrno(t, "unbind nvme again", d.Unbind(t.Context(), "nvme"), syscall.ENODEV)
		}},
		{"probe of a bound device: success, and nothing happens", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.Probe())
			wantDriver(t, d, "nvme")
		}},
		{"unbind carries no MODALIAS and no DRIVER, bind carries both", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.Unbind(t.Context(), "nvme"))
			unbind := c.await(t, "unbind", d.Address())
			must(t, d.Probe())
			bind := c.await(t, "bind", d.Address())
			for _, key := range []string{"MODALIAS", "DRIVER"} {
				if value, has := unbind.Env[key]; has {
					t.Errorf("unbind carries %s=%s", key, value)
				}
			}
			if bind.Env["DRIVER"] != "nvme" || bind.Env["MODALIAS"] == "" {
				t.Errorf("bind carries %v, want DRIVER=nvme and a MODALIAS", bind.Env)
			}
		}},
		{"an unbind meant for another device is not done", func(t *testing.T, c contract, d *sysfs.Device) {
			err := c.lab.Expendable()(t.Context(), sysfs.Write{
				Attribute: "bus/pci/drivers/nvme/unbind",
				Value:     d.Address().String(),
				Device:    d.Address(),
				Identity:  d.Identity() + 1,
			})
			if !errors.Is(err, sysfs.ErrReplaced) {
				t.Errorf("unbind with another identity: %v, want %v", err, sysfs.ErrReplaced)
			}
			wantDriver(t, d, "nvme")
		}},
	}
}

// unbindHangs starts an unbind that must not end before release is called.
func (c contract) unbindHangs(t *testing.T, d *sysfs.Device, driver string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Unbind(ctx, driver) }()
	defer cancel()
	// It is under way when it has taken the driver's link away.
	for began := time.Now(); c.driver(t, d) != "" && len(ended) == 0; {
		if time.Since(began) > patience {
			t.Fatalf("%s does not lose its driver", d.Address())
		}
	}
	select {
	case err := <-ended:
		t.Errorf("unbind %s: %v, want it to hang", driver, err)
	case <-time.After(hangs):
		cancel()
		<-ended
	}
}
