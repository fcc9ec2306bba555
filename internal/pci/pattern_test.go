package pci

import "testing"

func TestPatterns(t *testing.T) {
	nvme := Any()
	nvme.Class, nvme.ClassMask = uint32(NVMe), 0xffffff
	storage := Any()
	storage.Class, storage.ClassMask = 0x010000, 0xff0000
	samsung := Any()
	samsung.Vendor = 0x144d
	intel := Any()
	intel.Vendor = 0x8086
	samsungNVMe := nvme
	samsungNVMe.Vendor = 0x144d
	drive := IDs{Vendor: 0x144d, Device: 0xa804, SubVendor: 0x144d, SubDevice: 0xa801, Class: NVMe}
	for _, test := range []struct {
		name                   string
		p, q                   Pattern
		matches, covers, meets bool // p matches drive, p covers q, p meets q
	}{
		{"any and nvme", Any(), nvme, true, true, true},
		{"nvme and any", nvme, Any(), true, false, true},
		{"storage and nvme", storage, nvme, true, true, true},
		{"nvme and storage", nvme, storage, true, false, true},
		{"samsung and nvme", samsung, nvme, true, false, true},
		{"samsung and samsung's nvme", samsung, samsungNVMe, true, true, true},
		{"samsung's nvme and nvme", samsungNVMe, nvme, true, false, true},
		{"intel and samsung", intel, samsung, false, false, false},
		{"vendor 0, which no device has", Pattern{}, nvme, false, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.p.Matches(drive); got != test.matches {
				t.Errorf("matches the drive: %v", got)
			}
			if got := test.p.Covers(test.q); got != test.covers {
				t.Errorf("covers: %v", got)
			}
			if got := test.p.Meets(test.q); got != test.meets {
				t.Errorf("meets: %v", got)
			}
		})
	}
	if got, want := nvme.String(), "ffffffff ffffffff ffffffff ffffffff 010802 ffffff"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
