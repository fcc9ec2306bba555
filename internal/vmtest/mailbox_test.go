package vmtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest/initramfs"
	"vfio-hotplug/internal/vmtest/wire"
)

func TestAMailboxHoldsTheFilesOfAConfig(t *testing.T) {
	dir := t.TempDir()
	box, file := filepath.Join(dir, mailboxFile), filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("contents"), 0o640); err != nil {
		t.Fatal(err)
	}
	// QEMU has made it by then.
	if err := blank(box, wire.MailboxSize); err != nil {
		t.Fatal(err)
	}
	c := Config{Files: map[string]string{"/etc/file": file}, Programs: []string{"sh"}}
	size, err := c.fillMailbox(box)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(box)
	if err != nil || len(text) != wire.MailboxSize {
		t.Fatalf("the mailbox has %d bytes, %v", len(text), err)
	}
	root := t.TempDir()
	if err := initramfs.Extract(text[:size], root); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "etc/file")); err != nil || string(got) != "contents" {
		t.Errorf("the file is %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/sh")); err != nil {
		t.Error(err)
	}
}

func TestAMailboxRefusesMoreThanItHolds(t *testing.T) {
	dir := t.TempDir()
	box, large := filepath.Join(dir, mailboxFile), filepath.Join(dir, "large")
	for _, name := range []string{box, large} {
		if err := blank(name, wire.MailboxSize); err != nil {
			t.Fatal(err)
		}
	}
	c := Config{Files: map[string]string{"/large": large}}
	if _, err := c.fillMailbox(box); err == nil || !strings.Contains(err.Error(), "more than 64 MiB") {
		t.Errorf("error %v, want that it is more than 64 MiB", err)
	}
	c = Config{System: &System{}, Programs: []string{"sh"}}
	if _, err := c.fillMailbox(box); err == nil || !strings.Contains(err.Error(), "no programs") {
		t.Errorf("error %v, want that a package guest takes no programs", err)
	}
}
