package inuse

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unprivileged runs f with the file permissions of a user who is not root. The
// thread that it does so on is not used again.
func unprivileged(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if os.Getuid() == 0 {
			unix.RawSyscall(unix.SYS_SETFSUID, 65534, 0, 0)
		}
		f()
	}()
	<-done
}

func TestTheCommandHasTheKernelsShape(t *testing.T) {
	if size := unsafe.Offsetof(adminCommand{}.data); size != ioctlAdmin>>16&0x3fff {
		t.Errorf("%d bytes, the ioctl's number says %d", size, ioctlAdmin>>16&0x3fff)
	}
}

// answer gives the list of active namespaces as a controller with these does.
func answer(active []uint32) func(*adminCommand) error {
	return func(c *adminCommand) error {
		if c.Opcode != identify || c.Word10 != activeList {
			return statusError(0x4001)
		}
		at := 0
		for _, id := range active {
			if id > c.Namespace && at < identifySize {
				binary.LittleEndian.PutUint32(c.data[at:], id)
				at += 4
			}
		}
		return nil
	}
}

func TestTheListOfNamespacesIsReadToItsEnd(t *testing.T) {
	for _, length := range []int{0, 1, 1023, 1024, 1025, 2048, 3000, mostNamespaces} {
		want := make([]uint32, length)
		for i := range want {
			want[i] = uint32(2*i + 1)
		}
		got, err := activeNamespaces(answer(want))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("of %d: %d read, error %v", length, len(got), err)
		}
	}
}

