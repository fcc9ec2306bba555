package sysfstest

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// everyRelease are the releases that the model knows.
func everyRelease() []Release { return []Release{Linux61, Linux612, Linux617, Linux619, Linux73} }

// bay1 is a bay below a port.
func bay1() pci.Address { return pci.Address{Bus: 1} }

// boot boots a machine with a bay at bay1.
func boot(o Options) *Kernel {
	k := New(o)
	k.AddBay(Bay{Address: bay1(), Slot: "1", Above: []pci.Address{{Device: 4}}})
	return k
}

func open(t *testing.T, k *Kernel, a pci.Address) *sysfs.Device {
	t.Helper()
	d, err := k.FS().Open(a)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// blocks runs what must not end before let is called, in a bubble.
func blocks(t *testing.T, what string, do func(), let func()) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		do()
	}()
	synctest.Wait()
	select {
	case <-ended:
		t.Errorf("%s did not wait", what)
	default:
	}
	let()
	<-ended
}

func TestWindowOfAHotAdd(t *testing.T) {
	for _, release := range everyRelease() {
		t.Run(release.String(), func(t *testing.T) {
			k := boot(Options{Release: release})
			events := k.Subscribe()
			k.BeginAdd(bay1(), Drive{})
			if seen := events.Pending(); len(seen) != 1 || !seen[0].about("add", bay1()) {
				t.Fatalf("events are %v, want one add", summary(seen))
			}
			d := open(t, k, bay1())
			must(t, d.Probe())
			wantDriver(t, d, "")
			wantErrno(t, "bind nvme", d.Bind("nvme"), syscall.ENODEV)
			must(t, d.SetOverride("vfio-pci"))
			wantErrno(t, "bind vfio-pci", d.Bind("vfio-pci"), syscall.ENODEV)
			wantOverride(t, d, "vfio-pci")
			k.FinishAdd(bay1())
			wantDriver(t, d, "vfio-pci")
			if touched := k.Touched(bay1()); !slices.Equal(touched, []string{"vfio-pci"}) {
				t.Errorf("drivers that touched it: %v, want vfio-pci alone", touched)
			}
		})
	}
}

func TestUnplugInTheWindow(t *testing.T) {
	k := boot(Options{})
	k.BeginAdd(bay1(), Drive{})
	d := open(t, k, bay1())
	k.Unplug(bay1())
	wantDead(t, d)
	k.Plug(bay1(), Drive{})
	wantDead(t, d)
	if err := d.Present(); !errors.Is(err, sysfs.ErrReplaced) {
		t.Errorf("present: %v, want %v", err, sysfs.ErrReplaced)
	}
}

// Who wins with a claim: vfio-pci that has the dynamic ID of every NVMe drive.
func TestClaim(t *testing.T) {
	for _, test := range []struct {
		release Release
		drivers []string
		want    string
	}{
		{Linux61, []string{"nvme", "vfio-pci"}, "nvme"},
		{Linux61, []string{"vfio-pci", "nvme"}, "vfio-pci"},
		{Linux612, []string{"nvme", "vfio-pci"}, "nvme"},
		{Linux612, []string{"vfio-pci", "nvme"}, "vfio-pci"},
		{Linux617, []string{"nvme", "vfio-pci"}, "vfio-pci"},
		{Linux73, []string{"nvme", "vfio-pci"}, "vfio-pci"},
	} {
		k := boot(Options{Release: test.release, Drivers: test.drivers})
		must(t, k.Root().Write("bus/pci/drivers/vfio-pci/new_id", anyNVMe))
		k.Plug(bay1(), Drive{})
		if touched := k.Touched(bay1()); !slices.Equal(touched, []string{test.want}) {
			t.Errorf("%s with %v: %v touched the drive, want %s alone", test.release, test.drivers, touched, test.want)
		}
	}
}

