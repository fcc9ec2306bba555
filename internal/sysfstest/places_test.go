package sysfstest

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

func TestUnprivilegedConfig(t *testing.T) {
	k := boot(Options{Unprivileged: true})
	k.Plug(bay1(), Drive{DSN: 5})
	d := open(t, k, bay1())
	if got, err := d.Read(pci.FactDSN); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("DSN is %d, %v, want it forbidden", got.DSN, err)
	}
	got, err := d.ReadMost(pci.FactGroup, pci.FactDSN|pci.FactSlot)
	must(t, err)
	if u := got.Unknown(pci.FactDSN); u == nil || !u.Denied || u.Soon || !strings.Contains(u.Why, "CAP_SYS_ADMIN") || got.Unknown(pci.FactSlot) != nil {
		t.Errorf("unread is %+v, want the DSN alone, and why", got.Unread)
	}
}

// TestAVFIsWhereItsPhysicalFunctionIs: also one past function 7, which has another
// device number, and so is in no slot by its address.
func TestAVFIsWhereItsPhysicalFunctionIs(t *testing.T) {
	port := pci.Address{Device: 4}
	k := New(Options{})
	k.AddBay(Bay{Address: bay1(), Slot: "1", NUMANode: pci.NoNode, Above: []pci.Address{port}})
	k.Plug(bay1(), Drive{TotalVFs: 8})
	k.Set("bus/pci/devices/"+bay1().String()+"/numa_node", "1\n") // by an administrator
	must(t, open(t, k, bay1()).Dir().Write("sriov_numvfs", "8"))
	for _, vf := range []pci.Address{{Bus: 1, Function: 1}, {Bus: 1, Function: 7}, {Bus: 1, Device: 1}} {
		got, err := open(t, k, vf).Read(pci.AllFacts)
		must(t, err)
		if !got.VirtFn || got.PhysFn != bay1() || got.Slot != "1" || got.NUMANode != 1 || !slices.Equal(got.Upstream, []pci.Address{port}) {
			t.Errorf("%s is read as %+v, want it where %s is", vf, got, bay1())
		}
	}
}

// TestAVFIsKnownFromTheFirst: before it is known of which function it is, neither
// are its slot and its node. The bridges above it are.
func TestAVFIsKnownFromTheFirst(t *testing.T) {
	vf := pci.Address{Bus: 1, Function: 1}
	k := boot(Options{})
	k.Plug(bay1(), Drive{TotalVFs: 1})
	announced := k.Pause(Announced, "", vf)
	enabled := make(chan error)
	go func() { enabled <- open(t, k, bay1()).Dir().Write("sriov_numvfs", "1") }()
	<-announced.Reached()
	const place = pci.FactPhysFn | pci.FactSlot | pci.FactUpstream | pci.FactNUMA
	got, err := open(t, k, vf).ReadMost(pci.FactGroup, place)
	must(t, err)
	for _, u := range got.Unread {
		if !u.Soon || u.Denied {
			t.Errorf("unread is %+v, want it soon", u)
		}
	}
	if len(got.Unread) != 3 || got.Unknown(pci.FactUpstream) != nil {
		t.Errorf("unread is %+v, want physical function, slot and node", got.Unread)
	}
	announced.End()
	must(t, <-enabled)
	got, err = open(t, k, vf).Read(place)
	must(t, err)
	if got.PhysFn != bay1() {
		t.Errorf("read %+v, want a VF of %s", got, bay1())
	}
}

// TestAFunctionPastTheSeventhIsInTheSlot: with ARI its device number is part of
// the number of the function, and there is one device on the bus.
func TestAFunctionPastTheSeventhIsInTheSlot(t *testing.T) {
	for _, ari := range []bool{true, false} {
		eighth := pci.Address{Bus: 1, Device: 1}
		k := boot(Options{})
		k.AddBay(Bay{Address: eighth, Above: []pci.Address{{Device: 4}}, ARI: ari})
		k.Plug(eighth, Drive{})
		got, err := open(t, k, eighth).Read(pci.FactSlot)
		must(t, err)
		if (got.Slot == "1") != ari {
			t.Errorf("ARI %v: the slot is %q", ari, got.Slot)
		}
	}
}

// TestTheSlotsOfTheBridgesAbove: a carrier with a switch sits in a slot, and the
// drive on it in none.
func TestTheSlotsOfTheBridgesAbove(t *testing.T) {
	upstream, downstream, drive := pci.Address{Bus: 1}, pci.Address{Bus: 2, Device: 3}, pci.Address{Bus: 5}
	k := boot(Options{})
	k.AddBay(Bay{Address: drive, Above: []pci.Address{{Device: 4}, upstream, downstream}})
	k.Plug(drive, Drive{})
	got, err := open(t, k, drive).Read(pci.AllFacts)
	must(t, err)
	if want := []pci.PortSlot{{Port: upstream, Slot: "1"}}; got.Slot != "" || !slices.Equal(got.PortSlots, want) {
		t.Errorf("slot %q, above %v, want none and %v", got.Slot, got.PortSlots, want)
	}
}
