package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vfio-hotplug/internal/control"
)

// With a daemon that answers, status says so in JSON, and disarm is refused.
func TestWhatIsSaidWhileADaemonRuns(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"run/vfio-hotplug", "sys/bus/pci/devices", "sys/bus/pci/drivers"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := &machine{root: root}
	listener, err := control.Listen(m.socket())
	if err != nil {
		t.Fatal(err)
	}
	server := control.Server{Handlers: map[string]control.Handler{
		control.MethodStatus: {Handle: func(context.Context, *control.Call) (any, error) {
			return control.StatusReply{Devices: []control.Device{}}, nil
		}},
	}}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()

	said := func(args ...string) (string, string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		cmd := newRootCommand()
		cmd.SetOut(&stdout)
		cmd.SetErr(&stderr)
		cmd.SetArgs(append([]string{"--root", root}, args...))
		if err := cmd.Execute(); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		return stdout.String(), stderr.String()
	}
	if out, _ := said("status", "--json"); !strings.Contains(out, `"daemon": true`) {
		t.Errorf("status --json: %s", out)
	}
	cmd := newRootCommand()
	cmd.SetArgs([]string{"--root", root, "disarm"})
	if err := cmd.Execute(); exitCode(err) != exitRefused || !strings.Contains(err.Error(), "systemctl stop vfio-hotplug") {
		t.Errorf("disarm: %v", err)
	}
}