func TestGate(t *testing.T) {
	for _, release := range everyRelease() {
		k := boot(Options{Release: release})
		must(t, k.Root().Write("bus/pci/drivers_autoprobe", "0\n"))
		k.Plug(bay1(), Drive{})
		want := "nvme"
		if release >= Linux619 {
			want = ""
		}
		if driver := k.Driver(bay1()); driver != want {
			t.Errorf("%s: driver is %q, want %q", release, driver, want)
		}
	}
}

// The override comes when nvme has matched and not begun: nvme refuses, and
// nobody asks the other drivers again.
func TestOverrideBetweenMatchAndProbeLeavesNoDriver(t *testing.T) {
	for _, release := range []Release{Linux612, Linux73} {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := boot(Options{Release: release, Drivers: []string{"vfio-pci", "nvme"}})
				matched := k.Pause(Matched, "nvme", bay1())
				blocks(t, "plug", func() { k.Plug(bay1(), Drive{}) }, func() {
					<-matched.Reached()
					must(t, open(t, k, bay1()).SetOverride("vfio-pci"))
					matched.End()
				})
				if driver, touched := k.Driver(bay1()), k.Touched(bay1()); driver != "" || len(touched) > 0 {
					t.Errorf("driver is %q, touched by %v, want none", driver, touched)
				}
				must(t, open(t, k, bay1()).Probe())
				if driver := k.Driver(bay1()); driver != "vfio-pci" {
					t.Errorf("after a probe the driver is %q", driver)
				}
			})
		})
	}
}

// From 6.17 on there is a second window: the asynchronous drivers come later.
func TestOverrideBeforeTheAsynchronousDrivers(t *testing.T) {
	for _, release := range []Release{Linux617, Linux73} {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := boot(Options{Release: release})
				scheduled := k.Pause(Scheduled, "", bay1())
				blocks(t, "plug", func() { k.Plug(bay1(), Drive{}) }, func() {
					<-scheduled.Reached()
					d := open(t, k, bay1())
					must(t, d.SetOverride("vfio-pci"))
					must(t, d.Probe())
					scheduled.End()
				})
				if touched := k.Touched(bay1()); !slices.Equal(touched, []string{"vfio-pci"}) {
					t.Errorf("touched by %v, want vfio-pci alone", touched)
				}
			})
		})
	}
}

// An unplug that comes while a driver probes waits for it, on every kernel.
func TestUnplugWaitsForTheProbe(t *testing.T) {
	for _, release := range everyRelease() {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := boot(Options{Release: release})
				probing := k.Pause(Probing, "nvme", bay1())
				plugged := make(chan struct{})
				go func() {
					defer close(plugged)
					k.Plug(bay1(), Drive{})
				}()
				<-probing.Reached()
				d := open(t, k, bay1())
				blocks(t, "unplug", func() { k.Unplug(bay1()) }, probing.End)
				<-plugged
				wantDead(t, d)
			})
		})
	}
}

func TestProbeHoldsTheDevice(t *testing.T) {
	for _, release := range everyRelease() {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := boot(Options{Release: release})
				events := k.Subscribe()
				probing := k.Pause(Probing, "nvme", bay1())
				plugged := make(chan struct{})
				go func() {
					defer close(plugged)
					k.Plug(bay1(), Drive{})
				}()
				<-probing.Reached()
				d := open(t, k, bay1())
				wantDriver(t, d, "nvme") // the link is there before the probe has ended
				for _, e := range events.Pending() {
					if e.Action == "bind" {
						t.Error("bind was announced before the probe has ended")
					}
				}
				must(t, d.Probe()) // it has a driver: no wait
				override := make(chan error, 1)
				go func() { override <- d.SetOverride("vfio-pci") }()
				synctest.Wait()
				if waits := len(override) == 0; waits != release.overrideLocks() {
					t.Errorf("driver_override waits for the probe: %v", waits)
				}
				blocks(t, "unbind", func() {
					if err := d.Unbind(t.Context(), "nvme"); err != nil {
						t.Error(err)
					}
				}, probing.End)
				<-plugged
				must(t, <-override)
				wantDriver(t, d, "")
			})
		})
	}
}

