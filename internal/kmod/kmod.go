// Package kmod loads kernel modules and knows which vfio driver is made for a
// device.
package kmod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Loader loads modules by running Command with the module's name added.
// systemd's own unit is preferred where systemd runs, since modprobe cannot
// work inside a sandboxed service.
type Loader struct {
	Command func(module string) []string
}

// NewLoader picks the way that fits the running system: systemd's
// modprobe@.service, or modprobe.
func NewLoader() Loader {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		return Loader{Command: func(module string) []string {
			return []string{"systemctl", "start", "modprobe@" + module + ".service"}
		}}
	}
	return Loader{Command: func(module string) []string { return []string{"modprobe", "--", module} }}
}

// Load loads a module and what it depends on. It blocks until the command has
// ended or ctx ends. Success of the command is no proof: systemd ignores the
// exit code of modprobe, so the caller looks for the driver afterwards.
func (l Loader) Load(ctx context.Context, module string) error {
	if module == "" || strings.Trim(module, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return fmt.Errorf("load module %q: not a module name", module)
	}
	argv := l.Command(module)
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if text := firstLine(said.String()); text != "" && !errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("load module %s: %s: %w", module, text, err)
	}
	return fmt.Errorf("load module %s: %w", module, err)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
