package sysfstest

import (
	"strings"
	"syscall"
	"testing"

	"vfio-hotplug/internal/sysfs"
)

// vfioStatements are about vfio-pci.
func vfioStatements() []statement {
	return []statement{
		{"the vfio group, the vfio device and the bind are announced in this order", func(t *testing.T, c contract, d *sysfs.Device) {
			c.move(t, d, "vfio-pci")
			events := c.awaitEvents(t, "bind to vfio-pci", func(e Event) bool {
				return e.about("bind", d.Address()) && e.Env["DRIVER"] == "vfio-pci"
			})
			var order []string
			for _, e := range events {
				if subsystem := e.Env["SUBSYSTEM"]; e.Action == "add" && strings.HasPrefix(subsystem, "vfio") {
					order = append(order, subsystem)
				}
			}
			if got := strings.Join(order, ", "); got != "vfio, vfio-dev" {
				t.Errorf("announced before the bind: %s, want vfio, vfio-dev", got)
			}
			group, err := d.Dir().Readlink("iommu_group")
			must(t, err)
			number := group[strings.LastIndex(group, "/")+1:]
			node, err := c.lab.Root().Open("class/vfio/" + number)
			must(t, err)
			must(t, node.Close())
		}},
		{"an unbind takes the vfio group away", func(t *testing.T, c contract, d *sysfs.Device) {
			c.move(t, d, "vfio-pci")
			must(t, d.Unbind(t.Context(), "vfio-pci"))
			names, err := c.lab.Root().List("class/vfio")
			must(t, err)
			if len(names) != 0 {
				t.Errorf("vfio groups are %v, want none", names)
			}
		}},
		{"an unbind waits for who holds the device, its driver link gone", func(t *testing.T, c contract, d *sysfs.Device) {
			c.move(t, d, "vfio-pci")
			release, err := c.lab.Hold(d.Address())
			must(t, err)
			c.catchUp(t, d)
			c.unbindHangs(t, d, "vfio-pci")
			wantDriver(t, d, "")
			must(t, d.Probe())
			wantDriver(t, d, "")
			release()
			c.await(t, "unbind", d.Address())
		}},
		{"a held group cannot be opened again", func(t *testing.T, c contract, d *sysfs.Device) {
			c.move(t, d, "vfio-pci")
			release, err := c.lab.Hold(d.Address())
			must(t, err)
			defer release()
			_, err = c.lab.Hold(d.Address())
			wantErrno(t, "hold it again", err, syscall.EBUSY)
		}},
		{"a device that vfio-pci has not cannot be held", func(t *testing.T, c contract, d *sysfs.Device) {
			_, err := c.lab.Hold(d.Address())
			wantErrno(t, "hold", err, syscall.ENOENT)
		}},
	}
}