func TestBlockDevicesBeforeTheBind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := boot(Options{Release: Linux612})
		probed := k.Pause(Probed, "nvme", bay1())
		blocks(t, "plug", func() { k.Plug(bay1(), Drive{}) }, func() {
			<-probed.Reached()
			if names, err := k.Root().List("block"); err != nil || !slices.Equal(names, []string{"nvme0n1"}) {
				t.Errorf("block devices are %v, %v", names, err)
			}
			probed.End()
		})
	})
}

func TestFailedProbe(t *testing.T) {
	for _, test := range []struct {
		fail error
		want syscall.Errno
	}{
		{syscall.EIO, syscall.EIO},
		{syscall.ENODEV, syscall.ENODEV},
		{Deferred, syscall.EAGAIN},
	} {
		k := boot(Options{Drivers: []string{"vfio-pci"}})
		events := k.Subscribe()
		k.FailProbe("vfio-pci", bay1(), test.fail)
		k.Plug(bay1(), Drive{})
		d := open(t, k, bay1())
		must(t, d.SetOverride("vfio-pci"))
		must(t, d.Probe())
		wantDriver(t, d, "")
		wantErrno(t, "bind", d.Bind("vfio-pci"), test.want)
		wantDriver(t, d, "")
		if touched := k.Touched(bay1()); !slices.Equal(touched, []string{"vfio-pci", "vfio-pci"}) {
			t.Errorf("touched by %v, want both probes", touched)
		}
		for _, e := range events.Pending() {
			if e.Action == "bind" {
				t.Error("a bind was announced")
			}
		}
		k.FailProbe("vfio-pci", bay1(), nil)
		must(t, d.Bind("vfio-pci"))
	}
}

// A driver that refuses leaves the device to the next that matches.
func TestProbeGoesOnToTheNextDriver(t *testing.T) {
	k := boot(Options{Drivers: []string{"pci-stub", "vfio-pci"}})
	k.FailProbe("pci-stub", bay1(), syscall.EIO)
	for _, driver := range []string{"pci-stub", "vfio-pci"} {
		must(t, k.Root().Write("bus/pci/drivers/"+driver+"/new_id", anyNVMe))
	}
	k.Plug(bay1(), Drive{})
	if touched := k.Touched(bay1()); !slices.Equal(touched, []string{"pci-stub", "vfio-pci"}) || k.Driver(bay1()) != "vfio-pci" {
		t.Errorf("touched by %v, bound to %q", touched, k.Driver(bay1()))
	}
}

func TestUnplugOfAHeldDriveHoldsUpAllHotplug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := boot(Options{Drivers: []string{"vfio-pci"}})
		must(t, k.Root().Write("bus/pci/drivers/vfio-pci/new_id", anyNVMe))
		k.Plug(bay1(), Drive{})
		holder, err := k.Hold(bay1())
		must(t, err)
		blocks(t, "unplug", func() { k.Unplug(bay1()) }, func() {
			blocks(t, "another plug", func() { k.Plug(pci.Address{Bus: 2}, Drive{}) }, holder.Release)
		})
		if present := k.Present(); slices.Contains(present, bay1()) {
			t.Errorf("present: %v", present)
		}
	})
}

func TestUnplugBetweenUnbindAndRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := boot(Options{})
		k.Plug(bay1(), Drive{})
		d := open(t, k, bay1())
		stopped := k.Pause(Stopped, "", bay1())
		blocks(t, "unplug", func() { k.Unplug(bay1()) }, func() {
			<-stopped.Reached()
			must(t, d.Present())
			wantDriver(t, d, "")
			must(t, d.Probe()) // half removed, it can be bound once more
			wantDriver(t, d, "nvme")
			stopped.End()
		})
		wantDead(t, d)
	})
}

