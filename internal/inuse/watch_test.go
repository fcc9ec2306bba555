package inuse

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/pci"
)

var neighbour = pci.Address{Bus: 2}

// heard gives what a Watcher tells, and whether it has told anything, with the
// end of the test at the latest.
func heard(t *testing.T, w *Watcher) <-chan []pci.Address {
	t.Helper()
	told := make(chan []pci.Address, 16)
	ended := make(chan error)
	go func() {
		for {
			devices, err := w.Wait()
			if err != nil {
				close(told)
				ended <- err
				return
			}
			told <- devices
		}
	}()
	t.Cleanup(func() {
		must(t, w.Close())
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Errorf("Wait ended with %v", err)
		}
	})
	return told
}

func newWatcher(t *testing.T, root string) *Watcher {
	t.Helper()
	w, err := NewWatcher(root)
	must(t, err)
	return w
}

func watch(t *testing.T, w *Watcher, a pci.Address, r Report, news bool) {
	t.Helper()
	got, err := w.Watch(a, r)
	if err != nil || got != news {
		t.Errorf("Watch: news %v, error %v; want %v", got, err, news)
	}
}

// files that stand for nodes.
func files(t *testing.T, names ...string) []string {
	t.Helper()
	dir := t.TempDir()
	for i, name := range names {
		names[i] = filepath.Join(dir, name)
		must(t, os.WriteFile(names[i], nil, 0o644))
	}
	return names
}

func openAndClose(t *testing.T, path string, flags int) {
	t.Helper()
	file, err := os.OpenFile(path, flags, 0)
	must(t, err)
	must(t, file.Close())
}

func used(kind Kind, nodes ...string) Report {
	return Report{Uses: []Use{{Kind: kind, Chain: []string{"nvme0n1", "somebody"}}}, nodes: nodes}
}

// A closing for reading is told only where a program has a node open. The end
// of each sequence is told, so that what was not told before is known not to
// come.
func TestTheClosingOfANodeIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		report  func(nodes ...string) Report
		reading bool
	}{
		"opened":          {func(nodes ...string) Report { return used(Open, nodes...) }, true},
		"mounted":         {func(nodes ...string) Report { return used(Mount, nodes...) }, false},
		"not blank":       {func(nodes ...string) Report { return Report{Signatures: []Signature{{Disk: "nvme0n1"}}, nodes: nodes} }, false},
		"named somewhere": {func(nodes ...string) Report { return used(Named, nodes...) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatcher(t, t.TempDir())
			told := heard(t, w)
			nodes := files(t, "nvme0n1", "ng0n1")
			watch(t, w, drive, c.report(nodes...), true)
			watch(t, w, neighbour, used(Open, files(t, "nvme1n1")...), true)
			for _, node := range nodes {
				openAndClose(t, node, os.O_RDONLY)
				if c.reading {
					wantTold(t, told, drive)
				}
				openAndClose(t, node, os.O_WRONLY)
				wantTold(t, told, drive)
			}
			if len(told) > 0 {
				t.Errorf("told of %v as well", <-told)
			}
		})
	}
}

func wantTold(t *testing.T, told <-chan []pci.Address, want ...pci.Address) {
	t.Helper()
	if got := <-told; !slices.Equal(got, want) {
		t.Errorf("told of %v, want %v", got, want)
	}
}

func TestANodeOfTwoDevicesIsToldOfBoth(t *testing.T) {
	w := newWatcher(t, t.TempDir())
	told := heard(t, w)
	node := files(t, "nvme0n1")[0]
	watch(t, w, drive, used(Open, node), true)
	watch(t, w, neighbour, used(Mount, node), true)
	openAndClose(t, node, os.O_RDONLY)
	wantTold(t, told, drive)
	openAndClose(t, node, os.O_WRONLY)
	wantTold(t, told, drive, neighbour)
	w.Forget(drive)
	openAndClose(t, node, os.O_RDONLY)
	openAndClose(t, node, os.O_WRONLY)
	wantTold(t, told, neighbour)
}

