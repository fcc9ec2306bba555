package iommu

import (
	"maps"
	"strings"
	"testing"
)

// TestADeviceThatLeavesVFIO: the driver link is gone, and the group is not.
func TestADeviceThatLeavesVFIO(t *testing.T) {
	const (
		drive   = "devices/0000:01:00.0/"
		sibling = "devices/0000:01:00.1/"
		grouped = "-> ../../kernel/iommu_groups/14"
	)
	bare := tree{
		drive + "iommu_group":                         grouped,
		"kernel/iommu_groups/14/devices/0000:01:00.0": "-> ../../../../devices/0000:01:00.0",
		drive + "class":                               "0x010802\n",
		drive + "enable":                              "0\n",
		"bus/pci/drivers/vfio-pci/":                   "",
		"devices/virtual/vfio/14/dev":                 "243:0\n",
		"devices/virtual/vfio/noiommu-14/dev":         "243:0\n",
		"class/vfio/":                                 "",
	}
	group := tree{"class/vfio/14": "-> ../../devices/virtual/vfio/14"}
	bound := tree{drive + "driver": "-> ../../bus/pci/drivers/vfio-pci"}
	open := tree{drive + "enable": "1\n"}
	vfio := tree{drive + "vfio-dev/vfio0/uevent": ""}
	other := tree{
		sibling + "class": "0x010802\n", sibling + "driver": "-> ../../bus/pci/drivers/vfio-pci", sibling + "vfio-dev/vfio1/uevent": "",
		"kernel/iommu_groups/14/devices/0000:01:00.1": "-> ../../../../devices/0000:01:00.1",
	}
	for _, test := range []struct {
		name string
		has  []tree
		was  bool   // vfio had it before
		node string // "" for not leaving
	}{
		{"free", nil, true, ""},
		{"with vfio-pci", []tree{group, vfio, bound}, true, ""},
		{"open", []tree{group, vfio, bound, open}, true, ""},
		{"held, before Linux 6.6", []tree{group, vfio, open}, false, "vfio/14"},
		{"held, from then on", []tree{group, open}, false, "vfio/14"},
		{"held, without an IOMMU", []tree{open, {"class/vfio/noiommu-14": "-> ../../devices/virtual/vfio/noiommu-14"}}, false, "vfio/noiommu-14"},
		{"a sibling is with vfio, or held", []tree{group, other}, true, ""},
		{"held, and a sibling is with vfio", []tree{group, other, open}, true, "vfio/14"},
		{"enabled by hand, and a sibling is with vfio", []tree{group, other, open}, false, ""},
		{"held, and a sibling is with vfio, before Linux 6.6", []tree{group, other, vfio, open}, false, "vfio/14"},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := maps.Clone(bare)
			for _, more := range test.has {
				maps.Copy(files, more)
			}
			root, dev := files.root(t)
			device, err := root.Open(strings.TrimSuffix(drive, "/"))
			must(t, err)
			defer device.Close()
			node, leaving, err := ReadLeaving(root, device, dev, func() bool { return test.was })
			must(t, err)
			if want := dev + "/" + test.node; leaving != (test.node != "") || leaving && node != want {
				t.Errorf("leaving %v, node %q; want %q", leaving, node, want)
			}
		})
	}
}

func TestEveryNodeOfADeviceCounts(t *testing.T) {
	root, dev := tree{
		"devices/0000:01:00.0/driver":                "-> ../../bus/pci/drivers/vfio-pci",
		"devices/0000:01:00.0/iommu_group":           "-> ../../kernel/iommu_groups/14",
		"devices/0000:01:00.0/vfio-dev/vfio3/uevent": "",
		"kernel/iommu_groups/14/":                    "",
		"bus/pci/drivers/vfio-pci/":                  "",
		"dev/vfio/14":                                "",
		"dev/vfio/devices/vfio3":                     "",
	}.root(t)
	device, err := root.Open("devices/0000:01:00.0")
	must(t, err)
	defer device.Close()
	nodes, err := ReadNodes(device, dev)
	must(t, err)
	if got, want := strings.Join(nodes, " "), dev+"/vfio/14 "+dev+"/vfio/devices/vfio3"; got != want {
		t.Errorf("nodes %s, want %s", got, want)
	}
}
