package sysfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// grow makes a directory of files, and of links where the content begins with
// "-> ".
func grow(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		at := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(at), 0o755))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			must(t, os.Symlink(target, at))
			continue
		}
		must(t, os.WriteFile(at, []byte(content), 0o644))
	}
	return root
}

func openRoot(t *testing.T, root string) Dir {
	t.Helper()
	d, err := OpenRoot(root)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sample is a root with a device, its link and an attribute longer than a page.
func sample(t *testing.T) (root string, d Dir) {
	t.Helper()
	root = grow(t, map[string]string{
		"devices/d0/vendor":  "0x144d\n",
		"devices/d0/config":  strings.Repeat("c", pageSize+1),
		"bus/pci/devices/d0": "-> ../../../devices/d0",
		"bus/pci/probe":      "",
	})
	return root, openRoot(t, root)
}

func TestRootReads(t *testing.T) {
	_, d := sample(t)
	for _, test := range []struct{ name, want string }{
		{"devices/d0/vendor", "0x144d\n"},
		{"bus/pci/devices/d0/vendor", "0x144d\n"},
		{"bus/pci/probe", ""},
		{"devices/d0/config", strings.Repeat("c", pageSize)},
	} {
		if got, err := d.Read(test.name); err != nil || got != test.want {
			t.Errorf("%s reads %.20q, %v, want %.20q", test.name, got, err, test.want)
		}
	}
	if got, err := d.Readlink("bus/pci/devices/d0"); err != nil || got != "../../../devices/d0" {
		t.Errorf("link is %q, %v", got, err)
	}
	names, err := d.List("devices/d0")
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"config", "vendor"}) {
		t.Errorf("list is %v, %v", names, err)
	}
}

func TestListIsWhole(t *testing.T) {
	files := map[string]string{}
	for i := range 700 { // more than one call of getdents gives
		files["dir/"+strings.Repeat("n", 20)+string(rune('a'+i%26))+strings.Repeat("x", i/26)] = ""
	}
	names, err := openRoot(t, grow(t, files)).List("dir")
	if err != nil || len(names) != len(files) {
		t.Errorf("%d names, %v, want %d", len(names), err, len(files))
	}
}

func TestErrorsNameThePathAndTheErrno(t *testing.T) {
	root, d := sample(t)
	read := func(name string) error { _, err := d.Read(name); return err }
	open := func(name string) error { _, err := d.Open(name); return err }
	list := func(name string) error { _, err := d.List(name); return err }
	readlink := func(name string) error { _, err := d.Readlink(name); return err }
	count := func(name string) error { _, err := d.Subdirs(name); return err }
	write := func(name string) error { return d.Write(name, "x") }
	for _, test := range []struct {
		what string
		do   func(string) error
		name string
		want syscall.Errno
	}{
		{"read what is not there", read, "bus/none", syscall.ENOENT},
		{"open what is not there", open, "bus/none", syscall.ENOENT},
		{"list what is not there", list, "bus/none", syscall.ENOENT},
		{"readlink of what is not there", readlink, "bus/none", syscall.ENOENT},
		{"write to what is not there", write, "bus/none", syscall.ENOENT},
		{"open a file", open, "bus/pci/probe", syscall.ENOTDIR},
		{"list a file", list, "bus/pci/probe", syscall.ENOTDIR},
		{"count below what is not there", count, "bus/none", syscall.ENOENT},
		{"count outside the root", count, "/etc", syscall.EINVAL},
		{"read a directory", read, "bus/pci", syscall.EISDIR},
		{"write to a directory", write, "bus/pci", syscall.EISDIR},
		{"readlink of a file", readlink, "bus/pci/probe", syscall.EINVAL},
		{"read outside the root", read, "/etc/hostname", syscall.EINVAL},
		{"open outside the root", open, "/etc", syscall.EINVAL},
		{"write outside the root", write, root + "/bus/pci/probe", syscall.EINVAL},
		{"readlink outside the root", readlink, "/proc/self", syscall.EINVAL},
	} {
		err := test.do(test.name)
		var where *fs.PathError
		if !errors.Is(err, test.want) || !errors.As(err, &where) || where.Path != filepath.Join(root, test.name) {
			t.Errorf("%s: %v, want %v at %s", test.what, err, test.want, filepath.Join(root, test.name))
		}
	}
	if _, err := OpenRoot(root + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open a root that is not there: %v", err)
	}
}

func TestWriteNeverMakesAFile(t *testing.T) {
	root, d := sample(t)
	if err := d.Write("bus/pci/none", "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write: %v, want %v", err, fs.ErrNotExist)
	}
	if _, err := os.Lstat(root + "/bus/pci/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
}

