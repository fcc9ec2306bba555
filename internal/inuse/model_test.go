package inuse

import (
	"errors"
	"fmt"
	"testing"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/internal/sysfstest"
)

// The model kernel's drive has two namespaces, one of them with partitions.
// Its nodes are made up here, the model having none.
func TestADriveOfTheModelKernel(t *testing.T) {
	for _, release := range []sysfstest.Release{sysfstest.Linux61, sysfstest.Linux612, sysfstest.Linux73} {
		for _, paths := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/multipath %v", release, paths), func(t *testing.T) {
				kernel := sysfstest.New(sysfstest.Options{Release: release})
				kernel.AddBay(sysfstest.Bay{Address: drive})
				kernel.Plug(drive, sysfstest.Drive{MultiPath: paths, Namespaces: []sysfstest.Namespace{
					{ID: 1, Sectors: diskBytes / 512},
					{ID: 2, Sectors: diskBytes / 512, Partitions: []uint64{2048, 2048}},
				}})
				device, err := kernel.FS().Open(drive)
				must(t, err)
				defer device.Close()

				m := newMachine(t)
				f, _ := m.finder()
				f.sys = kernel.Root()
				m.nodes.active[m.path("dev/nvme0")] = []uint32{1, 2}
				for _, name := range []string{"nvme0n1", "nvme0n2", "nvme0n2p1", "nvme0n2p2"} {
					n, err := f.blockNumber(name)
					must(t, err)
					m.block("elsewhere/"+name, blank)
					m.nodes.numbers[m.path("dev/"+name)] = n
				}

				report, hold, err := f.Look(t.Context(), device, pci.Device{Driver: "nvme"}, forBlank)
				must(t, err)
				if report.Veto() || len(hold.Files()) != 2 {
					t.Errorf("report %q, %d files held", report, len(hold.Files()))
				}
				must(t, hold.Close())

				m.mount("nvme0n2p2", "/srv")
				report, _, err = f.Look(t.Context(), device, pci.Device{Driver: "nvme"}, forBlank)
				must(t, err)
				want := "nvme0n2p2 → /srv"
				if paths {
					want = "nvme0c0n2 → " + want
				}
				if report.String() != want {
					t.Errorf("report %q", report)
				}

				m.nodes.active[m.path("dev/nvme0")] = []uint32{1, 2, 3}
				m.file("proc/1/mountinfo", "")
				_, _, err = f.Look(t.Context(), device, pci.Device{Driver: "nvme"}, forBlank)
				if _, ok := errors.AsType[*NotSettledError](err); !ok {
					t.Errorf("error %v, want a *NotSettledError", err)
				}
			})
		}
	}
}

// The directory of a device that has gone is empty, which is no news of a drive
// that its driver has yet to bring up, or of an adapter without disks.
func TestADeviceOfTheModelKernelThatHasGone(t *testing.T) {
	for _, driver := range []string{"nvme", "mpt3sas", "pci-stub", ""} {
		for name, c := range map[string]struct {
			next func(*sysfstest.Kernel)
			want func(error) bool
		}{
			"and none has come": {func(*sysfstest.Kernel) {}, sysfs.Gone},
			"and another has come": {func(k *sysfstest.Kernel) { k.Plug(drive, sysfstest.Drive{}) },
				func(err error) bool { return errors.Is(err, sysfs.ErrReplaced) }},
		} {
			t.Run(driver+"/"+name, func(t *testing.T) {
				kernel := sysfstest.New(sysfstest.Options{})
				kernel.AddBay(sysfstest.Bay{Address: drive})
				kernel.Plug(drive, sysfstest.Drive{})
				device, err := kernel.FS().Open(drive)
				must(t, err)
				defer device.Close()
				kernel.Unplug(drive)
				c.next(kernel)

				m := newMachine(t)
				f, _ := m.finder()
				f.sys = kernel.Root()
				report, hold, err := f.Look(t.Context(), device, pci.Device{Driver: driver, Class: pci.NVMe}, forBlank)
				if !c.want(err) || hold != nil || report.Veto() {
					t.Errorf("error %v, report %q", err, report)
				}
			})
		}
	}
}
