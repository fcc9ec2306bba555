package kmod

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"vfio-hotplug/internal/pci"
)

func TestLoadPassesOnWhatTheCommandSaid(t *testing.T) {
	l := Loader{Command: func(module string) []string {
		return []string{"sh", "-c", "echo modprobe: FATAL: Module " + module + " not found >&2; echo more >&2; exit 1"}
	}}
	err := l.Load(t.Context(), "vfio-pci")
	want := "load module vfio-pci: modprobe: FATAL: Module vfio-pci not found: exit status 1"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestLoadFailures(t *testing.T) {
	missing := Loader{Command: func(string) []string { return []string{"no-such-program-here"} }}
	if err := missing.Load(t.Context(), "vfio"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("missing program: %v", err)
	}
	slow := Loader{Command: func(string) []string { return []string{"sleep", "60"} }}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := slow.Load(ctx, "vfio"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow program: %v", err)
	}
	never := Loader{Command: func(string) []string { t.Error("ran a command"); return []string{"true"} }}
	for _, name := range []string{"", "../evil", "a b", "x;y"} {
		if err := never.Load(t.Context(), name); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func TestVariantIsTheClosestAlias(t *testing.T) {
	const aliases = `# Aliases extracted from modules themselves.
alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_core
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci
alias vfio_pci:v000015B3d*sv*sd*bc*sc*i* wrong_vfio_pci
`
	for _, test := range []struct {
		name string
		ids  pci.IDs
		want string
	}{
		{"its own", pci.IDs{Vendor: 0x15b3, Device: 0x101e, Class: 0x020000}, "mlx5_vfio_pci"},
		{"an NVMe has none", pci.IDs{Vendor: 0x144d, Device: 0xa804, Class: pci.NVMe}, "vfio_pci"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Variant(strings.NewReader(aliases), test.ids)
			if err != nil || got != test.want {
				t.Errorf("got %s, %v; want %s", got, err, test.want)
			}
		})
	}
}

func TestNaturalIsTheKernelsOwn(t *testing.T) {
	const aliases = `alias pci:v*d*sv*sd*bc01sc08i02* nvme
alias pci:v0000144Dd0000A804sv*sd*bc*sc*i* nvme
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e
`
	for _, test := range []struct {
		ids  pci.IDs
		want string
	}{
		{pci.IDs{Vendor: 0x1b36, Device: 0x10, Class: pci.NVMe}, "nvme"},
		{pci.IDs{Vendor: 0x8086, Device: 0x10d3, Class: 0x020000}, "e1000e"},
		{pci.IDs{Vendor: 0x8086, Device: 0x1, Class: 0x020000}, ""},
	} {
		got, err := Natural(strings.NewReader(aliases), test.ids)
		if err != nil || got != test.want {
			t.Errorf("%+v: got %q, %v; want %q", test.ids, got, err, test.want)
		}
	}
}
