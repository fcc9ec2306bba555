package kmod

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"

	"vfio-hotplug/internal/pci"
)

// Natural finds the module that the kernel's own tables name for a device, in
// the text of the running kernel's modules.alias: the pci alias that fits with
// the fewest wildcards. It is "" where none fits, as for a driver that is built
// into the kernel.
func Natural(aliases io.Reader, ids pci.IDs) (string, error) {
	return closest(aliases, "pci:", "pci:"+strings.TrimPrefix(ids.VFIOAlias(), "vfio_pci:"), "")
}

// closest gives the module of the alias with a prefix that fits a modalias with
// the fewest wildcards, or otherwise.
func closest(aliases io.Reader, prefix, modalias, otherwise string) (string, error) {
	best, fewest := otherwise, len(modalias)
	lines := bufio.NewScanner(aliases)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 || fields[0] != "alias" || !strings.HasPrefix(fields[1], prefix) {
			continue
		}
		fits, err := path.Match(fields[1], modalias)
		if err != nil || !fits {
			continue
		}
		if wildcards := strings.Count(fields[1], "*"); wildcards < fewest {
			best, fewest = fields[2], wildcards
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read modules.alias: %w", err)
	}
	return best, nil
}
