package sysfstest

import (
	"strings"
	"syscall"
	"testing"

	"vfio-hotplug/internal/sysfs"
)

// overrideStatements are about driver_override.
func overrideStatements() []statement {
	return []statement{
		{"no override reads (null)", func(t *testing.T, c contract, d *sysfs.Device) {
			wantOverride(t, d, "(null)")
		}},
		{"an override reads back, with or without the newline", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("vfio-pci"))
			wantOverride(t, d, "vfio-pci")
			must(t, d.Dir().Write("driver_override", "pci-stub"))
			wantOverride(t, d, "pci-stub")
		}},
		{"a newline clears the override", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("vfio-pci"))
			must(t, d.SetOverride(""))
			wantOverride(t, d, "(null)")
		}},
		{"an empty write is no write", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("vfio-pci"))
			must(t, d.Dir().Write("driver_override", ""))
			wantOverride(t, d, "vfio-pci")
		}},
		{"an override may name a driver that does not exist", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("no-such-driver"))
			wantOverride(t, d, "no-such-driver")
		}},
		{"an override of 4095 bytes is refused and changes nothing", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("vfio-pci"))
			wantErrno(t, "4095 bytes", d.Dir().Write("driver_override", strings.Repeat("x", 4095)), syscall.EINVAL)
			wantOverride(t, d, "vfio-pci")
		}},
		{"an override leaves a bound device with its driver", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("vfio-pci"))
			must(t, d.Probe())
			wantDriver(t, d, "nvme")
		}},
		{"an override outlives the unbind", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("vfio-pci"))
			must(t, d.Unbind(t.Context(), "nvme"))
			wantDriver(t, d, "")
			wantOverride(t, d, "vfio-pci")
		}},
		{"override, unbind, probe moves a device", func(t *testing.T, c contract, d *sysfs.Device) {
			c.move(t, d, "vfio-pci")
			wantOverride(t, d, "vfio-pci")
		}},
		{"without the override, a probe gives the device back to nvme", func(t *testing.T, c contract, d *sysfs.Device) {
			c.move(t, d, "vfio-pci")
			must(t, d.SetOverride(""))
			must(t, d.Probe())
			wantDriver(t, d, "vfio-pci")
			must(t, d.Unbind(t.Context(), "vfio-pci"))
			must(t, d.Probe())
			wantDriver(t, d, "nvme")
		}},
		{"an override that names no driver keeps every driver off", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("no-such-driver"))
			must(t, d.Unbind(t.Context(), "nvme"))
			must(t, d.Probe())
			wantDriver(t, d, "")
			wantErrno(t, "bind nvme", d.Bind("nvme"), syscall.ENODEV)
		}},
		{"a driver takes what was meant for it when it is loaded", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("pci-stub"))
			must(t, d.Unbind(t.Context(), "nvme"))
			must(t, d.Probe())
			wantDriver(t, d, "")
			c.load(t, "pci-stub")
			wantDriver(t, d, "pci-stub")
		}},
		{"a driver that is unloaded lets its devices go", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, c.lab.Load("pci-stub"))
			c.move(t, d, "pci-stub")
			must(t, c.lab.Unload("pci-stub"))
			wantDriver(t, d, "")
			wantOverride(t, d, "pci-stub")
		}},
	}
}
