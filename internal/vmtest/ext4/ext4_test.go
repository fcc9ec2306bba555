package ext4_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest/ext4"
	"vfio-hotplug/internal/vmtest/kernel"
)

// blank makes an image with a file /etc/old and nothing else.
func blank(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"mke2fs", "debugfs"} {
		if _, err := exec.LookPath(kernel.Program(program)); err != nil {
			t.Skipf("%s, of the package e2fsprogs, is not there", program)
		}
	}
	tree := t.TempDir()
	if err := os.Mkdir(filepath.Join(tree, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	hostFile(t, filepath.Join(tree, "etc/old"), "old contents", 0o644)
	image := filepath.Join(t.TempDir(), "a \"disk\".img")
	out, err := exec.Command(kernel.Program("mke2fs"), "-q", "-t", "ext4", "-d", tree, image, "8M").CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	return image
}

func hostFile(t *testing.T, path, contents string, mode fs.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(contents), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	image, dir := blank(t), t.TempDir()
	script := hostFile(t, filepath.Join(dir, `a "script"`), "#!/bin/sh\n", 0o755)
	long := hostFile(t, filepath.Join(dir, "long"), strings.Repeat("0123456789", 100_000), 0o600)
	files := map[string]string{
		"/usr/lib/a name/script": script,
		"/usr/lib/long":          long,
		"/etc/old":               script,
	}
	if err := ext4.Write(t.Context(), image, files); err != nil {
		t.Fatal(err)
	}
	for name, host := range files {
		to := filepath.Join(t.TempDir(), "read")
		if err := ext4.Read(t.Context(), image, name, to); err != nil {
			t.Error(err)
			continue
		}
		want, _ := os.ReadFile(host)
		if got, err := os.ReadFile(to); err != nil || string(got) != string(want) {
			t.Errorf("%s: %d bytes, %v; want the %d bytes that were written", name, len(got), err, len(want))
		}
	}
	stat := dump(t, image, `stat "/usr/lib/a name/script"`)
	if !strings.Contains(stat, "Mode:  0755") || !strings.Contains(stat, "User:     0   Group:     0") {
		t.Errorf("the script does not belong to root with mode 0755: %s", stat)
	}
	if out, err := exec.Command(kernel.Program("e2fsck"), "-fn", image).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
}

// dump runs one command of debugfs, by itself.
func dump(t *testing.T, image, command string) string {
	t.Helper()
	out, err := exec.Command(kernel.Program("debugfs"), "-R", command, image).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestWhatCannotBeDoneIsAnError(t *testing.T) {
	image := blank(t)
	to := filepath.Join(t.TempDir(), "read")
	if err := ext4.Read(t.Context(), image, "/etc/nothing", to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read a file that is not there: %v", err)
	}
	if err := ext4.Read(t.Context(), image+"x", "/etc/old", to); err == nil {
		t.Error("an image that is not there was read")
	}
	if err := ext4.Write(t.Context(), image, map[string]string{"/etc/new": to}); err == nil {
		t.Error("a file that is not there was written")
	}
	large := hostFile(t, filepath.Join(t.TempDir(), "large"), strings.Repeat("x", 20<<20), 0o644)
	if err := ext4.Write(t.Context(), image, map[string]string{"/large": large}); err == nil {
		t.Error("20 MB were written to an image of 8 MB")
	}
	if err := ext4.Write(t.Context(), image, map[string]string{"/etc/old/new": large}); err == nil {
		t.Error("a file was written below a file")
	}
}
