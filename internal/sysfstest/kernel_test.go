package sysfstest

import (
	"testing"

	"vfio-hotplug/internal/pci"
)

func address(t *testing.T, s string) pci.Address {
	t.Helper()
	a, err := pci.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestTakeoverByOverrideUnbindProbe(t *testing.T) {
	a := address(t, "0000:02:00.0")
	for _, release := range []Release{Linux61, Linux612, Linux617, Linux73} {
		k := New(Options{Release: release})
		k.AddBay(Bay{Address: a, Slot: "3", Above: []pci.Address{address(t, "0000:00:1c.0")}, Group: 12})
		k.Plug(a, Drive{Serial: "S1", DSN: 0x1122334455667788})
		fs := k.FS()
		d, err := fs.Open(a)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for _, step := range []func() error{
			func() error { return d.SetOverride("vfio-pci") },
			func() error { return d.Unbind(t.Context(), "nvme") },
			d.Probe,
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		got, err := d.Read(pci.AllFacts)
		if err != nil {
			t.Fatal(err)
		}
		if got.Driver != "vfio-pci" {
			t.Errorf("driver is %q", got.Driver)
		}
	}
}
