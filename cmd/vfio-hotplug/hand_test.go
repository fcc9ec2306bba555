package main

import (
	"strings"
	"testing"

	"vfio-hotplug/internal/control"
)

// A release ends with the boot at the latest, and the command says so.
func TestAReleaseSaysHowLongItHolds(t *testing.T) {
	var b strings.Builder
	err := conclude(&b, control.Device{Address: "0000:01:00.0", Outcome: "released", Driver: "nvme", From: "vfio-pci"})
	const want = "0000:01:00.0 released: driver nvme, from vfio-pci; it stays there until it is plugged again, " +
		"it is bound by hand, or the machine boots; for good: a rule that says leave\n"
	if err != nil || b.String() != want {
		t.Errorf("got %q, %v; want %q", b.String(), err, want)
	}
	b.Reset()
	if err := conclude(&b, control.Device{Address: "0000:01:00.0", Outcome: "already", Driver: "vfio-pci"}); err != nil || strings.Contains(b.String(), "until") {
		t.Errorf("a bind: got %q, %v", b.String(), err)
	}
}
