package sysfstest

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// factStatements are about reading, and about the file system itself.
func factStatements() []statement {
	return []statement{
		{"a device reads as what it is", func(t *testing.T, c contract, d *sysfs.Device) {
			got, err := d.Read(pci.AllFacts)
			must(t, err)
			if got.Address != d.Address() || got.Class != pci.NVMe || got.Driver != "nvme" || got.Override != "" {
				t.Errorf("read %+v, want an NVMe drive at %s that nvme has", got, d.Address())
			}
			if got.IOMMUGroup < 0 || got.Slot == "" || len(got.Upstream) == 0 {
				t.Errorf("read %+v, want a group, a slot and a bridge above", got)
			}
			if got.VirtFn || got.VMD || got.VFs != 0 || got.Bridge() {
				t.Errorf("read %+v, want neither VF nor VMD nor bridge", got)
			}
			for name, want := range map[string]string{
				"vendor": got.Vendor.String(), "device": got.DeviceID.String(), "class": got.Class.String(),
				"subsystem_vendor": got.SubVendor.String(), "subsystem_device": got.SubDevice.String(),
			} {
				if raw, err := d.Dir().Read(name); err != nil || raw != want+"\n" {
					t.Errorf("attribute %s reads %q, %v, want %s", name, raw, err, want)
				}
			}
		}},
		{"the bridge above a device is a device", func(t *testing.T, c contract, d *sysfs.Device) {
			got, err := d.Read(pci.FactUpstream)
			must(t, err)
			port, err := c.fs.Open(got.Upstream[len(got.Upstream)-1])
			must(t, err)
			defer port.Close()
			read, err := port.Read(pci.NoFacts)
			must(t, err)
			if read.Class>>8 != 0x0604 || !read.Forwards {
				t.Errorf("above %s is %+v, want a PCI bridge, with a bus behind it", d.Address(), read)
			}
		}},
		{"a group lists its devices", func(t *testing.T, c contract, d *sysfs.Device) {
			names, err := d.Dir().List("iommu_group/devices")
			must(t, err)
			if !slices.Contains(names, d.Address().String()) {
				t.Errorf("the group of %s lists %v", d.Address(), names)
			}
		}},
		{"every present device is listed, in order", func(t *testing.T, c contract, d *sysfs.Device) {
			all, err := c.fs.Devices()
			must(t, err)
			if !slices.Contains(all, d.Address()) || !slices.IsSortedFunc(all, pci.Address.Compare) {
				t.Errorf("devices are %v, want %s among them, in order", all, d.Address())
			}
		}},
		{"a driver is there when it is loaded", func(t *testing.T, c contract, d *sysfs.Device) {
			for driver, want := range map[string]bool{"nvme": true, "vfio-pci": true, "pci-stub": false, "no such driver": false} {
				if has, err := c.fs.HasDriver(driver); err != nil || has != want {
					t.Errorf("driver %s: %v, %v, want %v", driver, has, err, want)
				}
			}
		}},
		{"a handle on what is there says so", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.Present())
			again, err := c.fs.Open(d.Address())
			must(t, err)
			defer again.Close()
			if again.Identity() != d.Identity() {
				t.Errorf("two handles on one device have identities %d and %d", d.Identity(), again.Identity())
			}
		}},
		{"a write makes no file", func(t *testing.T, c contract, d *sysfs.Device) {
			wantErrno(t, "write to what is not there", d.Dir().Write("no_such_attribute", "1"), syscall.ENOENT)
			_, err := d.Dir().Read("no_such_attribute")
			wantErrno(t, "read it", err, syscall.ENOENT)
		}},
		{"an attribute for reading refuses a write", func(t *testing.T, c contract, d *sysfs.Device) {
			wantErrno(t, "write vendor", d.Dir().Write("vendor", "0x1234"), syscall.EACCES)
		}},
		{"an attribute for writing refuses a read", func(t *testing.T, c contract, d *sysfs.Device) {
			_, err := c.lab.Root().Read("bus/pci/drivers/nvme/bind")
			wantErrno(t, "read bind", err, syscall.EACCES)
		}},
		{"a name can be of the wrong kind", func(t *testing.T, c contract, d *sysfs.Device) {
			_, err := d.Dir().Open("vendor")
			wantErrno(t, "open a file as a directory", err, syscall.ENOTDIR)
			_, err = d.Dir().Read("driver")
			wantErrno(t, "read a directory", err, syscall.EISDIR)
			_, err = d.Dir().Readlink("vendor")
			wantErrno(t, "readlink of a file", err, syscall.EINVAL)
			_, err = d.Dir().Read("vendor/vendor")
			wantErrno(t, "a file as a folder", err, syscall.ENOTDIR)
		}},
		{"a link is relative and can be followed", func(t *testing.T, c contract, d *sysfs.Device) {
			target, err := d.Dir().Readlink("driver")
			must(t, err)
			if !strings.HasPrefix(target, "../") || !strings.HasSuffix(target, "/bus/pci/drivers/nvme") {
				t.Errorf("driver leads to %q", target)
			}
			direct, err := c.lab.Root().Open("bus/pci/drivers/nvme")
			must(t, err)
			defer direct.Close()
			linked, err := d.Dir().Open("driver")
			must(t, err)
			defer linked.Close()
			wantSame(t, direct, linked)
		}},
	}
}

func wantSame(t *testing.T, a, b sysfs.Dir) {
	t.Helper()
	x, err := a.Identity()
	must(t, err)
	y, err := b.Identity()
	must(t, err)
	if x != y {
		t.Errorf("%s and %s are not one directory: %d, %d", a.Path(), b.Path(), x, y)
	}
}
