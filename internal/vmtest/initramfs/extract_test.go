package initramfs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// packed gives an archive of what fill adds.
func packed(t *testing.T, fill func(*Archive)) []byte {
	t.Helper()
	var b bytes.Buffer
	a := New(&b)
	fill(a)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestExtractGivesBackWhatWasPacked(t *testing.T) {
	root := t.TempDir()
	archive := packed(t, func(a *Archive) {
		a.File("/bin/tool", 0o755, []byte("odd"))
		a.File("/etc/secret", 0o600, nil)
		a.Symlink("/init", "bin/tool")
		a.Dir("/srv")
	})
	if err := Extract(archive, root); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"usr/bin/tool": 0o755, "etc/secret": 0o600} {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", name, info, err, mode)
		}
	}
	// Through two links.
	if text, err := os.ReadFile(filepath.Join(root, "init")); err != nil || string(text) != "odd" {
		t.Errorf("/init leads to %q, %v", text, err)
	}
	if info, err := os.Stat(filepath.Join(root, "srv")); err != nil || !info.IsDir() {
		t.Errorf("the directory: %v, %v", info, err)
	}
}

// A program that runs is replaced, not written to; directories and links stay.
func TestExtractReplacesFilesOnly(t *testing.T) {
	root := t.TempDir()
	tool := filepath.Join(root, "usr/bin/tool")
	for _, dir := range []string{"usr/bin", "lib"} { // not a link here
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(tool, []byte("before"), 0o700); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(tool)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := Extract(packed(t, func(a *Archive) { a.File("/bin/tool", 0o755, []byte("after")) }), root); err != nil {
		t.Fatal(err)
	}
	was := make([]byte, 6)
	if _, err := old.ReadAt(was, 0); err != nil || string(was) != "before" {
		t.Errorf("the old program is %q now, %v", was, err)
	}
	if now, err := os.ReadFile(tool); err != nil || string(now) != "after" {
		t.Errorf("the new program is %q, %v", now, err)
	}
	if info, err := os.Lstat(filepath.Join(root, "lib")); err != nil || !info.IsDir() {
		t.Errorf("the directory lib is %v, %v", info, err)
	}
}

func TestExtractRefusesWhatIsNoWholeArchive(t *testing.T) {
	archive := packed(t, func(a *Archive) { a.File("/file", 0o644, []byte("contents")) })
	for name, test := range map[string]struct {
		archive []byte
		want    string
	}{
		"nothing":    {nil, "no end"},
		"zeros":      {make([]byte, 1000), "no entry"},
		"half":       {archive[:bytes.Index(archive, []byte("contents"))+3], "cut off"},
		"no trailer": {archive[:bytes.Index(archive, []byte(trailer))-headerSize], "no end"},
		"not hex":    {bytes.Replace(archive, []byte("0000A1FF"), []byte("wwwwwwww"), 1), "header"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Extract(test.archive, t.TempDir())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}