func TestOnlyWhatWasNotWatchedIsNews(t *testing.T) {
	w := newWatcher(t, t.TempDir())
	told := heard(t, w)
	nodes := files(t, "nvme0n1", "nvme0n1p1")
	watch(t, w, drive, used(Mount, nodes[0]), true)
	watch(t, w, drive, used(Swap, nodes[0]), false)
	watch(t, w, drive, used(Mount, nodes...), true)
	watch(t, w, drive, used(Mount, nodes[0]), false)
	watch(t, w, drive, used(Open, nodes[0]), true) // now readers count
	watch(t, w, drive, used(Mount, filepath.Join(t.TempDir(), "missing")), true)
	watch(t, w, drive, used(Mount, nodes[0]), true)
	w.Forget(drive)
	watch(t, w, drive, used(Mount, nodes[0]), true)
	openAndClose(t, nodes[0], os.O_WRONLY)
	wantTold(t, told, drive)
}

// An export has a directory in configfs. Nobody else can write there or remove
// it than through the kernel's file system, which is why inotify hears of it.
func TestWhatBecomesOfAnExportIsTold(t *testing.T) {
	w := newWatcher(t, t.TempDir())
	told := heard(t, w)
	dir := filepath.Join(t.TempDir(), "namespace")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "enable"), nil, 0o644))
	report := used(Export)
	report.exports = []string{dir}
	watch(t, w, drive, report, true)
	openAndClose(t, filepath.Join(dir, "enable"), os.O_RDONLY)
	openAndClose(t, filepath.Join(dir, "enable"), os.O_WRONLY)
	wantTold(t, told, drive)
	must(t, os.RemoveAll(dir))
	wantTold(t, told, drive)
}

// mounterVariable has the test binary mount and unmount, in a mount namespace
// of its own, a file system at the place that it says, for each byte that it
// reads.
const mounterVariable = "INUSE_TEST_MOUNTER"

func runMounter(place string) int {
	const private = unix.MS_REC | unix.MS_PRIVATE
	if err := unix.Mount("", "/", "", private, ""); err != nil {
		fmt.Fprintln(os.Stderr, "keep mounts to myself:", err)
		return 1
	}
	in := bufio.NewReader(os.Stdin)
	for fmt.Println("ready"); ; fmt.Println("done") {
		what, err := in.ReadByte()
		if err == io.EOF {
			return 0
		}
		switch what {
		case 'm':
			err = unix.Mount("none", place, "tmpfs", 0, "size=4k")
		case 'u':
			err = unix.Unmount(place, 0)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%c: %v\n", what, err)
			return 1
		}
	}
}

// startMounter starts a process that mounts when it is told to. It skips the
// test where the kernel gives it no mount namespace.
func startMounter(t *testing.T) (pid int, do func(what byte)) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), mounterVariable+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	if err := cmd.Start(); errors.Is(err, fs.ErrPermission) {
		t.Skipf("no private mount namespace: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		must(t, cmd.Wait())
	})
	said := bufio.NewScanner(stdout)
	do = func(what byte) {
		t.Helper()
		if _, err := stdin.Write([]byte{what}); err != nil || !said.Scan() {
			t.Fatalf("%c: %v", what, err)
		}
	}
	if !said.Scan() {
		t.Fatal("the mounter has not begun")
	}
	return cmd.Process.Pid, do
}

func TestAChangeOfTheMountsIsTold(t *testing.T) {
	pid, do := startMounter(t)
	m := newMachine(t)
	m.remove("proc")
	m.link("proc/1/mountinfo", fmt.Sprintf("/proc/%d/mountinfo", pid))
	w := newWatcher(t, m.dir)
	told := heard(t, w)
	watch(t, w, drive, used(Mount), true)
	watch(t, w, neighbour, used(Open), false)
	for _, what := range "mumu" {
		do(byte(what))
		wantTold(t, told, drive)
	}
	if len(told) > 0 {
		t.Errorf("told of %v as well", <-told)
	}
	w.Forget(drive)
	if len(w.tables) > 0 {
		t.Error("the table is still open although no device is mounted")
	}
	do('m')
	watch(t, w, drive, used(Swap), true)
	do('u')
	wantTold(t, told, drive)
}

// What a report names is what Watch goes by.
func TestALookNotesWhereTheEndOfAUseShows(t *testing.T) {
	m := newMachine(t)
	m.mount(m.partition(m.namespace(1, blank), 1), "/srv")
	report, _, err := m.look("nvme", pci.NVMe, forIdle)
	must(t, err)
	var want []string
	for _, name := range []string{"nvme0", "nvme0n1", "nvme0n1p1"} {
		want = append(want, m.path("dev/"+name))
	}
	if !slices.Equal(report.nodes, want) {
		t.Errorf("nodes %q, want %q", report.nodes, want)
	}
}
