package pci

import (
	"strings"
	"testing"
)

const nvmeAlias = "pci:v0000144Dd0000A804sv0000144Esd0000A801bc01sc08i02"

func TestParseModalias(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     IDs
	}{
		{"uevent", nvmeAlias, IDs{0x144d, 0xa804, 0x144e, 0xa801, NVMe}},
		{"sysfs", nvmeAlias + "\n", IDs{0x144d, 0xa804, 0x144e, 0xa801, NVMe}},
		{"bridge", "pci:v00008086d00003420sv00000000sd00000000bc06sc04i00", IDs{Vendor: 0x8086, Device: 0x3420, Class: 0x060400}},
		{"highest", "pci:v0000FFFFd0000FFFFsv0000FFFFsd0000FFFFbcFFscFFiFF", IDs{0xffff, 0xffff, 0xffff, 0xffff, 0xffffff}},
		{"lower case", strings.ReplaceAll(nvmeAlias, "144D", "144d"), IDs{0x144d, 0xa804, 0x144e, 0xa801, NVMe}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseModalias(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestParseModaliasRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"empty":            "",
		"newline only":     "\n",
		"usb":              "usb:v1D6Bp0003d0601dc09dsc00dp03ic09isc00ip00in00",
		"cut short":        nvmeAlias[:len(nvmeAlias)-1],
		"cut in the name":  nvmeAlias[:15],
		"longer":           nvmeAlias + "0",
		"two newlines":     nvmeAlias + "\n\n",
		"space":            " " + nvmeAlias,
		"wildcards":        "pci:v0000144Dd0000A804sv*sd*bc*sc*i*",
		"no hex":           strings.Replace(nvmeAlias, "144D", "144G", 1),
		"sign":             strings.Replace(nvmeAlias, "0000144D", "+000144D", 1),
		"vendor too large": strings.Replace(nvmeAlias, "0000144D", "0001144D", 1),
		"device too large": strings.Replace(nvmeAlias, "0000A804", "1000A804", 1),
		"other order":      "pci:d0000A804v0000144Dsv0000144Esd0000A801bc01sc08i02",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseModalias(in)
			if err == nil {
				t.Fatalf("accepted as %+v", got)
			}
			if got != (IDs{}) {
				t.Errorf("IDs beside the error: %+v", got)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("want one line, got %q", err)
			}
		})
	}
}

func TestParseModaliasDoesNotAllocate(t *testing.T) {
	n := testing.AllocsPerRun(100, func() {
		if _, err := ParseModalias(nvmeAlias); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParseModalias: what is accepted is what the kernel would write.
func FuzzParseModalias(f *testing.F) {
	f.Add(nvmeAlias)
	f.Add(nvmeAlias + "\n")
	f.Add("pci:v0000144Dd0000A804sv*sd*bc*sc*i*")
	f.Fuzz(func(t *testing.T, s string) {
		ids, err := ParseModalias(s)
		if err != nil {
			return
		}
		text := strings.TrimPrefix(ids.VFIOAlias(), "vfio_")
		if !strings.EqualFold(text, strings.TrimSuffix(s, "\n")) {
			t.Errorf("%q is read as %s", s, text)
		}
	})
}

func TestVFIOAliasIsTheModaliasWithAPrefix(t *testing.T) {
	ids, err := ParseModalias(nvmeAlias)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ids.VFIOAlias(), "vfio_"+nvmeAlias; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestIDsAreWhatADriverTableLooksAt(t *testing.T) {
	d := Device{
		Address: Address{Bus: 1}, Vendor: 0x144d, DeviceID: 0xa804, SubVendor: 0x144e, SubDevice: 0xa801,
		Class: NVMe, Driver: "nvme", Slot: "3", DSN: 7,
	}
	if got, want := d.IDs(), (IDs{0x144d, 0xa804, 0x144e, 0xa801, NVMe}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestIDsAndClassesAreSpelledInHex(t *testing.T) {
	for got, want := range map[string]string{
		ID(0x144d).String():      "0x144d",
		ID(0).String():           "0x0000",
		NVMe.String():            "0x010802",
		Class(0).String():        "0x000000",
		Class(0xffffff).String(): "0xffffff",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func BenchmarkParseModalias(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseModalias(nvmeAlias); err != nil {
			b.Fatal(err)
		}
	}
}
