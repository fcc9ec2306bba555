package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	clocksource = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
	// calibration is how long the kernel may take to be sure of its clock: it
	// measures for a second, beginning in the middle of its boot.
	calibration = 5 * time.Second
)

// wakeProcessors switches on the processors that the kernel left off (it was
// booted with maxcpus=1), once it has settled on its clock. When it does, it
// patches its own code, in every timer interrupt's way; under QEMU's emulation
// another processor now and then runs into the half-patched place and dies of
// an "Oops: int3" (2 of about 150 boots of 7.3, with QEMU 7.2).
func wakeProcessors() error {
	awaitClock()
	processors, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/online")
	if err != nil {
		return err
	}
	for _, online := range processors {
		err := os.WriteFile(online, []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("switch a processor on: %w", err)
		}
	}
	runtime.SetDefaultGOMAXPROCS()
	return nil
}

// awaitClock returns when the kernel has left its provisional clock. Nothing
// tells when: it has to be asked again and again.
func awaitClock() {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < calibration; <-tick.C {
		name, err := os.ReadFile(clocksource)
		if err != nil || strings.TrimSpace(string(name)) != "tsc-early" {
			return
		}
	}
}
