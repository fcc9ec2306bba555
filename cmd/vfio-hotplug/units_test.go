package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
)

// A path that a unit's sandbox names and that is not there fails the unit's
// start, unless a - stands before it: no path is there on every machine.
func TestUnitsStartWhereAPathIsMissing(t *testing.T) {
	units, err := filepath.Glob("../../packaging/systemd/*")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	named := 0
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			setting, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			if !strings.HasSuffix(setting, "Paths") && setting != "EnvironmentFile" && setting != "WorkingDirectory" {
				continue
			}
			for _, path := range strings.Fields(value) {
				named++
				if !strings.HasPrefix(path, "-") {
					t.Errorf("%s: %s names %s without a -", filepath.Base(unit), setting, path)
				}
			}
		}
	}
	if named < 3 {
		t.Errorf("only %d paths were found", named)
	}
}

// Where there is no PCI bus the services are not started, rather than started
// to say so again and again.
func TestUnitsNeedAPCIBus(t *testing.T) {
	for _, unit := range []string{"vfio-hotplug.service", "vfio-hotplug-early.service", "vfio-hotplug-guard.service", "vfio-hotplug.socket"} {
		text, err := os.ReadFile("../../packaging/systemd/" + unit)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "\nConditionPathIsDirectory=/sys/bus/pci\n") {
			t.Errorf("%s does not ask for a PCI bus", unit)
		}
	}
}

// What hides from the daemon who uses a device. With PrivateNetwork comes, from
// systemd 254 on, a sysfs without the machine's interfaces and mounts.
var hiding = []string{
	"PrivateNetwork", "NetworkNamespacePath", "JoinsNamespaceOf", "PrivatePIDs", "PrivateUsers", "PrivateDevices",
	"ProcSubset", "RootDirectory", "RootImage", "InaccessiblePaths", "TemporaryFileSystem",
}

func TestNoUnitHidesTheMachine(t *testing.T) {
	units, err := filepath.Glob("../../packaging/systemd/*.service")
	if err != nil || len(units) == 0 {
		t.Fatal("there are no units: ", err)
	}
	for _, path := range units {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		options, err := unit.DeserializeOptions(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range options {
			if slices.Contains(hiding, o.Name) {
				t.Errorf("%s: %s=%s", filepath.Base(path), o.Name, o.Value)
			}
		}
	}
}
