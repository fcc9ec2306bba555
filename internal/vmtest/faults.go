package vmtest

import (
	"path/filepath"
	"strings"
)

// emulatorFaults are what a kernel says when it dies in its boot by a fault of
// QEMU's emulation, seen with QEMU 7.2 and no KVM.
var emulatorFaults = [...]string{
	"Oops: int3",                   // one processor patches code that another runs: see wakeProcessors in the agent
	"int3: 0000",                   // the same, as older kernels say it
	"IO-APIC + timer doesn't work", // a timer interrupt that came too late
	"timer doesn't work through Interrupt-remapped IO-APIC",
}

// emulatorFault names the fault of the emulator by which a boot failed, "" for
// none: then the kernel, or what it runs, is at fault.
func (g *Guest) emulatorFault() string {
	if g.qemu == nil || KVM(g.cfg.Kernel) {
		return ""
	}
	select {
	case <-g.qemu.exited:
	default:
		return ""
	}
	if g.qemu.crashed() {
		return "QEMU died: " + g.qemu.end.String()
	}
	for _, line := range logLines(filepath.Join(g.dir, consoleFile)) {
		for _, sign := range emulatorFaults {
			if strings.Contains(line, sign) {
				return line
			}
		}
	}
	return ""
}
