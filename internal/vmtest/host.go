package vmtest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Host describes this machine as far as a guest's times depend on it:
// processors, how they are had, and the load average of the last minute.
func Host() string {
	how := "emulated (TCG)"
	if kvm() {
		how = "KVM"
	}
	load := "unknown"
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ = strings.Cut(string(text), " ")
	}
	return fmt.Sprintf("%d cores, %s, load %s", runtime.NumCPU(), how, load)
}