func TestAControllerThatRepeatsItselfIsAnError(t *testing.T) {
	_, err := activeNamespaces(func(c *adminCommand) error {
		for at := 0; at < identifySize; at += 4 {
			binary.LittleEndian.PutUint32(c.data[at:], 1)
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "1 after 1") {
		t.Errorf("error %v", err)
	}
}

func TestAListWithoutEndIsAnError(t *testing.T) {
	asked := 0
	_, err := activeNamespaces(func(c *adminCommand) error {
		asked++
		for at := uint32(0); at < identifySize/4; at++ {
			binary.LittleEndian.PutUint32(c.data[4*at:], c.Namespace+at+1)
		}
		return nil
	})
	if err == nil || err.Error() != "it lists more than 4096 namespaces" || asked != 5 {
		t.Errorf("asked %d times, error %v", asked, err)
	}
}

func TestTheControllersStatusIsPassedOn(t *testing.T) {
	_, err := activeNamespaces(func(*adminCommand) error { return statusError(0x4002) })
	if _, ok := errors.AsType[statusError](err); !ok {
		t.Errorf("error %v, want a statusError", err)
	}
}

// The null device is a node that every machine has.
var null = number{1, 3}

func TestOnlyTheRightNodeIsOpened(t *testing.T) {
	k := kernelNodes{}
	if _, err := k.open("/dev/null", null, true); !errors.Is(err, errStale) {
		t.Errorf("a character device as a disk: error %v", err)
	}
	if _, err := k.namespaces("/dev/null", number{240, 0}); !errors.Is(err, errStale) {
		t.Errorf("another character device: error %v", err)
	}
	if _, err := k.namespaces("/dev/null", null); !errors.Is(err, syscall.ENOTTY) {
		t.Errorf("a device that is no controller: error %v", err)
	}
	if d, err := k.device("/", "/dev/null"); err != nil || d != (device{true, null}) {
		t.Errorf("the null device is %v, error %v", d, err)
	}
	if _, err := k.device("/", "/dev"); !errors.Is(err, errNoNode) {
		t.Errorf("a directory as a device: error %v", err)
	}
	if _, err := k.device("/", "/dev/no-such-node"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no node: error %v", err)
	}
	// Where /dev is another one, so is what a link into it leads to.
	top := t.TempDir()
	must(t, os.Symlink("/dev/null", filepath.Join(top, "link")))
	if _, err := k.device(top, "/link"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link that leads nowhere below its root: error %v", err)
	}
	must(t, os.Mkdir(filepath.Join(top, "dev"), 0o755))
	must(t, os.WriteFile(filepath.Join(top, "dev/null"), nil, 0o644))
	if _, err := k.device(top, "/link"); !errors.Is(err, errNoNode) {
		t.Errorf("a link to a file below its root: error %v", err)
	}
	if _, err := k.backing("/dev/null", null); !errors.Is(err, errStale) {
		t.Errorf("a character device as a loop device: error %v", err)
	}
	if _, err := k.open("/dev/no-such-node", null, true); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("no node: error %v", err)
	}
}

func TestMountinfo(t *testing.T) {
	for _, c := range []struct {
		line string
		want mount
		ok   bool
	}{
		{"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n", mount{number{98, 0}, "/mnt2", "ext3", "/dev/root"}, true},
		{"36 35 259:12 / /a rw - xfs /dev/nvme0n1 rw\n", mount{number{259, 12}, "/a", "xfs", "/dev/nvme0n1"}, true},
		{"36 35 0:40 / /a\\040b\\134c rw shared:1 propagate_from:2 - btrfs /dev/disk/by\\011x rw\n", mount{number{0, 40}, `/a b\c`, "btrfs", "/dev/disk/by\tx"}, true},
		{"36 35 98:0 /mnt1 /mnt2 rw", mount{}, false},
		{"36 35 nonsense / /a rw - xfs /dev/nvme0n1 rw\n", mount{}, false},
		{"", mount{}, false},
	} {
		got, ok := parseMount(c.line)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%q: %+v, %v; want %+v", c.line, got, ok, c.want)
		}
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n")
	f.Add(`1 2 3:4 \0 \777 \ - - -`)
	f.Fuzz(func(t *testing.T, line string) {
		if m, ok := parseMount(line); ok && (m.fstype == "" || !strings.Contains(line, "-")) {
			t.Errorf("%q gave %+v", line, m)
		}
	})
}

func TestWhatBlkidReallySays(t *testing.T) {
	blkid, err := exec.LookPath("blkid")
	if err != nil {
		t.Skip("util-linux's blkid is not installed")
	}
	for _, c := range []struct {
		name  string
		at    map[int64]string
		want  string
		found bool
	}{
		{"nothing", nil, "", false},
		{"random text", map[int64]string{0: "hello", 1 << 20: "world"}, "", false},
		{"LUKS", map[int64]string{0: "LUKS\xba\xbe\x00\x01"}, "crypto_LUKS", true},
		{"a DOS partition table", map[int64]string{446: "\x00\x00\x02\x00\x83\x00\x08\x00\x00\x08\x00\x00\x00\x08\x00\x00", 510: "\x55\xaa"}, "a partition table (dos)", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			file, err := os.Create(path)
			must(t, err)
			defer file.Close()
			must(t, file.Truncate(diskBytes))
			for at, text := range c.at {
				_, err := file.WriteAt([]byte(text), at)
				must(t, err)
			}
			l := &look{Finder: &Finder{blkid: blkid}}
			got, err := l.probe(t.Context(), file)
			must(t, err)
			if (got != nil) != c.found || c.found && got.kind() != c.want {
				t.Errorf("found %v; want %v, %q", got, c.found, c.want)
			}
		})
	}
}

// faultyDisk cannot be read at one place.
type faultyDisk struct{ bad int64 }

func (d faultyDisk) ReadAt(b []byte, at int64) (int, error) {
	if at <= d.bad && d.bad < at+int64(len(b)) {
		return int(d.bad - at), syscall.EIO
	}
	return len(b), nil
}

func TestADiskMustBeReadableWhereSignaturesStand(t *testing.T) {
	const size = 1 << 30
	for _, c := range []struct {
		bad int64
		err bool
	}{
		{-1, false},
		{0, true},
		{4096, true},
		{headBytes - 1, true},
		{headBytes, false},
		{size / 2, false},
		{size - tailBytes - 1, false},
		{size - tailBytes, true},
		{size - 1, true},
	} {
		d := faultyDisk{c.bad}
		at, err := unreadable(d, size)
		if c.err != (err != nil) || c.err && at != c.bad {
			t.Errorf("bad at %d: found at %d, error %v; want an error: %v", c.bad, at, err, c.err)
		}
	}
	for _, size := range []int64{512, headBytes, headBytes + 512, headBytes + tailBytes} {
		d := faultyDisk{size - 1}
		if at, err := unreadable(d, size); err == nil || at != size-1 {
			t.Errorf("size %d: its last byte was not read: %d, %v", size, at, err)
		}
	}
}
