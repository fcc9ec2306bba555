package guard

import "testing"

func TestAsync(t *testing.T) {
	for line, want := range map[string]struct{ vfio, stub bool }{
		"quiet":                                            {},
		"driver_async_probe=vfio-pci,ahci":                 {vfio: true},
		"driver_async_probe=*":                             {true, true},
		"driver_async_probe=*,vfio-pci":                    {stub: true},
		"driver_async_probe=vfio-pci,*":                    {stub: true},
		"driver_async_probe=* driver_async_probe=ahci":     {},
		"vfio_pci.async_probe x=1":                         {vfio: true},
		"vfio-pci.async_probe=1":                           {vfio: true},
		"vfio_pci.async_probe=0":                           {},
		"module.async_probe=1":                             {true, true},
		"module.async_probe vfio_pci.async_probe=n":        {stub: true},
		"module.async_probe=n pci_stub.x=async":            {},
		"driver_async_probe=*,vfio-pci module.async_probe": {true, true},
	} {
		a := parseAsync(line)
		if a.Of("vfio-pci") != want.vfio || a.Of(PCIStub) != want.stub {
			t.Errorf("%s: vfio-pci %v, pci-stub %v; want %+v", line, a.Of("vfio-pci"), a.Of(PCIStub), want)
		}
	}
}
