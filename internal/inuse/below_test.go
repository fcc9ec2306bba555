package inuse

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A path is followed as process 1 would, whose root need not be ours.
func TestAPathIsFollowedBelowItsRoot(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"dev/disk", "mnt"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o700))
	}
	node := filepath.Join(root, "dev/node")
	must(t, os.WriteFile(node, nil, 0o600))
	for link, target := range map[string]string{
		"dev/disk/absolute": "/dev/node", "dev/disk/relative": "../node", "dev/disk/out": "../../../../dev/node",
		"mnt/dir": "/dev/disk", "mnt/twice": "dir/absolute", "mnt/loop": "loop", "mnt/nowhere": "/dev/gone",
	} {
		must(t, os.Symlink(target, filepath.Join(root, link)))
	}
	want, err := os.Stat(node)
	must(t, err)
	top, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(top)
	for path, wantErr := range map[string]error{
		"/dev/node": nil, "dev/./node": nil, "/dev/disk/absolute": nil, "/dev/disk/relative": nil, "/dev/disk/out": nil,
		"/mnt/dir/absolute": nil, "/mnt/twice": nil, "/../dev/node": nil, "/mnt/dir/../../dev/node": nil,
		"/mnt/loop": unix.ELOOP, "/mnt/nowhere": unix.ENOENT, "/dev/node/below": unix.ENOTDIR,
	} {
		fd, err := openBelow(top, path)
		if err != wantErr {
			t.Errorf("%s: error %v, want %v", path, err, wantErr)
		}
		if err != nil {
			continue
		}
		file := os.NewFile(uintptr(fd), path)
		if got, err := file.Stat(); err != nil || !os.SameFile(got, want) {
			t.Errorf("%s leads to %v, %v", path, got, err)
		}
		file.Close()
	}
}

func TestFollowingAPathLeavesNothingOpen(t *testing.T) {
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(names)
	}
	top, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(top)
	before := count()
	for _, path := range []string{"/dev/null", "/proc/self/fd/0", "/dev/gone", "/usr/bin/../bin"} {
		if fd, err := openBelow(top, path); err == nil {
			unix.Close(fd)
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors are open, were %d", after, before)
	}
}
