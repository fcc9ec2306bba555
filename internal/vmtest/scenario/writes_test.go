package scenario

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// writable says to which devices may be written, by their addresses: those
// that the policy names, and, while a gate keeps the kernel from it, those that
// the daemon has matched. Whoever else writes to a device, be it udevd, is a
// trespasser.
type writable struct {
	named, probed []string
}

var pciAddress = regexp.MustCompile(`(?i)\b[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b`)

// busAttributes are what there is to write to of the bus itself.
var busAttributes = []string{
	"bus/pci/drivers_probe", "bus/pci/drivers_autoprobe",
	"bus/pci/drivers/*/bind", "bus/pci/drivers/*/unbind", "bus/pci/drivers/*/new_id", "bus/pci/drivers/*/remove_id",
}

// fault says what is wrong with a write below /sys, "" for nothing. The
// laboratory's agent plugs and unplugs, and may.
func (p writable) fault(w vmtest.SysWrite) string {
	if w.Own {
		return ""
	}
	if strings.HasPrefix(w.Path, "bus/pci/") {
		known := slices.ContainsFunc(busAttributes, func(pattern string) bool {
			matches, err := path.Match(pattern, w.Path)
			return matches && err == nil
		})
		switch {
		case !known:
			return "nobody has any business there"
		case !w.Known:
			return "what was written is not known"
		}
	}
	for _, address := range concerned(w) {
		matched := w.Path == "bus/pci/drivers_probe" && slices.Contains(p.probed, address)
		if !matched && !slices.Contains(p.named, address) {
			return "no rule names " + address
		}
	}
	return ""
}

// concerned gives the addresses of the devices that a write is about: the one
// below whose directory it goes, and those in what is written. Above a device
// in its path are bridges.
func concerned(w vmtest.SysWrite) []string {
	about := pciAddress.FindAllString(w.Data, -1)
	if above := pciAddress.FindAllString(w.Path, -1); len(above) > 0 {
		about = append(about, above[len(above)-1])
	}
	return about
}

// checkWrites looks through the trace of every write below /sys, by any process.
func (h *house) checkWrites() {
	h.t.Helper()
	p := writable{named: slices.DeleteFunc(slices.Clone(h.others), func(a string) bool { return slices.Contains(h.stays, a) })}
	for bay := range h.bays() {
		address := h.Address(bay)
		switch {
		case slices.Contains(h.stays, address):
		case h.named == nil || slices.Contains(h.named, bay):
			p.named = append(p.named, address)
		case slices.Contains(h.probed, bay):
			p.probed = append(p.probed, address)
		}
	}
	writes := h.Writes()
	about := 0
	for _, w := range writes {
		if !w.Own && len(concerned(w)) > 0 {
			about++
		}
		if fault := p.fault(w); fault != "" {
			h.t.Errorf("%s (process %d) wrote %q to %s: %s", w.Command, w.PID, w.Data, w.Path, fault)
		}
	}
	h.t.Logf("%d writes below /sys, %d of them not by the laboratory and about a PCI device: named are %v, to be matched %v", len(writes), about, p.named, p.probed)
}

func (h *house) bays() int {
	if bays := h.Config().Bays; bays > 0 {
		return bays
	}
	return vmtest.DefaultBays
}

func TestTrespassersAreSeen(t *testing.T) {
	const (
		wanted, gated, other = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0"
		below                = "devices/pci0000:00/0000:00:04.0/"
	)
	p := writable{named: []string{wanted}, probed: []string{gated}}
	for _, test := range []struct {
		path, data string
		unknown    bool
		own        bool
		fault      string
	}{
		{path: below + wanted + "/driver_override", data: "vfio-pci"},
		{path: below + wanted + "/driver_override", unknown: true},
		{path: below + wanted + "/nvme/nvme0/nvme0n1/queue/scheduler", data: "none"},
		{path: "bus/pci/drivers/nvme/unbind", data: wanted},
		{path: "bus/pci/drivers_probe", data: wanted + "\n"},
		{path: "bus/pci/drivers_probe", data: gated},
		{path: "bus/pci/drivers_autoprobe", data: "0"},
		{path: "bus/pci/drivers/vfio-pci/new_id", data: "ffffffff ffffffff ffffffff ffffffff 01010802 ffffff 0"},
		{path: "devices/virtual/bdi/259:0/read_ahead_kb", data: "128"},
		{path: "module/md_mod/parameters/new_array", data: "x"},
		{path: "bus/pci/slots/1/power", data: "0", own: true},

		{path: below + other + "/driver_override", data: "\n", fault: other},
		{path: below + other + "/nvme/nvme1/nvme1n1/nvme1n1p1/uevent", data: "change", fault: other},
		{path: below + gated + "/driver_override", data: "\n", fault: gated},
		{path: below + "power/control", data: "auto", fault: "0000:00:04.0"},
		{path: "bus/pci/drivers/nvme/unbind", data: gated, fault: gated},
		{path: "bus/pci/drivers_probe", data: other, fault: other},
		{path: "bus/pci/drivers_probe", data: strings.ToUpper("0000:0a:00.0"), fault: "0000:0A:00.0"},
		{path: "bus/pci/drivers_probe", unknown: true, fault: "not known"},
		{path: "bus/pci/drivers/nvme/bind", unknown: true, fault: "not known"},
		{path: "bus/pci/slots/1/power", data: "0", fault: "business"},
		{path: "bus/pci/rescan", data: "1", fault: "business"},
		{path: below + wanted + "/driver_override", data: other, fault: other},
	} {
		w := vmtest.SysWrite{Path: test.path, Data: test.data, Known: !test.unknown, Own: test.own}
		if fault := p.fault(w); (fault != "") != (test.fault != "") || !strings.Contains(fault, test.fault) {
			t.Errorf("%s: %q: fault %q, want %q", test.path, test.data, fault, test.fault)
		}
	}
	if fmt.Sprint(concerned(vmtest.SysWrite{Path: below + wanted, Data: other})) != fmt.Sprint([]string{other, wanted}) {
		t.Error("a write is about its path and its data")
	}
}
