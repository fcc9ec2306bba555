package vmtest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Host describes this machine as far as a guest's times depend on it:
// processors, how a guest with this kernel has them, and the load average of the
// last minute.
func Host(k Kernel) string {
	how := "emulated (TCG)"
	if KVM(k) {
		how = "KVM"
	}
	load := "unknown"
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ = strings.Cut(string(text), " ")
	}
	return fmt.Sprintf("%d cores, %s, load %s", runtime.NumCPU(), how, load)
}
