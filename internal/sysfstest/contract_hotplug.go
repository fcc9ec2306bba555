package sysfstest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// hotplugStatement is a statement for which drives come and go.
type hotplugStatement struct {
	name  string
	check func(t *testing.T, c contract)
}

func hotplugStatements() []hotplugStatement {
	return []hotplugStatement{
		{"add carries what a policy needs", func(t *testing.T, c contract) {
			must(t, c.lab.Plug(0))
			add := c.awaitEvent(t, "add of an NVMe drive", addOfNVMe)
			a, err := pci.ParseAddress(add.Env["PCI_SLOT_NAME"])
			must(t, err)
			defer c.unplug(t, 0, a)
			ids, err := pci.ParseModalias(add.Env["MODALIAS"])
			must(t, err)
			if ids.Class != pci.NVMe || add.Env["DRIVER"] != "" || add.Env["SEQNUM"] == "" || add.Env["PCI_ID"] == "" {
				t.Errorf("add carries %v", add.Env)
			}
			c.awaitEvent(t, "add of a block device", addOfBlock)
		}},
		{"block devices are announced before the bind from 6.12 on", func(t *testing.T, c contract) {
			drive := c.plug(t, 0)
			defer c.unplug(t, 0, drive.Address())
			events := c.awaitEvents(t, "bind and add of a block device", all(boundTo("nvme", drive), addOfBlock))
			if last := events[len(events)-1]; c.atLeast(6, 12) && addOfBlock(last) {
				t.Errorf("the bind came before the block device: %v", summary(events))
			}
		}},
		{"unbind comes before remove, which carries MODALIAS and no DRIVER", func(t *testing.T, c contract) {
			drive := c.plugInto(t, 0, "nvme")
			must(t, c.lab.Unplug(0))
			events := c.awaitEvents(t, "remove", func(e Event) bool { return e.about("remove", drive.Address()) })
			if !slices.ContainsFunc(events, func(e Event) bool { return e.about("unbind", drive.Address()) }) {
				t.Errorf("no unbind came before the remove: %v", summary(events))
			}
			remove := events[len(events)-1]
			if _, has := remove.Env["DRIVER"]; has || remove.Env["MODALIAS"] == "" {
				t.Errorf("remove carries %v", remove.Env)
			}
		}},
		{"a driver that is loaded with autoprobe off takes nothing", func(t *testing.T, c contract) {
			drive := c.plugInto(t, 0, "nvme")
			defer c.unplug(t, 0, drive.Address())
			must(t, drive.SetOverride("pci-stub"))
			must(t, drive.Unbind(t.Context(), "nvme"))
			must(t, c.write("bus/pci/drivers_autoprobe", "0"))
			defer func() { must(t, c.write("bus/pci/drivers_autoprobe", "1")) }()
			c.load(t, "pci-stub")
			wantDriver(t, drive, "")
			must(t, drive.Probe())
			wantDriver(t, drive, "pci-stub")
		}},
		{"a handle dies with its device and stays dead when the bay is used again", func(t *testing.T, c contract) {
			old := c.plugInto(t, 0, "nvme")
			must(t, old.SetOverride("vfio-pci"))
			c.unplug(t, 0, old.Address())
			awaitGone(t, c, old)

			wantDead(t, old)
			wantGone(t, "present", old.Present())

			fresh := c.plugInto(t, 0, "nvme")
			defer c.unplug(t, 0, fresh.Address())
			if fresh.Address() != old.Address() {
				t.Fatalf("the bay's drive is at %s, the one before was at %s", fresh.Address(), old.Address())
			}
			wantDead(t, old)
			if err := old.Present(); !errors.Is(err, sysfs.ErrReplaced) {
				t.Errorf("present: %v, want %v", err, sysfs.ErrReplaced)
			}
			if fresh.Identity() == old.Identity() {
				t.Errorf("both drives have the identity %d", old.Identity())
			}
			for what, err := range map[string]error{
				"probe": old.Probe(), "bind": old.Bind("vfio-pci"), "unbind": old.Unbind(t.Context(), "nvme"),
			} {
				if !errors.Is(err, sysfs.ErrReplaced) {
					t.Errorf("%s through the old handle: %v, want %v", what, err, sysfs.ErrReplaced)
				}
			}
			wantOverride(t, fresh, "(null)")
			wantDriver(t, fresh, "nvme")
		}},
		{"a synchronous driver goes first from 6.17 on, the first registered before", func(t *testing.T, c contract) {
			c.load(t, "pci-stub")
			must(t, c.write(stubNewID, anyNVMe))
			defer func() { must(t, c.write(stubRemoveID, anyNVMe)) }()
			want := "nvme"
			if c.atLeast(6, 17) {
				want = "pci-stub"
			}
			drive := c.plugInto(t, 0, want)
			c.unplug(t, 0, drive.Address())
		}},
		{"autoprobe off holds for a new device from 6.19 on", func(t *testing.T, c contract) {
			must(t, c.write("bus/pci/drivers_autoprobe", "0"))
			defer func() { must(t, c.write("bus/pci/drivers_autoprobe", "1")) }()
			if !c.atLeast(6, 19) {
				drive := c.plugInto(t, 0, "nvme")
				c.unplug(t, 0, drive.Address())
				return
			}
			first := c.plug(t, 0)
			defer c.unplug(t, 0, first.Address())
			// The second add comes when the kernel has done with the first: both
			// hold pci_rescan_remove_lock.
			second := c.plug(t, 1)
			defer c.unplug(t, 1, second.Address())
			wantDriver(t, first, "")
			must(t, first.Probe())
			wantDriver(t, first, "nvme")
			c.settle(t, first)
		}},
	}
}

// awaitGone reads the directory until it is gone: remove is announced a moment
// before.
func awaitGone(t *testing.T, c contract, d *sysfs.Device) {
	t.Helper()
	for began := time.Now(); time.Since(began) < patience; {
		if sysfs.Gone(d.Present()) {
			return
		}
	}
	t.Fatalf("%s is still there after its remove event", d.Address())
}

// wantDead checks every way to use a handle.
func wantDead(t *testing.T, d *sysfs.Device) {
	t.Helper()
	_, err := d.Dir().Read("vendor")
	wantGone(t, "read", err)
	wantGone(t, "write", d.SetOverride("vfio-pci"))
	_, err = d.Dir().Readlink("subsystem")
	wantGone(t, "readlink", err)
	_, err = d.Dir().Open("power")
	wantGone(t, "open", err)
	_, err = d.Read(pci.AllFacts)
	wantGone(t, "read the facts", err)
	if names, err := d.Dir().List("."); !sysfs.Gone(err) && len(names) != 0 {
		t.Errorf("list: %v, %v, want nothing", names, err)
	}
	if id, err := d.Dir().Identity(); err != nil || id != d.Identity() {
		t.Errorf("identity: %d, %v, want %d as before", id, err, d.Identity())
	}
}
