package iommu

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

var drive = pci.Address{Bus: 1}

// grouped adds a device to group 7.
func (files tree) grouped(name, class, driver string) tree {
	files["kernel/iommu_groups/7/devices/"+name] = "-> ../../../../devices/" + name
	files["devices/"+name+"/iommu_group"] = "-> ../../kernel/iommu_groups/7"
	if class != "" {
		files["devices/"+name+"/class"] = class + "\n"
	}
	if driver != "" {
		files["devices/"+name+"/driver"] = "-> ../../bus/pci/drivers/" + driver
	}
	return files
}

func TestAGroupIsReadWhole(t *testing.T) {
	root, _ := tree{
		"kernel/iommu_groups/7/type":           "DMA-FQ\n",
		"kernel/iommu_groups/7/devices/gone":   "-> ../../../../devices/gone",
		"devices/0000:01:00.1/vfio-dev/vfio3/": "",

		"devices/0000:02:00.0/secondary_bus_number": "3\n",
	}.
		grouped("0000:01:00.1", "0x020000", "mlx5_vfio_pci").
		grouped("0000:01:00.0", "0x010802", "nvme").
		grouped("0000:00:01.0", "0x060400", "pcieport").
		grouped("0000:00:1f.0", "0x060100", "lpc_ich").
		grouped("0000:02:00.0", "0x068000", "").
		grouped("0000:03:00.0", "0x068000", "nvidia-nvswitch").
		grouped("arm-smmu.3", "", "").
		root(t)
	got, err := ReadGroup(root, 7)
	must(t, err)
	want := Group{Number: 7, Members: []Member{
		{Name: "arm-smmu.3"},
		{Name: "0000:00:01.0", Address: pci.Address{Device: 1}, PCI: true, Driver: "pcieport", Bridge: true},
		{Name: "0000:00:1f.0", Address: pci.Address{Device: 0x1f}, PCI: true, Driver: "lpc_ich", Bridge: true},
		{Name: "0000:01:00.0", Address: drive, PCI: true, Driver: "nvme"},
		{Name: "0000:01:00.1", Address: pci.Address{Bus: 1, Function: 1}, PCI: true, Driver: "mlx5_vfio_pci", VFIO: true},
		{Name: "0000:02:00.0", Address: pci.Address{Bus: 2}, PCI: true, Bridge: true},
		{Name: "0000:03:00.0", Address: pci.Address{Bus: 3}, PCI: true, Driver: "nvidia-nvswitch"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAGroupThatIsNotThereIsGone(t *testing.T) {
	root, _ := tree{}.root(t)
	if _, err := ReadGroup(root, 7); !sysfs.Gone(err) {
		t.Errorf("error %v, want a Gone one", err)
	}
}

func TestAFaultyClassIsAnError(t *testing.T) {
	root, _ := tree{}.grouped("0000:01:00.0", "nonsense", "nvme").root(t)
	if _, err := ReadGroup(root, 7); err == nil {
		t.Error("no error")
	}
}

func TestWhoIsInTheWay(t *testing.T) {
	for _, c := range []struct {
		sibling, driver string
		vfio            bool
		want            string
	}{
		{"0000:01:00.1", "", false, ""},
		{"0000:01:00.1", "pcieport", false, ""},
		{"0000:01:00.1", "pci-stub", false, ""},
		{"0000:01:00.1", "vfio-pci", false, ""},
		{"0000:01:00.1", "qat_vfio_pci", true, ""},
		{"0000:01:00.1", "not_a_real_vfio_pci", false, "0000:01:00.1 (not_a_real_vfio_pci)"},
		{"0000:01:00.1", "nvme", false, "0000:01:00.1 (nvme)"},
		{"0000:01:00.1", "uio_pci_generic", false, "0000:01:00.1 (uio_pci_generic)"},
		{"0000:01:00.1", "pci-pf-stub", false, "0000:01:00.1 (pci-pf-stub)"},
		{"platform.0", "somebody", false, "platform.0 (somebody)"},
		{"platform.0", "", false, ""},
	} {
		t.Run(fmt.Sprintf("%s on %q", c.sibling, c.driver), func(t *testing.T) {
			files := tree{}.grouped("0000:01:00.0", "0x010802", "nvme").grouped(c.sibling, "0x010802", c.driver)
			if c.vfio {
				files["devices/"+c.sibling+"/vfio-dev/vfio0/"] = ""
			}
			root, _ := files.root(t)
			group, err := ReadGroup(root, 7)
			must(t, err)
			var got []string
			for _, m := range group.InTheWay(drive) {
				got = append(got, m.String())
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("in the way: %q, want %q", got, c.want)
			}
		})
	}
}

func TestTheDriveItselfIsInTheWayOfItsSibling(t *testing.T) {
	root, _ := tree{}.grouped("0000:01:00.0", "0x010802", "nvme").grouped("0000:01:00.1", "0x010802", "").root(t)
	group, err := ReadGroup(root, 7)
	must(t, err)
	if in := group.InTheWay(pci.Address{Bus: 1, Function: 1}); len(in) != 1 || in[0].Address != drive {
		t.Errorf("in the way: %v, want %s", in, drive)
	}
}

func TestTheState(t *testing.T) {
	const parameter = "module/vfio/parameters/enable_unsafe_noiommu_mode"
	for _, c := range []struct {
		name   string
		files  tree
		want   State
		works  bool
		remedy string // a part of it
	}{
		{"nothing at all", tree{}, State{}, false, "intel_iommu=on"},
		{"empty directories", tree{"kernel/iommu_groups/": "", "class/iommu/": ""}, State{}, false, "no IOMMU is at work"},
		{"two groups", tree{"kernel/iommu_groups/0/": "", "kernel/iommu_groups/1/name": "\n", "class/iommu/dmar0/": ""},
			State{Groups: 2, Units: []string{"dmar0"}}, true, "does not cover this device"},
		{"a unit without a device", tree{"class/iommu/dmar0/": "", "class/iommu/dmar1/": ""},
			State{Units: []string{"dmar0", "dmar1"}}, false, "the IOMMU (dmar0, dmar1) has no device"},
		{"vfio's own group is no IOMMU", tree{"kernel/iommu_groups/0/name": "vfio-noiommu\n", parameter: "Y\n"},
			State{NoIOMMU: true, CanNoIOMMU: true}, false, ""},
		{"no-IOMMU mode known and off", tree{parameter: "N\n"},
			State{CanNoIOMMU: true}, false, "enable_unsafe_noiommu_mode"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, _ := c.files.root(t)
			got, err := ReadState(root)
			must(t, err)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if got.Works() != c.works {
				t.Errorf("Works: %v", got.Works())
			}
			if r := got.Remedy(); !strings.Contains(r, c.remedy) || c.remedy == "" && r != "" {
				t.Errorf("Remedy %q, want one with %q", r, c.remedy)
			}
		})
	}
}

func TestTheNode(t *testing.T) {
	const d = "devices/0000:01:00.0"
	bound := func(driver string, more tree) tree {
		files := tree{}.grouped("0000:01:00.0", "0x010802", driver)
		for name, content := range more {
			files[name] = content
		}
		return files
	}
	for _, c := range []struct {
		name   string
		files  tree
		node   string // below dev, "" for none
		exists bool
	}{
		{"no driver", bound("", nil), "", false},
		{"nvme", bound("nvme", tree{"dev/vfio/7": ""}), "", false},
		{"vfio-pci", bound("vfio-pci", tree{d + "/vfio-dev/vfio2/": "", "dev/vfio/7": ""}), "vfio/7", true},
		{"vfio-pci, node not made yet", bound("vfio-pci", nil), "vfio/7", false},
		{"a variant driver", bound("mlx5_vfio_pci", tree{d + "/vfio-dev/vfio2/": "", "dev/vfio/7": ""}), "vfio/7", true},
		{"no IOMMU", bound("vfio-pci", tree{"kernel/iommu_groups/7/name": "vfio-noiommu\n", "dev/vfio/noiommu-7": ""}), "vfio/noiommu-7", true},
		{"the group's node before the device's", bound("vfio-pci", tree{d + "/vfio-dev/vfio2/dev": "511:2\n", "dev/vfio/7": "", "dev/vfio/devices/vfio2": ""}), "vfio/7", true},
		{"a kernel without group nodes", bound("vfio-pci", tree{d + "/vfio-dev/vfio2/dev": "511:2\n", "dev/vfio/devices/vfio2": ""}), "vfio/devices/vfio2", true},
		{"neither node made yet", bound("vfio-pci", tree{d + "/vfio-dev/vfio2/dev": "511:2\n"}), "vfio/7", false},
		{"a vfio device without a node of its own", bound("vfio-pci", tree{d + "/vfio-dev/vfio2/": "", "dev/vfio/devices/vfio2": ""}), "vfio/7", false},
		{"vfio-pci without a group", tree{d + "/driver": "-> ../../bus/pci/drivers/vfio-pci"}, "", false},
		{"uio", bound("uio_pci_generic", tree{d + "/uio/uio4/": "", "dev/uio4": ""}), "uio4", true},
		{"uio, node not made yet", bound("uio_pci_generic", tree{d + "/uio/uio4/": ""}), "uio4", false},
		{"uio, not made yet", bound("uio_pci_generic", nil), "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, dev := c.files.root(t)
			device, err := root.Open(d)
			must(t, err)
			defer device.Close()
			got, ok, err := ReadNode(device, dev)
			must(t, err)
			want := Node{Exists: c.exists}
			if c.node != "" {
				want.Path = dev + "/" + c.node
			}
			if got != want || ok != (c.node != "") {
				t.Errorf("node %+v, %v; want %+v", got, ok, want)
			}
		})
	}
}

func TestTheShapeOfAGroup(t *testing.T) {
	port, bridge, vmd := pci.Address{Device: 1}, pci.Address{Bus: 1}, pci.Address{Device: 0x0e}
	member := func(a pci.Address) Member { return Member{Name: a.String(), PCI: true, Address: a} }
	behind := pci.Address{Bus: 2}
	child := pci.Address{Domain: 0x10000, Bus: 1}
	for _, c := range []struct {
		name    string
		members []Member
		device  pci.Device
		want    string // a part of it, "" for nothing at all
		vmd     bool
	}{
		{"alone", []Member{member(behind)}, pci.Device{Address: behind, Upstream: []pci.Address{port, bridge}}, "", false},
		{"the outermost bridge", []Member{member(port), member(bridge), member(behind)},
			pci.Device{Address: behind, Upstream: []pci.Address{port, bridge}}, "bridge 0000:00:01.0 does not", false},
		{"the inner bridge", []Member{member(bridge), member(behind)},
			pci.Device{Address: behind, Upstream: []pci.Address{port, bridge}}, "bridge 0000:01:00.0 does not", false},
		{"functions", []Member{member(behind), member(pci.Address{Bus: 2, Function: 3})},
			pci.Device{Address: behind, Upstream: []pci.Address{port, bridge}}, "functions of one device", false},
		{"VMD", []Member{member(vmd), member(child)},
			pci.Device{Address: child, VMD: true, Upstream: []pci.Address{vmd, {Domain: 0x10000}}}, "VMD controller 0000:00:0e.0", true},
		{"VMD in another group", []Member{member(child), member(pci.Address{Domain: 0x10000, Bus: 2})},
			pci.Device{Address: child, VMD: true, Upstream: []pci.Address{vmd}}, "", false},
		{"not shown", []Member{member(behind), member(pci.Address{Bus: 9})},
			pci.Device{Address: behind, Upstream: []pci.Address{port, bridge}}, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := Group{Members: c.members}
			if got := g.Shape(c.device); !strings.Contains(got, c.want) || c.want == "" && got != "" {
				t.Errorf("shape %q, want %q", got, c.want)
			}
			if got := g.VMD(c.device); got != c.vmd {
				t.Errorf("VMD %v, want %v", got, c.vmd)
			}
		})
	}
}

// Both nodes of a device are announced, each as far as it is there.
func TestNodesAreAnnounced(t *testing.T) {
	const group, single = "class/vfio/7/uevent", "devices/0000:01:00.0/vfio-dev/vfio2/uevent"
	for name, files := range map[string]tree{
		"both nodes":        {group: "", single: ""},
		"the group's alone": {group: ""},
		"no node":           {"devices/0000:01:00.0/vfio-dev/vfio2/": ""},
		"no vfio device":    {},
	} {
		t.Run(name, func(t *testing.T) {
			root, _ := files.grouped("0000:01:00.0", "0x010802", "vfio-pci").root(t)
			device, err := root.Open("devices/0000:01:00.0")
			must(t, err)
			defer device.Close()
			must(t, Announce(root, device))
			for _, file := range []string{group, single} {
				if _, there := files[file]; !there {
					continue
				}
				if text, err := root.Read(file); err != nil || text != "change" {
					t.Errorf("%s: %q was written, %v", file, text, err)
				}
			}
		})
	}
}
