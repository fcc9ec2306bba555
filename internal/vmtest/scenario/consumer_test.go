package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"vfio-hotplug/internal/vmtest"
)

// servesAConsumer has two services of a consumer bound to a drive: one to the
// device by its address, which systemd starts when it is plugged, one to the
// node that it has. Both end when it is unplugged.
func (h *house) servesAConsumer() {
	h.t.Helper()
	const bay = stormBay
	device := "sys-bus-pci-devices-" + h.Address(bay) + ".device"
	h.CreateFile("/etc/systemd/system/consumer.service",
		"[Unit]\nBindsTo="+device+"\nAfter="+device+"\n[Service]\nExecStart=sleep infinity\n[Install]\nWantedBy="+device+"\n", 0o644)
	h.Do("systemctl", "--quiet", "enable", "consumer.service")

	h.Plug(bay, vmtest.Device{})
	h.direct(bay)
	h.waitUnit("consumer.service", "active")
	node := "dev-vfio-" + path.Base(h.taken(bay, "vfio-pci").Node) + ".device"
	h.waitUnit(node, "active")
	h.Do("systemd-run", "--quiet", "--unit=other", "--property=BindsTo="+node, "--property=After="+node, "sleep", "infinity")
	h.waitUnit("other.service", "active")

	h.Unplug(bay)
	for _, unit := range []string{"consumer.service", "other.service", node, device} {
		h.waitUnit(unit, "inactive")
	}
	h.Do("systemctl", "--quiet", "disable", "consumer.service")
}

func (h *house) waitUnit(unit, state string) {
	h.t.Helper()
	h.WaitFor(unit+" to be "+state, func(ctx context.Context) (bool, error) {
		f, err := h.Guest.Run(ctx, vmtest.Command{Argv: []string{"systemctl", "show", "--property=ActiveState", unit}})
		return string(f.Stdout) == "ActiveState="+state+"\n", err
	})
}

// tellsOthers checks what the journal and udev say of a drive that came
// directly, and what this system's own tools say of the units and the rules.
func (h *house) tellsOthers() {
	h.t.Helper()
	address := h.Address(stubBay)
	d := h.taken(stubBay, "vfio-pci")
	entry := h.entry("PCI_ADDRESS="+address, "OUTCOME=direct")
	for field, want := range map[string]string{
		"DRIVER": "vfio-pci", "RULE": "bays", "GUARD": "stub", "NODE": d.Node, "MESSAGE_ID": "118ba14e3ceedb420c13063f1aaab35c",
		"IOMMU_GROUP": path.Base(d.Node), "SLOT": d.Slot, "_SYSTEMD_UNIT": service, "SYSLOG_IDENTIFIER": "vfio-hotplug", "PRIORITY": "6",
	} {
		if entry[field] != want {
			h.t.Errorf("in the journal %s is %q, want %q", field, entry[field], want)
		}
	}
	if entry["LATENCY_USEC"] == "" {
		h.t.Error("the journal has no LATENCY_USEC")
	}
	explained := h.Do("journalctl", "--no-pager", "--boot", "--catalog", "PCI_ADDRESS="+address, "OUTCOME=direct")
	if want := "Subject: " + address + " came up on vfio-pci directly\n"; !strings.Contains(explained, want) {
		h.t.Errorf("journalctl -x says\n%swant %q", explained, want)
	}
	h.t.Log(explained)

	h.settleUdev()
	properties := h.Do("udevadm", "info", "/sys/bus/pci/devices/"+address)
	for _, want := range []string{"VFIO_HOTPLUG_DRIVER=vfio-pci", "VFIO_HOTPLUG_RULE=bays", "VFIO_HOTPLUG_OUTCOME=direct"} {
		if !strings.Contains(properties, "E: "+want+"\n") {
			h.t.Errorf("udevadm info says\n%swant %s", properties, want)
		}
	}
	h.t.Log(properties)

	for _, unit := range []string{service, "vfio-hotplug-early.service", "vfio-hotplug-guard.service"} {
		f := h.Run("systemd-analyze", "security", "--no-pager", "--threshold=21", unit)
		lines := strings.Split(strings.TrimSpace(string(f.Stdout)), "\n")
		if last := lines[len(lines)-1]; f.Code != 0 {
			h.t.Errorf("exposed more than 2.1: %s%s", last, f.Stderr)
		} else {
			h.t.Log(last)
		}
	}
	if strings.Contains(h.Do("udevadm", "--help"), "verify") { // since systemd 254
		if f := h.Run("udevadm", "verify", "/usr/lib/udev/rules.d/60-vfio-hotplug.rules"); f.Code != 0 {
			h.t.Errorf("udevadm verify: %s%s", f.Stdout, f.Stderr)
		}
	}
}

// entry waits for an entry of the service in this boot's journal that matches, and
// gives the fields of the last.
func (h *house) entry(matches ...string) map[string]string {
	h.t.Helper()
	ask := append([]string{"journalctl", "--quiet", "--no-pager", "--boot", "--lines=1", "--output=json", "--unit=" + service}, matches...)
	said := ""
	h.WaitFor(fmt.Sprintf("the journal to have %q", matches), func(ctx context.Context) (bool, error) {
		f, err := h.Guest.Run(ctx, vmtest.Command{Argv: ask})
		said = string(f.Stdout)
		return said != "", err
	})
	h.t.Log(said)
	var fields map[string]any
	if err := json.Unmarshal([]byte(said), &fields); err != nil {
		h.t.Fatalf("the journal's entry of %s for %q: %v in %q", service, matches, err, said)
	}
	texts := map[string]string{}
	for name, value := range fields {
		texts[name], _ = value.(string)
	}
	return texts
}
