package scenario

import (
	"bytes"
	"context"
	"os"
	"path"
	"path/filepath"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// ext4 gives the modules that ext4 needs: older kernels have its checksum in a
// module that nothing but a soft dependency names.
func ext4(t *testing.T, k vmtest.Kernel) []string {
	t.Helper()
	const checksum = "crc32c_generic"
	deps, err := os.ReadFile(filepath.Join(k.Modules, "modules.dep"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(deps, []byte("/"+checksum+".ko")) {
		return []string{checksum, "ext4"}
	}
	return []string{"ext4"}
}

// block gives the node of the first namespace of the drive in a bay.
func (h *house) block(bay int) string {
	h.t.Helper()
	h.waitBlock(bay)
	return "/dev/" + path.Base(h.Glob(h.namespaces(bay))[0])
}

// waitBlock waits until nvme shows the drive's first namespace.
func (h *house) waitBlock(bay int) {
	h.t.Helper()
	pattern := h.namespaces(bay)
	h.WaitFor("a namespace like "+pattern, func(ctx context.Context) (bool, error) {
		names, err := h.Guest.Glob(ctx, pattern)
		return len(names) > 0, err
	})
}

func (h *house) namespaces(bay int) string {
	return "/sys/bus/pci/devices/" + h.Address(bay) + "/nvme/nvme*/nvme*n*"
}
