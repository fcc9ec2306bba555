package sysfstest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

func TestFaultRefusesAnOperation(t *testing.T) {
	k := boot(Options{})
	k.Plug(bay1(), Drive{})
	d := open(t, k, bay1())
	k.Fault(func(op Op) error {
		if op.Kind == OpWrite && op.Path == "bus/pci/devices/0000:01:00.0/driver_override" {
			return syscall.EIO
		}
		return nil
	})
	wantErrno(t, "write", d.SetOverride("vfio-pci"), syscall.EIO)
	k.Fault(nil)
	wantOverride(t, d, "(null)")
	writes := k.Writes()
	if len(writes) != 1 || writes[0].Value != "vfio-pci\n" || writes[0].Through != d.Identity() || !errors.Is(writes[0].Err, syscall.EIO) {
		t.Errorf("writes are %+v", writes)
	}
}

func TestFaultHangsAnOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := boot(Options{})
		k.Plug(bay1(), Drive{})
		d := open(t, k, bay1())
		let := make(chan struct{})
		k.Fault(func(op Op) error {
			if op.Kind == OpWrite {
				<-let
			}
			return nil
		})
		blocks(t, "write", func() {
			if err := d.SetOverride("vfio-pci"); err != nil {
				t.Error(err)
			}
		}, func() {
			if writes := k.Writes(); len(writes) != 1 || writes[0].Ended {
				t.Errorf("writes are %+v, want one that has not ended", writes)
			}
			close(let)
		})
		if writes := k.Writes(); !writes[0].Ended || writes[0].Err != nil {
			t.Errorf("writes are %+v, want one that went well", writes)
		}
	})
}

// A device that goes, or is replaced, before any operation of a Read is never
// half read.
func TestReadOfADeviceThatGoes(t *testing.T) {
	for what, act := range map[string]func(*Kernel){
		"unplugged": func(k *Kernel) { k.Unplug(bay1()) },
		"replaced": func(k *Kernel) {
			k.Unplug(bay1())
			k.Plug(bay1(), Drive{IDs: NVMe(0x8086, 0x0a54)})
		},
	} {
		t.Run(what, func(t *testing.T) {
			count, err := readAndAct(t, 0, nil)
			must(t, err)
			// Before the last one everything has been read, and the directory
			// opened once more to see whether it is the same.
			for n := 1; n < count; n++ {
				if _, err := readAndAct(t, n, act); !sysfs.Gone(err) && !errors.Is(err, sysfs.ErrReplaced) {
					t.Errorf("%s before operation %d of %d: %v", what, n, count, err)
				}
			}
		})
	}
}

// readAndAct reads a device, and acts before the nth operation of that. It
// gives the number of operations.
func readAndAct(t *testing.T, n int, act func(*Kernel)) (int, error) {
	t.Helper()
	k := boot(Options{})
	k.Plug(bay1(), Drive{TotalVFs: 1})
	d := open(t, k, bay1())
	begin := k.Operations()
	k.Fault(func(op Op) error {
		if op.N == begin+n {
			act(k)
		}
		return nil
	})
	_, err := d.Read(pci.AllFacts)
	return k.Operations() - begin, err
}

func TestExpendableLeavesAHangingWriteBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := boot(Options{})
		k.Plug(bay1(), Drive{})
		d := open(t, k, bay1())
		contract{}.move(t, d, "vfio-pci")
		holder, err := k.Hold(bay1())
		must(t, err)
		held, hold, err := os.Pipe()
		must(t, err)
		defer held.Close()

		ctx, cancel := context.WithCancel(t.Context())
		returned := make(chan error, 1)
		go func() { returned <- d.Unbind(ctx, "vfio-pci", hold) }()
		synctest.Wait()
		cancel()
		if err := <-returned; !errors.Is(err, context.Canceled) {
			t.Errorf("unbind: %v, want %v", err, context.Canceled)
		}
		must(t, hold.Close())
		holder.Release()
		if rest, err := io.ReadAll(held); err != nil || len(rest) > 0 {
			t.Errorf("the held file: %q, %v, want its end when the write has ended", rest, err)
		}
		synctest.Wait()
		if writes := k.Writes(); !writes[len(writes)-1].Ended {
			t.Error("the write did not go on")
		}
		must(t, d.SetOverride(""))
		must(t, d.Probe())
		wantDriver(t, d, "nvme")
	})
}

