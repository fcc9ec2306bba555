package main

import (
	"os"
	"strings"
	"testing"

	"vfio-hotplug/internal/operate"
)

// The udev rules and the program say the same things by the same names.
func TestRulesFitTheProgram(t *testing.T) {
	text, err := os.ReadFile("../../rules/60-vfio-hotplug.rules")
	if err != nil {
		t.Fatal(err)
	}
	m := machine{root: "/"}
	for _, want := range []string{
		`ATTR{driver_override}="` + operate.Unoffered + `"`,
		`TEST=="` + m.coldplug() + `"`,
		`TEST=="` + m.path("run/vfio-hotplug/devices") + `/$kernel.json"`,
		`IMPORT{program}="/usr/sbin/vfio-hotplug ` + udevCommand + ` $kernel"`,
		`SUBSYSTEM=="vfio", KERNEL=="[0-9]*", TEST=="` + m.path("run/vfio-hotplug/devices") + `", IMPORT{program}="/usr/sbin/vfio-hotplug ` + nodeCommand + ` $kernel"`,
		`SUBSYSTEMS=="pci", TEST=="` + m.path("run/vfio-hotplug/devices") + `/$id.json", IMPORT{program}="/usr/sbin/vfio-hotplug ` + nodeCommand + ` $id"`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the rules do not say %s", want)
		}
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "ATTR{driver_override}=") && !strings.Contains(line, `TEST!="driver"`) {
			t.Errorf("a device that has a driver would be written to: %s", line)
		}
		if strings.Contains(line, "GROUP=") && !strings.Contains(line, `ENV{VFIO_HOTPLUG_NODE}=="ours"`) && !strings.HasPrefix(line, `SUBSYSTEM=="misc", KERNEL=="iommu", `) {
			t.Errorf("nodes of others would be opened: %s", line)
		}
		if !strings.HasPrefix(line, "#") && strings.Contains(line, "RUN") {
			t.Errorf("something is run after all rules: %s", line)
		}
	}
}
