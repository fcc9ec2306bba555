package scenario

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// TestGuestNodes: udev opens the node of a drive that the daemon gave to vfio to
// the group vfio; also where the kernel gave it by the guard's ID while the daemon
// could not write that down, once it has. What others give to vfio or to uio stays
// root's.
func TestGuestNodes(t *testing.T) {
	const wanted, late, theirs, uio = 0, 1, 2, 3
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		config := withUdev(t, vmtest.Config{Kernel: k, Bays: 4, Modules: []string{"vfio-pci", "vfio_iommu_type1", "nvme", "e1000e", "uio_pci_generic"}})
		config.Files["/usr/lib/udev/rules.d/60-vfio-hotplug.rules"] = "../../../rules/60-vfio-hotplug.rules"
		h := boot(t, config, "[guard]\nmode = \"claim\"\n"+everyDrive)
		h.CreateFile("/etc/group", "root:x:0:\nvfio:x:321:\n", 0o644)
		h.startUdev()
		h.start()
		h.guard("claim")

		h.Plug(wanted, vmtest.Device{})
		h.taken(wanted, "vfio-pci")
		h.settleUdev()
		h.wantNode(h.groupNode(wanted), "vfio")

		for bay, driver := range map[int]string{theirs: "vfio-pci", uio: "uio_pci_generic"} {
			h.Plug(bay, vmtest.NIC())
			h.WaitDriver(bay, "e1000e")
			h.gives(bay, "e1000e", driver)
			h.WaitDriver(bay, driver)
		}
		h.settleUdev()
		h.wantNode(h.groupNode(theirs), "root")
		for _, node := range h.Glob("/dev/uio*") {
			h.wantNode(node, "root")
		}

		h.daemon.Signal(syscall.SIGSTOP)
		h.Plug(late, vmtest.Device{})
		h.WaitDriver(late, "vfio-pci")
		h.settleUdev()
		h.wantNode(h.groupNode(late), "root")
		h.daemon.Signal(syscall.SIGCONT)
		h.taken(late, "vfio-pci")
		h.WaitFor("the node that came before its entry to be opened", func(context.Context) (bool, error) {
			return h.nodeFault(h.groupNode(late), "vfio") == "", nil
		})
		h.done()
	})
}

// groupNode is the node of the IOMMU group of the device in a bay.
func (h *house) groupNode(bay int) string {
	h.t.Helper()
	return "/dev/vfio/" + path.Base(h.Stat("/sys/bus/pci/devices/"+h.Address(bay)+"/iommu_group").Target)
}

// wantNode checks that a node is for root and a group, or for root alone.
func (h *house) wantNode(node, group string) {
	h.t.Helper()
	if fault := h.nodeFault(node, group); fault != "" {
		h.t.Error(fault)
	}
}

// nodeFault says what is wrong with a node, "" for nothing.
func (h *house) nodeFault(node, group string) string {
	h.t.Helper()
	gid := regexp.MustCompile(`(?m)^` + group + `:[^:]*:(\d+):`).FindStringSubmatch(h.ReadFile("/etc/group"))
	if gid == nil {
		return "there is no group " + group
	}
	is, mode := h.Stat(node), fs.FileMode(0o600)
	if group != "root" {
		mode = 0o660
	}
	if strconv.Itoa(int(is.GID)) != gid[1] || is.Mode&fs.ModePerm != mode {
		return fmt.Sprintf("%s has mode %v and group %d, want %v and %s (%s)", node, is.Mode, is.GID, mode, group, gid[1])
	}
	return ""
}

// unpackFirst unpacks the package and has udev read its rules, as it does when an
// event comes, before the package is configured.
func (h *house) unpackFirst() {
	h.t.Helper()
	h.slowly("dpkg", "--unpack", debInGuest)
	for range 2 { // udev looks at its files at most every three seconds
		h.Do("sleep", "4")
		h.Do("udevadm", "trigger", "--action=change", "--subsystem-match=mem")
		h.settleUdev()
	}
}

// knowsItsGroup checks that udev has read no rule whose group it did not know.
func (h *house) knowsItsGroup() {
	h.t.Helper()
	said := h.Do("journalctl", "--quiet", "--no-pager", "--boot", "--output=cat", "--lines=5000")
	for _, line := range regexp.MustCompile(`(?m)^.*[Uu]nknown group.*$`).FindAllString(said, -1) {
		h.t.Error(line)
	}
}