func TestGroupOfSeveralDevices(t *testing.T) {
	second := pci.Address{Bus: 2}
	k := New(Options{})
	k.AddBay(Bay{Address: bay1(), Group: 9})
	k.AddBay(Bay{Address: second, Group: 9})
	k.Plug(bay1(), Drive{})
	k.Plug(second, Drive{})
	d, mate := open(t, k, bay1()), open(t, k, second)
	move := contract{}.move
	move(t, d, "vfio-pci") // viability does not stop a bind
	_, err := k.Hold(bay1())
	wantErrno(t, "hold in a group that is not viable", err, syscall.EPERM)

	must(t, mate.Unbind(t.Context(), "nvme"))
	holder, err := k.Hold(bay1())
	must(t, err)
	wantErrno(t, "bind nvme in a held group", mate.Bind("nvme"), syscall.EBUSY)
	wantErrno(t, "probe of nvme in a held group", mate.Probe(), syscall.EINVAL)
	wantDriver(t, mate, "")
	holder.Release()
	must(t, mate.Probe())
	wantDriver(t, mate, "nvme")

	names, err := k.Root().List("kernel/iommu_groups/9/devices")
	if must(t, err); len(names) != 2 {
		t.Errorf("group lists %v", names)
	}
}

func TestWhatVFIORefuses(t *testing.T) {
	k := boot(Options{})
	k.Plug(bay1(), Drive{TotalVFs: 2})
	for _, test := range []struct {
		name    string
		prepare func()
		at      pci.Address
		want    syscall.Errno
	}{
		{"a bridge", func() {}, pci.Address{Device: 4}, syscall.EINVAL},
		{"a function that has VFs", func() { must(t, open(t, k, bay1()).Dir().Write("sriov_numvfs", "2")) }, bay1(), syscall.EBUSY},
	} {
		test.prepare()
		d := open(t, k, test.at)
		driver, err := d.Driver()
		must(t, err)
		must(t, d.SetOverride("vfio-pci"))
		must(t, d.Unbind(t.Context(), driver))
		wantErrno(t, test.name, d.Bind("vfio-pci"), test.want)
		must(t, d.Probe())
		wantDriver(t, d, "")
	}
}

func TestUIONeedsAnInterruptLine(t *testing.T) {
	k := boot(Options{Drivers: []string{"uio_pci_generic"}})
	for _, test := range []struct {
		drive Drive
		want  syscall.Errno
	}{{Drive{NoINTx: true}, syscall.ENODEV}, {Drive{}, 0}} {
		k.Plug(bay1(), test.drive)
		d := open(t, k, bay1())
		must(t, d.SetOverride("uio_pci_generic"))
		wantErrno(t, "bind", d.Bind("uio_pci_generic"), test.want)
		names, err := k.Root().List("class/uio")
		if must(t, err); (len(names) > 0) != (test.want == 0) {
			t.Errorf("class/uio lists %v", names)
		}
		k.Unplug(bay1())
	}
}

func TestVirtualFunctions(t *testing.T) {
	k := boot(Options{})
	k.Plug(bay1(), Drive{TotalVFs: 4})
	d := open(t, k, bay1())
	numvfs := func(n string) error { return d.Dir().Write("sriov_numvfs", n) }
	wantErrno(t, "more than it has", numvfs("5"), syscall.ERANGE)
	must(t, numvfs("3"))
	wantErrno(t, "another number", numvfs("2"), syscall.EBUSY)
	got, err := d.Read(pci.AllFacts)
	must(t, err)
	if got.VFs != 3 || got.VirtFn {
		t.Errorf("physical function: %+v", got)
	}
	first := open(t, k, pci.Address{Bus: 1, Function: 1})
	vf, err := first.Read(pci.AllFacts)
	must(t, err)
	if !vf.VirtFn || vf.PhysFn != bay1() || vf.Driver != "nvme" {
		t.Errorf("virtual function: %+v", vf)
	}
	k.Unplug(bay1())
	wantDead(t, first)
}

