package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// grouped is a machine with devices in IOMMU group 7.
type grouped struct {
	machine
	t    testing.TB
	book *ledger.Ledger
}

func newGrouped(t *testing.T) grouped {
	g := grouped{machine{root: t.TempDir()}, t, nil}
	for _, dir := range []string{"sys/bus/pci/devices", "sys/kernel/iommu_groups/7/devices", "run/vfio-hotplug"} {
		g.must(os.MkdirAll(g.path(dir), 0o755))
	}
	var err error
	g.book, err = ledger.Open(g.path("run/vfio-hotplug"), "/proc")
	g.must(err)
	return g
}

func (g grouped) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// device adds a device to the group, with a driver or "" for none.
func (g grouped) device(name, driver string) {
	g.t.Helper()
	dir := g.path("sys/devices", name)
	g.must(os.MkdirAll(dir, 0o755))
	g.must(os.WriteFile(filepath.Join(dir, "class"), []byte("0x010802\n"), 0o644))
	g.must(os.Symlink("../../../../devices/"+name, g.path("sys/kernel/iommu_groups/7/devices", name)))
	if _, err := pci.ParseAddress(name); err == nil {
		g.must(os.Symlink("../../../devices/"+name, g.path("sys/bus/pci/devices", name)))
	}
	if driver != "" {
		g.must(os.Symlink("../../bus/pci/drivers/"+driver, filepath.Join(dir, "driver")))
	}
}

// entry has the ledger say that we have brought a device under a driver; change
// may alter what it says.
func (g grouped) entry(name, driver string, change func(*ledger.Entry)) {
	g.t.Helper()
	a, err := pci.ParseAddress(name)
	g.must(err)
	root, err := sysfs.OpenRoot(g.path("sys"))
	g.must(err)
	defer root.Close()
	d, err := sysfs.New(root, nil).Open(a)
	g.must(err)
	defer d.Close()
	e := ledger.Entry{Address: a, Identity: d.Identity(), Driver: driver, Stage: ledger.Taken, At: time.Now()}
	if change != nil {
		change(&e)
	}
	g.must(g.book.Put(e))
}

// said is what the helper says of a node.
func (g grouped) said(name string) string {
	var text strings.Builder
	if err := (udevHelper{g.machine, &text, journal.Lines}).tellNode(name); err != nil {
		return err.Error()
	}
	return text.String()
}

// A member of the group vfio may open what we gave to vfio, and nothing that
// others did.
func TestUdevOpensOnlyTheNodesOfWhatWeBound(t *testing.T) {
	const one, other = "0000:01:00.0", "0000:01:00.1"
	const ours = "VFIO_HOTPLUG_NODE=\"ours\"\n"
	stage := func(s ledger.Stage) func(*ledger.Entry) { return func(e *ledger.Entry) { e.Stage = s } }
	for _, c := range []struct {
		name          string
		make          func(g grouped)
		group, device string // what is said of the node of group 7, and of that of the device one
	}{
		{"a device that others bound", func(g grouped) { g.device(one, "vfio-pci") }, "", ""},
		{"one that we bound", func(g grouped) { g.device(one, "vfio-pci"); g.entry(one, "vfio-pci", nil) }, ours, ours},
		{"one that we are binding", func(g grouped) { g.device(one, "vfio-pci"); g.entry(one, "vfio-pci", stage(ledger.Taking)) }, ours, ours},
		{"one that the guard caught and that is let through", func(g grouped) { g.device(one, "vfio-pci"); g.entry(one, "vfio-pci", stage(ledger.Letting)) }, "", ""},
		{"one that is being given back", func(g grouped) { g.device(one, "vfio-pci"); g.entry(one, "vfio-pci", stage(ledger.Releasing)) }, "", ""},
		{"a variant driver", func(g grouped) { g.device(one, "mlx5_vfio_pci"); g.entry(one, "mlx5_vfio_pci", nil) }, ours, ours},
		{"one that others have given to another driver since", func(g grouped) { g.device(one, "mlx5_vfio_pci"); g.entry(one, "vfio-pci", nil) }, "", ""},
		{"another drive in the place of ours", func(g grouped) {
			g.device(one, "vfio-pci")
			g.entry(one, "vfio-pci", func(e *ledger.Entry) { e.Identity++ })
		}, "", ""},
		{"an entry that cannot be read", func(g grouped) {
			g.device(one, "vfio-pci")
			g.must(os.WriteFile(g.path("run/vfio-hotplug/devices", one+".json"), []byte("torn"), 0o600))
		}, "torn", "torn"},
		{"two that we bound", func(g grouped) {
			g.device(one, "vfio-pci")
			g.device(other, "vfio-pci")
			g.entry(one, "vfio-pci", nil)
			g.entry(other, "vfio-pci", stage(ledger.Taking))
		}, ours, ours},
		{"ours beside one that others bound", func(g grouped) {
			g.device(one, "vfio-pci")
			g.device(other, "vfio-pci")
			g.entry(one, "vfio-pci", nil)
		}, "", ours},
		{"ours beside a variant driver of others", func(g grouped) {
			g.device(one, "vfio-pci")
			g.device(other, "qat_vfio_pci")
			g.entry(one, "vfio-pci", nil)
		}, "", ours},
		{"ours beside what vfio does not have", func(g grouped) {
			g.device(one, "vfio-pci")
			g.device(other, "")
			g.device("0000:00:01.0", "pcieport")
			g.device("arm-smmu.3", "")
			g.entry(one, "vfio-pci", nil)
		}, ours, ours},
		{"ours beside what is no PCI device", func(g grouped) {
			g.device(one, "vfio-pci")
			g.device("soc.0", "vfio-platform")
			g.entry(one, "vfio-pci", nil)
		}, "soc.0", ours},
		{"a group without an IOMMU", func(g grouped) {
			g.device(one, "vfio-pci")
			g.entry(one, "vfio-pci", nil)
			g.must(os.WriteFile(g.path("sys/kernel/iommu_groups/7/name"), []byte("vfio-noiommu\n"), 0o644))
		}, "", ours},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGrouped(t)
			c.make(g)
			for node, want := range map[string]string{"7": c.group, one: c.device} {
				if got := g.said(node); got != want && (want == "" || want == ours || !strings.Contains(got, want)) {
					t.Errorf("of node %s it is said %q, want %q", node, got, want)
				}
			}
		})
	}
}

// The helper never holds udev up: for a node of others nobody has the answer.
func TestUdevIsNotHeldUpForANodeOfOthers(t *testing.T) {
	g := newGrouped(t)
	g.device("0000:01:00.0", "vfio-pci")
	g.entry("0000:01:00.0", "vfio-pci", func(e *ledger.Entry) { e.Stage = ledger.Taking })
	g.device("0000:01:00.1", "vfio-pci")
	began := time.Now()
	for _, node := range []string{"7", "0000:01:00.0", "0000:01:00.1", strconv.Itoa(8), "0000:09:00.0"} {
		g.said(node)
	}
	if took := time.Since(began); took > settling/5 {
		t.Errorf("it took %v", took)
	}
}
