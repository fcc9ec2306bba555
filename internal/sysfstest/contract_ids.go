package sysfstest

import (
	"fmt"
	"syscall"
	"testing"

	"vfio-hotplug/internal/sysfs"
)

// anyNVMe is the dynamic ID of every NVMe drive.
const anyNVMe = "ffffffff ffffffff ffffffff ffffffff 010802 ffffff"

const (
	stubNewID    = "bus/pci/drivers/pci-stub/new_id"
	stubRemoveID = "bus/pci/drivers/pci-stub/remove_id"
)

// idStatements are about new_id and remove_id. Unloading a driver drops its
// IDs.
func idStatements() []statement {
	return []statement{
		{"a new ID leaves a bound device alone", func(t *testing.T, c contract, d *sysfs.Device) {
			c.load(t, "pci-stub")
			must(t, c.write(stubNewID, anyNVMe))
			wantDriver(t, d, "nvme")
		}},
		{"a new ID claims an unbound device, which outlives the ID", func(t *testing.T, c contract, d *sysfs.Device) {
			c.load(t, "pci-stub")
			must(t, d.Unbind(t.Context(), "nvme"))
			must(t, c.write(stubNewID, anyNVMe))
			wantDriver(t, d, "pci-stub")
			must(t, c.write(stubRemoveID, anyNVMe))
			wantDriver(t, d, "pci-stub")
			must(t, d.Unbind(t.Context(), "pci-stub"))
			must(t, d.Probe())
			wantDriver(t, d, "nvme")
		}},
		{"an override beats a new ID", func(t *testing.T, c contract, d *sysfs.Device) {
			c.load(t, "pci-stub")
			must(t, d.SetOverride("vfio-pci"))
			must(t, d.Unbind(t.Context(), "nvme"))
			must(t, c.write(stubNewID, anyNVMe))
			wantDriver(t, d, "")
			must(t, d.Probe())
			wantDriver(t, d, "vfio-pci")
		}},
		{"a known ID: EEXIST, unless there is a seventh field", func(t *testing.T, c contract, d *sysfs.Device) {
			c.load(t, "pci-stub")
			ids, err := d.Read(0)
			must(t, err)
			narrow := fmt.Sprintf("%04x %04x ffffffff ffffffff 010802 ffffff", uint16(ids.Vendor), uint16(ids.DeviceID))
			must(t, c.write(stubNewID, anyNVMe))
			wantErrno(t, "the same ID", c.write(stubNewID, anyNVMe), syscall.EEXIST)
			wantErrno(t, "a narrower ID", c.write(stubNewID, narrow), syscall.EEXIST)
			wantErrno(t, "the same ID with a seventh field", c.write(stubNewID, anyNVMe+" 0"), 0)
			wantErrno(t, "a narrower ID with a seventh field", c.write(stubNewID, narrow+" 0"), 0)
		}},
		{"an ID is removed once for every time that it was added", func(t *testing.T, c contract, d *sysfs.Device) {
			c.load(t, "pci-stub")
			wantErrno(t, "remove before any was added", c.write(stubRemoveID, anyNVMe), syscall.ENODEV)
			must(t, c.write(stubNewID, anyNVMe))
			must(t, c.write(stubNewID, anyNVMe+" 0"))
			wantErrno(t, "first removal", c.write(stubRemoveID, anyNVMe), 0)
			wantErrno(t, "second removal", c.write(stubRemoveID, anyNVMe), 0)
			wantErrno(t, "third removal", c.write(stubRemoveID, anyNVMe), syscall.ENODEV)
		}},
		{"a removal with two fields takes the first that fits", func(t *testing.T, c contract, d *sysfs.Device) {
			c.load(t, "pci-stub")
			must(t, c.write(stubNewID, "1af4 1111 1af4 0001"))
			must(t, c.write(stubNewID, "1af4 1111 1af4 0002"))
			must(t, c.write(stubRemoveID, "1af4 1111"))
			wantErrno(t, "remove the first", c.write(stubRemoveID, "1af4 1111 1af4 0001"), syscall.ENODEV)
			wantErrno(t, "remove the second", c.write(stubRemoveID, "1af4 1111 1af4 0002"), 0)
		}},
		{"the top byte of an ID's class matches every device, and a removal can tell by it", func(t *testing.T, c contract, d *sysfs.Device) {
			c.load(t, "pci-stub")
			must(t, d.Unbind(t.Context(), "nvme"))
			must(t, c.write(stubNewID, "1af4 1111 1af4 0001"))
			must(t, c.write(stubNewID, "1af4 1111 ffffffff ffffffff 5f000000 0 0"))
			must(t, c.write(stubNewID, "ffffffff ffffffff ffffffff ffffffff 5f010802 ffffff 0"))
			wantDriver(t, d, "pci-stub")
			wantErrno(t, "remove another's mark", c.write(stubRemoveID, "1af4 1111 ffffffff ffffffff 60000000 ffffffff"), syscall.ENODEV)
			wantErrno(t, "remove the marked one", c.write(stubRemoveID, "1af4 1111 ffffffff ffffffff 5f000000 ffffffff"), 0)
			wantErrno(t, "remove it again", c.write(stubRemoveID, "1af4 1111 ffffffff ffffffff 5f000000 ffffffff"), syscall.ENODEV)
			wantErrno(t, "remove the one without a mark", c.write(stubRemoveID, "1af4 1111 1af4 0001"), 0)
			wantErrno(t, "remove the marked one of NVMe", c.write(stubRemoveID, "ffffffff ffffffff ffffffff ffffffff 5f010802 ffffffff"), 0)
		}},
		{"an ID of one field, or none: EINVAL", func(t *testing.T, c contract, d *sysfs.Device) {
			c.load(t, "pci-stub")
			for _, id := range []string{"1af4", "nonsense", "\n"} {
				wantErrno(t, "new_id "+id, c.write(stubNewID, id), syscall.EINVAL)
				wantErrno(t, "remove_id "+id, c.write(stubRemoveID, id), syscall.EINVAL)
			}
		}},
		{"a seventh field that no static ID has: EINVAL", func(t *testing.T, c contract, d *sysfs.Device) {
			wantErrno(t, "new_id", c.write("bus/pci/drivers/vfio-pci/new_id", "1af4 1111 ffffffff ffffffff 0 0 1"), syscall.EINVAL)
		}},
	}
}