func TestModules(t *testing.T) {
	k := boot(Options{Drivers: []string{"nvme"}, Missing: []string{"vfio-pci"}})
	wantErrno(t, "load a module that is missing", k.LoadModule("vfio-pci"), syscall.ENOENT)
	wantErrno(t, "load what nobody knows", k.LoadModule("no-such-driver"), syscall.ENOENT)
	must(t, k.LoadModule("pci_stub"))
	must(t, k.LoadModule("pci-stub"))
	must(t, k.Root().Write(stubNewID, anyNVMe))
	if got := strings.Fields(k.ProcModules()); got[0] != "pci_stub" {
		t.Errorf("/proc/modules begins with %s, want the newest", got[0])
	}
	k.Plug(bay1(), Drive{})
	must(t, k.UnloadModule("pci_stub"))
	if driver := k.Driver(bay1()); driver != "" {
		t.Errorf("driver is %q after its unload", driver)
	}
	must(t, k.LoadModule("pci-stub"))
	if ids := k.DynamicIDs("pci-stub"); len(ids) > 0 {
		t.Errorf("dynamic IDs outlived the module: %v", ids)
	}
}

func TestModuleOfAHeldDeviceStays(t *testing.T) {
	k := boot(Options{})
	k.Plug(bay1(), Drive{})
	contract{}.move(t, open(t, k, bay1()), "vfio-pci")
	holder, err := k.Hold(bay1())
	must(t, err)
	wantErrno(t, "unload", k.UnloadModule("vfio-pci"), syscall.EBUSY)
	holder.Release()
	must(t, k.UnloadModule("vfio_pci"))
}

// A driver that the model does not know.
func TestExtraDriver(t *testing.T) {
	k := boot(Options{Extra: []Driver{{Name: "xdriver", IDs: []Match{{Vendor: 0x144d, Device: Any, SubVendor: Any, SubDevice: Any}}}}})
	must(t, k.LoadModule("xdriver"))
	k.Plug(bay1(), Drive{})
	if driver := k.Driver(bay1()); driver != "xdriver" {
		t.Errorf("driver is %q: a synchronous driver goes first", driver)
	}
}

func TestEventsAfterAnOverrun(t *testing.T) {
	k := boot(Options{})
	events := k.Subscribe()
	k.Plug(bay1(), Drive{})
	events.Overrun()
	if _, err := events.Next(t.Context()); !errors.Is(err, syscall.ENOBUFS) {
		t.Errorf("next: %v, want %v", err, syscall.ENOBUFS)
	}
	k.Unplug(bay1())
	if e, err := events.Next(t.Context()); err != nil || e.Action == "add" {
		t.Errorf("next: %v, %v, want what came after the overrun", e, err)
	}
}

func TestEventOfAnAdd(t *testing.T) {
	k := boot(Options{})
	events := k.Subscribe()
	k.BeginAdd(bay1(), Drive{})
	e := events.Pending()[0]
	want := map[string]string{
		"ACTION": "add", "DEVPATH": "/devices/pci0000:00/0000:00:04.0/0000:01:00.0", "SUBSYSTEM": "pci",
		"PCI_CLASS": "10802", "PCI_ID": "144D:A804", "PCI_SUBSYS_ID": "144D:A801", "PCI_SLOT_NAME": "0000:01:00.0",
		"MODALIAS": "pci:v0000144Dd0000A804sv0000144Dsd0000A801bc01sc08i02", "SEQNUM": e.Env["SEQNUM"],
	}
	for key, value := range want {
		if e.Env[key] != value {
			t.Errorf("%s=%s, want %s", key, e.Env[key], value)
		}
	}
	if len(e.Env) != len(want) {
		t.Errorf("event is %v, want %d fields", e.Env, len(want))
	}
}