func TestExpendableBeginsNothingTooLate(t *testing.T) {
	k := boot(Options{})
	k.Plug(bay1(), Drive{})
	d := open(t, k, bay1())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Unbind(ctx, "nvme"); !errors.Is(err, context.Canceled) {
		t.Errorf("unbind: %v, want %v", err, context.Canceled)
	}
	if writes := k.Writes(); len(writes) > 0 {
		t.Errorf("writes are %+v, want none", writes)
	}
}

func TestPlaces(t *testing.T) {
	vmd := pci.Address{Domain: 0x10000, Bus: 1}
	k := New(Options{Release: Linux73})
	k.AddBay(Bay{Address: bay1(), Slot: "1", NUMANode: 1, Group: 30, Above: []pci.Address{{Device: 4}}})
	k.AddBay(Bay{Address: pci.Address{Bus: 5}, Slot: "1-1", NUMANode: pci.NoNode, Group: pci.NoGroup,
		Above: []pci.Address{{Device: 5}, {Bus: 3}, {Bus: 4, Device: 2}}})
	k.AddBay(Bay{Address: vmd, Above: []pci.Address{{Device: 14}, {Domain: 0x10000, Device: 2}}})
	for _, test := range []struct {
		at    pci.Address
		drive Drive
		path  string
		want  pci.Device
	}{
		{bay1(), Drive{DSN: 0x1122334455667788}, "pci0000:00/0000:00:04.0/0000:01:00.0",
			pci.Device{Slot: "1", NUMANode: 1, IOMMUGroup: 30, DSN: 0x1122334455667788}},
		{pci.Address{Bus: 5}, Drive{}, "pci0000:00/0000:00:05.0/0000:03:00.0/0000:04:02.0/0000:05:00.0",
			pci.Device{Slot: "1-1", NUMANode: pci.NoNode, IOMMUGroup: pci.NoGroup}},
		{vmd, Drive{}, "pci0000:00/0000:00:0e.0/pci10000:00/10000:00:02.0/10000:01:00.0",
			pci.Device{VMD: true, IOMMUGroup: 7}},
	} {
		k.Plug(test.at, test.drive)
		d := open(t, k, test.at)
		link, err := k.Root().Readlink("bus/pci/devices/" + test.at.String())
		if want := "../../../devices/" + test.path; err != nil || link != want {
			t.Errorf("link is %s, %v, want %s", link, err, want)
		}
		got, err := d.Read(pci.AllFacts)
		must(t, err)
		if got.Slot != test.want.Slot || got.NUMANode != test.want.NUMANode || got.DSN != test.want.DSN ||
			got.VMD != test.want.VMD || (test.want.IOMMUGroup != 7 && got.IOMMUGroup != test.want.IOMMUGroup) {
			t.Errorf("read %+v, want %+v", got, test.want)
		}
	}
}

func TestNamespaces(t *testing.T) {
	for _, test := range []struct {
		name  string
		drive Drive
		want  []string // below the root
	}{
		{"one", Drive{}, []string{
			"block/nvme0n1/queue",
			"class/block/nvme0n1/holders",
			"bus/pci/devices/0000:01:00.0/nvme/nvme0/nvme0n1",
		}},
		{"two, one with partitions", Drive{Namespaces: []Namespace{{ID: 1}, {ID: 7, Partitions: []uint64{100, 200}}}}, []string{
			"block/nvme0n1", "block/nvme0n7/nvme0n7p2/holders", "class/block/nvme0n7p1",
		}},
		{"several controllers", Drive{MultiPath: true}, []string{
			"block/nvme0n1", "bus/pci/devices/0000:01:00.0/nvme/nvme0/nvme0c0n1",
			"devices/virtual/nvme-subsystem/nvme-subsys0/nvme0/nvme0c0n1", "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, release := range everyRelease() {
				k := boot(Options{Release: release})
				k.Plug(bay1(), test.drive)
				for _, path := range test.want {
					if dir, err := k.Root().Open(path); err != nil {
						t.Errorf("%s: %v", release, err)
					} else {
						must(t, dir.Close())
					}
				}
				k.Unplug(bay1())
				for _, class := range []string{"block", "class/block", "class/nvme"} {
					if names, err := k.Root().List(class); err != nil || len(names) > 0 {
						t.Errorf("%s: after the unplug %s lists %v, %v", release, class, names, err)
					}
				}
				if names, err := k.Root().List("devices/virtual/nvme-subsystem"); len(names) > 0 {
					t.Errorf("%s: after the unplug there are the subsystems %v, %v", release, names, err)
				}
			}
		})
	}
}

