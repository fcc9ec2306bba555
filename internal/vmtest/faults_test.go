package vmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ended gives a guest whose QEMU was a line of shell.
func ended(t *testing.T, line, console string) *Guest {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, consoleFile), []byte(console), 0o600); err != nil {
		t.Fatal(err)
	}
	q := &qemu{dir: dir, exited: make(chan struct{})}
	if err := q.start(exec.Command("sh", "-c", line)); err != nil {
		t.Fatal(err)
	}
	<-q.exited
	return &Guest{dir: dir, qemu: q}
}

func TestFaultsOfTheEmulatorAreToldFromOurs(t *testing.T) {
	for name, test := range map[string]struct{ line, console, want string }{
		"half-patched code": {"exit 0", "[ 1.2] Oops: int3: 0000 [#1] SMP\r\n[ 1.3] Kernel panic - not syncing\r\n", "int3"},
		"timer":             {"exit 0", "Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic=debug\r\n", "timer"},
		"QEMU crashed":      {"kill -SEGV $$", "booting\r\n", "segmentation fault"},
		"another panic":     {"exit 0", "Kernel panic - not syncing: VFS: Unable to mount root fs\r\n", ""},
		"QEMU refuses":      {"exit 1", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ended(t, test.line, test.console).emulatorFault()
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("the fault is %q, want %q", got, test.want)
			}
		})
	}
	if got := (&Guest{}).emulatorFault(); got != "" {
		t.Errorf("before QEMU was started: %q", got)
	}
	alive := &Guest{dir: t.TempDir(), qemu: &qemu{exited: make(chan struct{})}}
	if got := alive.emulatorFault(); got != "" {
		t.Errorf("while QEMU runs: %q", got)
	}
}
