package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// machineWithATakenDrive is a machine on which a drive is being taken.
func machineWithATakenDrive(t *testing.T) (m machine, book *ledger.Ledger, entry ledger.Entry) {
	t.Helper()
	m = machine{root: t.TempDir()}
	entry = ledger.Entry{Address: pci.Address{Bus: 1}, Driver: "vfio-pci", Rule: "front bays", At: time.Now(), Stage: ledger.Taking}
	dir := m.path("sys/bus/pci/devices", entry.Address.String())
	for _, d := range []string{dir, m.path("run/vfio-hotplug")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../drivers/vfio-pci", filepath.Join(dir, "driver")); err != nil {
		t.Fatal(err)
	}
	root, err := sysfs.OpenRoot(m.path("sys"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	dev, err := sysfs.New(root, nil).Open(entry.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	entry.Identity = dev.Identity()
	if book, err = ledger.Open(m.path("run/vfio-hotplug"), "/proc"); err != nil {
		t.Fatal(err)
	}
	if err := book.Put(entry); err != nil {
		t.Fatal(err)
	}
	return m, book, entry
}

// The kernel tells udev and the daemon of a bind at once: the helper waits for
// the daemon's word.
func TestUdevIsToldTheOutcome(t *testing.T) {
	m, book, entry := machineWithATakenDrive(t)
	said := make(chan string)
	go func() {
		var text strings.Builder
		if err := (udevHelper{m, &text, journal.Lines}).tell(entry.Address.String()); err != nil {
			t.Error(err)
		}
		said <- text.String()
	}()
	select {
	case got := <-said:
		t.Fatalf("before the daemon's word it said\n%s", got)
	case <-time.After(50 * time.Millisecond):
	}
	entry.Stage, entry.Outcome = ledger.Taken, "direct"
	if err := book.Put(entry); err != nil {
		t.Fatal(err)
	}
	want := "VFIO_HOTPLUG_DRIVER=\"vfio-pci\"\nVFIO_HOTPLUG_RULE=\"front bays\"\nVFIO_HOTPLUG_OUTCOME=\"direct\"\n"
	if got := <-said; got != want {
		t.Errorf("said\n%swant\n%s", got, want)
	}
}

// A daemon that was killed leaves the outcome open; udev is not held up for it.
func TestUdevIsToldWhatIsKnown(t *testing.T) {
	m, _, entry := machineWithATakenDrive(t)
	began := time.Now()
	var text strings.Builder
	if err := (udevHelper{m, &text, journal.Lines}).tell(entry.Address.String()); err != nil {
		t.Fatal(err)
	}
	want := "VFIO_HOTPLUG_DRIVER=\"vfio-pci\"\nVFIO_HOTPLUG_RULE=\"front bays\"\n"
	if text.String() != want {
		t.Errorf("said\n%swant\n%s", text.String(), want)
	}
	if took := time.Since(began); took > 2*settling {
		t.Errorf("udev was held up for %v", took)
	}
}

// An entry about the drive that was there before says nothing of this one.
func TestUdevIsToldNothingOfAnotherDrive(t *testing.T) {
	m, book, entry := machineWithATakenDrive(t)
	entry.Identity++
	if err := book.Put(entry); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := (udevHelper{m, &text, journal.Lines}).tell(entry.Address.String()); err != nil {
		t.Fatal(err)
	}
	if text.Len() != 0 {
		t.Errorf("said %q", text.String())
	}
}
