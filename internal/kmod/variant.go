package kmod

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"

	"vfio-hotplug/internal/pci"
)

// GenericVFIO is the module of the driver that can take any PCI function.
const GenericVFIO = "vfio_pci"

// Variant finds the vfio module made for a device, in the text of the running
// kernel's modules.alias: the vfio_pci alias that fits with the fewest
// wildcards, as libvirt chooses (Documentation/driver-api/vfio-pci-device-
// specific-driver-acceptance.rst). It is GenericVFIO where no other fits.
//
// The result is a module's name. Its driver may have another one, which
// /sys/module/MODULE/drivers tells once it is loaded.
func Variant(aliases io.Reader, ids pci.IDs) (string, error) {
	modalias := ids.VFIOAlias()
	best, fewest := GenericVFIO, len(modalias)
	lines := bufio.NewScanner(aliases)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 || fields[0] != "alias" || !strings.HasPrefix(fields[1], "vfio_pci:") {
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