func TestWriteIsOneCall(t *testing.T) {
	root, d := sample(t)
	pipe := root + "/bus/pci/bind"
	must(t, unix.Mkfifo(pipe, 0o600))
	reader, err := os.OpenFile(pipe, os.O_RDWR, 0)
	must(t, err)
	defer reader.Close()
	must(t, d.Write("bus/pci/bind", "0000:01:00.0"))
	buf := make([]byte, 100)
	if n, err := reader.Read(buf); err != nil || string(buf[:n]) != "0000:01:00.0" {
		t.Errorf("written: %q, %v", buf[:n], err)
	}
}

func TestHandleStaysWithItsDirectory(t *testing.T) {
	root, d := sample(t)
	old, err := d.Open("bus/pci/devices/d0")
	must(t, err)
	defer old.Close()
	again, err := d.Open("devices/d0")
	must(t, err)
	defer again.Close()
	if a, b := identity(t, old), identity(t, again); a != b {
		t.Errorf("one directory has the identities %d and %d", a, b)
	}

	must(t, os.RemoveAll(root+"/devices/d0"))
	must(t, os.MkdirAll(root+"/devices/d0", 0o755))
	must(t, os.WriteFile(root+"/devices/d0/vendor", []byte("0x8086\n"), 0o644))

	if _, err := old.Read("vendor"); !Gone(err) {
		t.Errorf("read through the old handle: %v, want that it is gone", err)
	}
	if err := old.Write("vendor", "x"); !Gone(err) {
		t.Errorf("write through the old handle: %v, want that it is gone", err)
	}
	fresh, err := d.Open("devices/d0")
	must(t, err)
	defer fresh.Close()
	if identity(t, fresh) == identity(t, old) {
		t.Error("the new directory has the identity of the old one")
	}
	if got, err := d.Read("devices/d0/vendor"); err != nil || got != "0x8086\n" {
		t.Errorf("the newcomer's attribute is %q, %v", got, err)
	}
}

func identity(t *testing.T, d Dir) uint64 {
	t.Helper()
	id, err := d.Identity()
	must(t, err)
	return id
}

func TestClosedDirAnswersEBADF(t *testing.T) {
	_, d := sample(t)
	must(t, d.Close())
	must(t, d.Close())
	for what, do := range map[string]func() error{
		"open":     func() error { _, err := d.Open("bus"); return err },
		"read":     func() error { _, err := d.Read("bus/pci/probe"); return err },
		"write":    func() error { return d.Write("bus/pci/probe", "x") },
		"readlink": func() error { _, err := d.Readlink("bus/pci/devices/d0"); return err },
		"list":     func() error { _, err := d.List("bus"); return err },
		"count":    func() error { _, err := d.Subdirs("bus"); return err },
		"identity": func() error { _, err := d.Identity(); return err },
	} {
		if err := do(); !errors.Is(err, syscall.EBADF) {
			t.Errorf("%s: %v, want %v", what, err, syscall.EBADF)
		}
	}
}

// A call that comes as the Dir is closed must not reach whatever gets the
// descriptor's number next.
func TestCloseDuringCalls(t *testing.T) {
	root, _ := sample(t)
	other := grow(t, map[string]string{"devices/d0/vendor": "another root\n"})
	for range 200 {
		d, err := OpenRoot(root)
		must(t, err)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				got, err := d.Read("devices/d0/vendor")
				if err == nil && got != "0x144d\n" || err != nil && !errors.Is(err, syscall.EBADF) {
					t.Errorf("read %q, %v", got, err)
				}
			})
		}
		all.Go(func() {
			d.Close()
			next, err := OpenRoot(other)
			if err != nil {
				t.Error(err)
				return
			}
			next.Close()
		})
		all.Wait()
	}
}

func TestDescriptorsCloseOnExec(t *testing.T) {
	_, d := sample(t)
	below, err := d.Open("bus/pci")
	must(t, err)
	defer below.Close()
	for _, dir := range []Dir{d, below} {
		flags, err := unix.FcntlInt(uintptr(dir.(*kernelDir).fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: descriptor flags %#x, %v, want FD_CLOEXEC", dir.Path(), flags, err)
		}
	}
}

func TestCallsLeaveNoDescriptorOpen(t *testing.T) {
	_, d := sample(t)
	before := descriptors(t)
	for range 3 {
		for _, name := range []string{"devices/d0", "devices/d0/vendor", "none", "bus/pci/devices/d0"} {
			_, _ = d.Read(name)
			_, _ = d.Readlink(name)
			_, _ = d.List(name)
			_ = d.Write(name, "x")
			if below, err := d.Open(name); err == nil {
				must(t, below.Close())
			}
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d were", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(all)
}
