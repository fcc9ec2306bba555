package sysfstest

import (
	"context"
	"errors"
	"path"
	"strings"
	"syscall"
	"testing"
	"time"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// vfioStatements are about vfio-pci.
func vfioStatements() []statement {
	return []statement{
		{"the vfio group, the vfio device and the bind are announced in this order", func(t *testing.T, c contract, d *sysfs.Device) {
			c.move(t, d, "vfio-pci")
			events := c.awaitEvents(t, "bind to vfio-pci", boundTo("vfio-pci", d))
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
		{"the nodes of a device are announced again when that is asked for", func(t *testing.T, c contract, d *sysfs.Device) {
			c.move(t, d, "vfio-pci")
			c.catchUp(t, d)
			group, err := d.Dir().Readlink("iommu_group")
			must(t, err)
			devices, err := d.Dir().List("vfio-dev")
			must(t, err)
			must(t, c.lab.Root().Write("class/vfio/"+path.Base(group)+"/uevent", "change"))
			must(t, d.Dir().Write("vfio-dev/"+devices[0]+"/uevent", "change"))
			for _, name := range []string{path.Base(group), devices[0]} {
				c.awaitEvents(t, "change of "+name, func(e Event) bool { return e.Action == "change" && path.Base(e.DevPath) == name })
			}
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
		{"an unbind waits for who holds the device, its driver link gone, its group there", func(t *testing.T, c contract, d *sysfs.Device) {
			c.move(t, d, "vfio-pci")
			release, err := c.lab.Hold(d.Address())
			must(t, err)
			c.catchUp(t, d)
			c.unbindHangs(t, d, "vfio-pci")
			wantDriver(t, d, "")
			must(t, d.Probe())
			wantDriver(t, d, "")
			_, err = d.Dir().List("vfio-dev")
			if gone := sysfs.Gone(err); gone != c.atLeast(6, 6) {
				t.Errorf("vfio-dev: %v, want it gone from Linux 6.6 on", err)
			}
			group, err := d.Dir().Readlink("iommu_group")
			must(t, err)
			_, err = c.lab.Root().Readlink("class/vfio/" + path.Base(group))
			must(t, err)
			wantEnabled(t, d, "1")
			release()
			c.await(t, "unbind", d.Address())
			wantEnabled(t, d, "0")
		}},
		{"driver_override waits for a hanging unbind before 6.12, and never from 7.0 on", func(t *testing.T, c contract, d *sysfs.Device) {
			c.move(t, d, "vfio-pci")
			release, err := c.lab.Hold(d.Address())
			must(t, err)
			c.catchUp(t, d)
			c.unbindHangs(t, d, "vfio-pci")
			answered := make(chan error, 1)
			go func() { answered <- d.SetOverride("vfio-pci") }()
			hung, wait := false, hangs
			if c.atLeast(7, 0) {
				wait = patience // it has to come
			}
			select {
			case err = <-answered:
			case <-time.After(wait):
				hung = true
			}
			release()
			if hung {
				err = <-answered
			}
			must(t, err)
			if hung && c.atLeast(7, 0) || !hung && !c.atLeast(6, 12) {
				t.Errorf("the write waited for the unbind: %v", hung)
			}
			c.await(t, "unbind", d.Address())
		}},
		{"new_id waits for a matching device that hangs in its unbind", func(t *testing.T, c contract, d *sysfs.Device) {
			c.load(t, "pci-stub")
			c.move(t, d, "vfio-pci")
			must(t, d.SetOverride(""))
			release, err := c.lab.Hold(d.Address())
			must(t, err)
			c.catchUp(t, d)
			c.unbindHangs(t, d, "vfio-pci")
			ctx, cancel := context.WithTimeout(t.Context(), 3*hangs) // with the start of a process
			defer cancel()
			err = c.lab.Expendable()(ctx, sysfs.Write{
				Attribute: stubNewID, Value: anyNVMe, Device: d.Address(), Identity: d.Identity(),
			})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("new_id: %v, want it to hang", err)
			}
			release()
			if bound := c.await(t, "bind", d.Address()); bound.Env["DRIVER"] != "pci-stub" {
				t.Errorf("the new ID brought the drive to %q, want pci-stub", bound.Env["DRIVER"])
			}
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

// noIOMMUStatements are about a drive that has no group.
func noIOMMUStatements() []statement {
	return []statement{
		{"a device has no group", func(t *testing.T, c contract, d *sysfs.Device) {
			got, err := d.Read(pci.AllFacts)
			must(t, err)
			if got.IOMMUGroup != pci.NoGroup {
				t.Errorf("group is %d, want none", got.IOMMUGroup)
			}
		}},
		{"bind to vfio-pci: EINVAL, the error of its probe", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("vfio-pci"))
			must(t, d.Unbind(t.Context(), "nvme"))
			wantErrno(t, "bind vfio-pci", d.Bind("vfio-pci"), syscall.EINVAL)
			wantDriver(t, d, "")
		}},
		{"drivers_probe hides that the probe failed", func(t *testing.T, c contract, d *sysfs.Device) {
			must(t, d.SetOverride("vfio-pci"))
			must(t, d.Unbind(t.Context(), "nvme"))
			must(t, d.Probe())
			wantDriver(t, d, "")
		}},
	}
}

// wantEnabled checks how many have enabled a device.
func wantEnabled(t *testing.T, d *sysfs.Device, want string) {
	t.Helper()
	count, err := d.Dir().Read("enable")
	must(t, err)
	if got := strings.TrimSpace(count); got != want {
		t.Errorf("it is enabled %s times, want %s", got, want)
	}
}