func TestOwnFiles(t *testing.T) {
	k := New(Options{})
	k.Set("class/block/dm-0/dm/name", "vg-lv\n")
	k.Link("block/dm-0", "class/block/dm-0")
	if got, err := k.Root().Read("block/dm-0/dm/name"); err != nil || got != "vg-lv\n" {
		t.Errorf("read %q, %v", got, err)
	}
	wantErrno(t, "write", k.Root().Write("block/dm-0/dm/name", "x"), syscall.EACCES)
	k.Remove("class/block/dm-0")
	_, err := k.Root().Read("block/dm-0/dm/name")
	wantErrno(t, "read through a dangling link", err, syscall.ENOENT)
}

// Whatever happens at once, at the end the model is in one piece: each device
// has one driver at most, and drivers and devices link to each other.
func TestManyAtOnce(t *testing.T) {
	for _, release := range []Release{Linux61, Linux73} {
		t.Run(release.String(), func(t *testing.T) {
			k := New(Options{Release: release, Drivers: []string{"pcieport", "nvme", "vfio-pci", "pci-stub"}})
			var places []pci.Address
			for bus := range uint8(4) {
				a := pci.Address{Bus: bus + 1}
				k.AddBay(Bay{Address: a, Slot: a.String(), Above: []pci.Address{{Device: bus + 4}}})
				places = append(places, a)
			}
			events := k.Subscribe()
			var all sync.WaitGroup
			for _, a := range places {
				all.Go(func() { plugAndUnplug(k, a) })
			}
			for seed := range uint64(6) {
				all.Go(func() { meddle(t, k, places, rand.New(rand.NewPCG(seed, 1))) })
			}
			all.Wait()
			for _, a := range places {
				wantConsistent(t, k, a)
			}
			if seen := events.Pending(); len(seen) < 4*40*2 {
				t.Errorf("%d events came of all that", len(seen))
			}
		})
	}
}

func plugAndUnplug(k *Kernel, a pci.Address) {
	for range 40 {
		k.Plug(a, Drive{})
		k.Unplug(a)
	}
	k.Plug(a, Drive{})
}

// meddle does things to devices that may come and go meanwhile.
func meddle(t *testing.T, k *Kernel, places []pci.Address, dice *rand.Rand) {
	drivers := []string{"nvme", "vfio-pci", "pci-stub", ""}
	for range 300 {
		d, err := k.FS().Open(places[dice.IntN(len(places))])
		if err != nil {
			continue
		}
		driver := drivers[dice.IntN(len(drivers))]
		switch dice.IntN(6) {
		case 0:
			_ = d.SetOverride(driver)
		case 1:
			_ = d.Probe()
		case 2:
			_ = d.Bind(driver)
		case 3:
			_ = d.Unbind(t.Context(), driver)
		case 4:
			_, _ = d.Read(pci.AllFacts)
		case 5:
			if h, err := k.Hold(d.Address()); err == nil {
				h.Release()
			}
		}
		d.Close()
	}
}

func wantConsistent(t *testing.T, k *Kernel, a pci.Address) {
	t.Helper()
	driver := k.Driver(a)
	for _, name := range []string{"nvme", "vfio-pci", "pci-stub"} {
		names, err := k.Root().List("bus/pci/drivers/" + name)
		must(t, err)
		has := false
		for _, n := range names {
			has = has || n == a.String()
		}
		if has != (name == driver) {
			t.Errorf("%s: driver is %q, and %s lists it: %v", a, driver, name, has)
		}
	}
}
