package initramfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// list reads an archive as the kernel does, and gives a line for each entry.
func list(t *testing.T, archive []byte) []string {
	t.Helper()
	var entries []string
	for len(archive) > 0 {
		var field [13]int
		if string(archive[:6]) != "070701" {
			t.Fatalf("header begins with %q", archive[:6])
		}
		for i := range field {
			if _, err := fmt.Sscanf(string(archive[6+8*i:14+8*i]), "%x", &field[i]); err != nil {
				t.Fatal(err)
			}
		}
		mode, size, nameSize := field[1], field[6], field[11]
		name := string(archive[110 : 110+nameSize-1])
		start := (110 + nameSize + 3) &^ 3
		contents := string(archive[start : start+size])
		archive = archive[(start+size+3)&^3:]
		entries = append(entries, strings.TrimSpace(fmt.Sprintf("%o %s %s", mode, name, contents)))
	}
	return entries
}

func TestArchive(t *testing.T) {
	var b bytes.Buffer
	a := New(&b)
	a.File("/bin/tool", 0o755, []byte("x"))
	a.File("/bin/other", 0o640, nil)
	a.Symlink("/init", "bin/tool")
	a.Dir("/root")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"120777 bin usr/bin", "120777 sbin usr/sbin", "120777 lib usr/lib", "120777 lib64 usr/lib64",
		"40755 usr", "40755 usr/bin", "100755 usr/bin/tool x", "100640 usr/bin/other",
		"120777 init bin/tool", "40755 root", "0 TRAILER!!!",
	}
	if diff := cmp.Diff(want, list(t, b.Bytes())); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestArchiveGivesTheFirstError(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	a := New(full)
	a.Dir("/x")
	if err := a.Close(); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("error %v, want ENOSPC", err)
	}
}

func TestProgramBringsItsLibraries(t *testing.T) {
	var b bytes.Buffer
	a := New(&b)
	if err := a.Program("/usr/bin/shell", "/bin/sh"); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range list(t, b.Bytes()) {
		mode, rest, _ := strings.Cut(entry, " ")
		if name, _, _ := strings.Cut(rest, " "); strings.HasPrefix(mode, "100") {
			names = append(names, filepath.Base(name))
		}
	}
	for _, want := range []string{"shell", "ld-linux-x86-64.so.2", "libc.so.6"} {
		if !strings.Contains(strings.Join(names, " "), want) {
			t.Errorf("no %s among %q", want, names)
		}
	}
}

func TestAMissingLibraryIsNamed(t *testing.T) {
	if _, err := library("libnothing.so.9"); err == nil || !strings.Contains(err.Error(), "libnothing.so.9") {
		t.Errorf("error %v does not name the library", err)
	}
}
