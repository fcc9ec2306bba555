package sysfstest_test

import (
	"fmt"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfstest"
)

// A test that acts in the window between a drive's add event and the moment in
// which nvme may take it.
func Example() {
	k := sysfstest.New(sysfstest.Options{Release: sysfstest.Linux61})
	bay := pci.Address{Bus: 1}
	k.AddBay(sysfstest.Bay{Address: bay, Slot: "1", Above: []pci.Address{{Device: 4}}})

	k.BeginAdd(bay, sysfstest.Drive{Serial: "S1"})
	drive, err := k.FS().Open(bay)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer drive.Close()
	if err := drive.SetOverride("vfio-pci"); err != nil {
		fmt.Println(err)
		return
	}
	k.FinishAdd(bay)

	fmt.Println(k.Driver(bay), k.Touched(bay), len(k.Writes()))
	// Output: vfio-pci [vfio-pci] 1
}
