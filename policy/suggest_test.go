package policy

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	keys := ruleKeys()
	for word, want := range map[string]string{
		"nmae":      "name",
		"Name":      "name",
		"drivers":   "driver",
		"take_over": "takeover",
		"tak":       "",
		"vmdd":      "vmd",
		"colour":    "",
		"":          "",
		"matching":  "match",
		"aktion":    "action",
	} {
		if got := nearest(word, keys...); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0},
		{"abc", "acb", 1}, {"abc", "ab", 1}, {"abc", "abcd", 1}, {"abc", "axc", 1},
		{"kitten", "sitting", 3}, {"ca", "abc", 3},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: got %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// Keys that go by other names in lspci, in sysfs and in other programs.
func TestOtherNames(t *testing.T) {
	for word, want := range map[string]string{
		"bdf":           "address",
		"PCI_SLOT_NAME": "address",
		"sub-vendor":    "subsystem_vendor",
		"SDevice":       "subsystem_device",
		"root_port":     "behind",
		"pf":            "physfn",

		"pciAddresses":      "address", // SR-IOV network device plugin
		"vendors":           "vendor",
		"rootDevices":       "physfn",
		"vendor_id":         "vendor", // OpenStack
		"product_id":        "device",
		"host":              "address", // QEMU
		"bus":               "address", // libvirt
		"PhySlot":           "slot",    // lspci -vmm
		"NUMANode":          "numa_node",
		"parent":            "behind", // libvirt
		"physical-function": "physfn",
		"exclude":           "not",
	} {
		_, err := Parse("f", []byte("[[rule]]\nname = \"r\"\nmatch."+word+" = 1\n"))
		if want := "f:3:7: " + word + ": unknown key; did you mean \"" + want + "\"?"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// What people write who come from other tools, and what they are told.
func TestKeysThatOtherToolsHave(t *testing.T) {
	const (
		read   = "is known only when a driver has read it"
		groups = `the numbers of IOMMU groups change: name the device by its address, slot or IDs; a rule's group = "with" takes the others of its group along`
		inRule = "\nmatch.slot = \"1\""
		names  = "a name such as eth0 or nvme0n1 comes from the driver that has the device: there is address, which vfio-hotplug explain shows for such a name"
	)
	for text, want := range map[string]string{
		`match.id = "144d:a808"`:                `did you mean vendor = 0x144d, device = 0xa808?`,
		`match.ids = ["144D:A808"]`:             `did you mean vendor = 0x144d, device = 0xa808?`,
		`match.id = ["144d:a808", "8086:0a54"]`: `did you mean vendor = 0x144d, device = 0xa808, in a rule for each pair?`,
		`match.pciVendorSelector = "10de:1eb8"`: `did you mean vendor = 0x10de, device = 0x1eb8?`, // KubeVirt
		`match.id = "144d a808 144d a801"`:      `did you mean vendor = 0x144d, device = 0xa808, subsystem_vendor = 0x144d, subsystem_device = 0xa801?`,
		`match.id = "0x144d:0xa808"`:            `did you mean vendor = 0x144d, device = 0xa808?`,
		`match.id = 7`:                          `the IDs are keys of their own: vendor = 0x144d, device = 0xa808, as lspci -nn shows them`,
		`match.subsystem-id = "144d:a801"`:      `did you mean subsystem_vendor = 0x144d, subsystem_device = 0xa801?`, // Proxmox VE
		`match.vendor = "144d:a808"`:            `these are two IDs; did you mean vendor = 0x144d, device = 0xa808?`,
		`match.iommu_group = 12`:                groups,
		`match.group = 12`:                      groups,
		`match.group = "with"`:                  `this key belongs to the rule, not into its match`,
		`match.model = "PM983"`:                 `the model of a drive ` + read + `: the models are told apart by vendor and device, which lspci -nn shows`,
		`match.wwn = "eui.0025388b91b3f6d1"`:    `this is known only when a driver has read the device: name it by its address, slot or IDs`,
		`match.pfNames = ["eth0"]`:              names,
		`match.interface = "eth0"`:              names,
		`id = "8086:1"` + inRule:                `the IDs are keys of their own: vendor = 0x144d, device = 0xa808, as lspci -nn shows them`,
		`id = "8086:0a54"` + inRule:             `did you mean match = { vendor = 0x8086, device = 0x0a54 }?`,
		`bdf = "01:00.0"` + inRule:              `did you mean match = { address = … }?`,
		`iommu_group = 1` + inRule:              groups,
		`driver_override = "nvme"` + inRule:     `did you mean "driver"?`,
		`description = "mine"` + inRule:         `did you mean # before a comment?`,
		`blacklist = true` + inRule:             `did you mean action = "leave"?`,
	} {
		_, err := Parse("f", []byte("[[rule]]\nname = \"r\"\n"+text+"\n"))
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: got %v\nwant %s", text, err, want)
		}
	}
}

// A drive's own serial number is not known before nvme has read it.
func TestASerialNumberIsNotADSN(t *testing.T) {
	for _, word := range []string{"serial", "serial_number", "ID_SERIAL"} {
		_, err := Parse("f", []byte("[[rule]]\nname = \"r\"\nmatch."+word+" = \"x\"\n"))
		if err == nil || !strings.Contains(err.Error(), "known only when a driver has read it: there is dsn,") {
			t.Errorf("%s: got %v", word, err)
		}
	}
}
