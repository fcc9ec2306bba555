package main

import (
	"bufio"
	"io"
	"os"
	"strings"

	"vfio-hotplug/internal/control"
)

// names gives what a vendor and device ID are called, by the machine's
// pci.ids; a machine without one shows the IDs alone.
type names map[string]string

// readNames reads the names of the devices, and no more.
func readNames(m *machine, devices []control.Device) names {
	for _, path := range []string{"usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids"} {
		f, err := os.Open(m.path(path))
		if err != nil {
			continue
		}
		defer f.Close()
		return parseNames(f, devices)
	}
	return nil
}

// parseNames reads the form of pci.ids: a vendor's line begins with its ID, a
// device's with a tab and its ID.
func parseNames(r io.Reader, devices []control.Device) names {
	wanted := map[string]bool{}
	for _, d := range devices {
		wanted[d.ID] = true
	}
	found := names{}
	vendor, vendorName := "", ""
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "C "):
			return found // the classes follow
		case line == "" || line[0] == '#' || strings.HasPrefix(line, "\t\t"):
		case line[0] == '\t':
			id, name, _ := strings.Cut(line[1:], "  ")
			if wanted[vendor+":"+id] {
				found[vendor+":"+id] = vendorName + " " + name
			}
		default:
			vendor, vendorName, _ = strings.Cut(line, "  ")
		}
	}
	return found
}

// of gives the name of a device, cut to fit a table.
func (n names) of(d control.Device) string {
	const most = 32
	name, ok := n[d.ID]
	if !ok {
		return d.ID
	}
	if runes := []rune(name); len(runes) > most {
		name = string(runes[:most-1]) + "…"
	}
	return name
}
