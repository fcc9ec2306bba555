package scenario

import (
	"context"
	"path/filepath"
	"testing"

	"vfio-hotplug/internal/vmtest"
	"vfio-hotplug/internal/vmtest/kernel"
)

// udevd is where guests that need it have it: one program, which knows by its
// name what it is.
const udevd = "/usr/lib/systemd/systemd-udevd"

// withUdev gives a guest this machine's udevd and all of its rules: what a
// distribution does by itself with a drive that comes.
func withUdev(t *testing.T, config vmtest.Config) vmtest.Config {
	t.Helper()
	rules, err := filepath.Glob("/usr/lib/udev/rules.d/*.rules")
	if err != nil || len(rules) == 0 {
		t.Fatalf("the rules of udev are not there: %v", err)
	}
	files := map[string]string{udevd: kernel.Program("udevadm")}
	for _, rule := range rules {
		files[rule] = rule
	}
	config.Programs, config.Files = append(config.Programs, "udevadm"), files
	return config
}

// startUdev starts udevd and waits until it answers.
func (h *house) startUdev() *vmtest.LabProcess {
	h.t.Helper()
	p := h.Start(vmtest.Background{Argv: []string{udevd}})
	h.WaitFor("udevd to answer", func(ctx context.Context) (bool, error) {
		f, err := h.Guest.Run(ctx, vmtest.Command{Argv: []string{"udevadm", "control", "--ping", "--timeout=1"}})
		return f.Code == 0, err
	})
	return p
}

// settleUdev waits until udevd has done with every event that there was.
func (h *house) settleUdev() {
	h.t.Helper()
	h.Do("udevadm", "settle", "--timeout=100")
}
