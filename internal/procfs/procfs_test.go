package procfs

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const proc = Dir("/proc")

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// descriptors gives where those of a process lead.
func descriptors(t *testing.T, pid int) (targets []string) {
	t.Helper()
	must(t, proc.Descriptors(pid, func(link string) error {
		target, err := os.Readlink(link)
		targets = append(targets, target)
		return err
	}))
	return targets
}

// mappings gives the files that a process has mapped.
func mapped(t *testing.T, pid int) (targets []string) {
	t.Helper()
	must(t, proc.Mappings(pid, func(_, link string) error {
		target, err := os.Readlink(link)
		targets = append(targets, target)
		return err
	}))
	return targets
}

func TestWeAreAProcess(t *testing.T) {
	if self := proc.Self(); self != os.Getpid() {
		t.Errorf("we are process %d, not %d", self, os.Getpid())
	}
	p, err := proc.Process(os.Getpid())
	must(t, err)
	if p.Command == "" || p.Parent != os.Getppid() {
		t.Errorf("we are %+v", p)
	}
	times := 0
	must(t, proc.EachProcess(func(pid int) {
		if pid == os.Getpid() {
			times++
		}
	}))
	if times != 1 {
		t.Errorf("we were visited %d times", times)
	}
}

// A thread opens a file when it has a table of its own: the process's own
// directory does not show it.
func TestADescriptorOfAThreadWithATableOfItsOwnIsFound(t *testing.T) {
	file := filepath.Join(t.TempDir(), "open")
	must(t, os.WriteFile(file, nil, 0o644))
	opened, looked := make(chan error), make(chan struct{})
	go onAThreadOfItsOwn(func() {
		err := unix.Unshare(unix.CLONE_FILES)
		if err == nil {
			_, err = unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		opened <- err
		<-looked
	})
	must(t, <-opened)
	defer close(looked)
	if targets := descriptors(t, os.Getpid()); !slices.Contains(targets, file) {
		t.Errorf("%s is not among %q", file, targets)
	}
	names, err := names("/proc/self/fd")
	must(t, err)
	for _, name := range names {
		if target, _ := os.Readlink("/proc/self/fd/" + name); target == file {
			t.Error("the first thread has it too: this test proves nothing")
		}
	}
}

// onAThreadOfItsOwn runs f on a thread that is not the first of the process, and ends
// with f.
func onAThreadOfItsOwn(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		onAThreadOfItsOwn(f)
	}()
	<-ended
}

// Threads that share a table are not read one by one, where the kernel compares.
func TestASharedTableIsReadOnce(t *testing.T) {
	if _, err := compareTables(os.Getpid(), os.Getpid()); err == unix.ENOSYS {
		t.Skip("this kernel was built without kcmp (CONFIG_KCMP)")
	} else if err != nil {
		t.Fatal(err)
	}
	var running, end = make(chan struct{}), make(chan struct{})
	defer close(end)
	for range 20 {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			running <- struct{}{}
			<-end
		}()
		<-running
	}
	// With a thread that ends meanwhile no other can be compared, and all are read:
	// then once more.
	var all []int
	var tables []int
	for began := time.Now(); time.Since(began) < 10*time.Second; {
		var err error
		all, err = proc.threads(os.Getpid())
		must(t, err)
		tables, err = proc.tables(os.Getpid(), nil)
		must(t, err)
		if len(all) > 20 && len(tables) <= len(all)-20 { // of another test one may be left with a table of its own
			return
		}
	}
	t.Errorf("%d tables of %d threads: %v", len(tables), len(all), tables)
}

func TestTablesAreToldApartWithFewComparisons(t *testing.T) {
	of := map[int]int{} // the table of each thread
	var threads []int
	for thread := range 1000 {
		of[thread] = thread % 500 * 7919 % 500
		threads = append(threads, thread)
	}
	compared := 0
	got := distinct(threads, func(a, b int) (int, error) {
		compared++
		return of[a] - of[b], nil
	})
	if len(got) != 500 || compared > 10000 {
		t.Errorf("%d tables after %d comparisons, want 500 and no more than 10 for each thread", len(got), compared)
	}
	if got := distinct(threads, func(int, int) (int, error) { return 0, unix.ENOSYS }); len(got) != 1000 {
		t.Errorf("%d tables where none can be compared, want every thread's", len(got))
	}
}

func TestAMappingOutlivesItsDescriptor(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "a file with blanks"))
	must(t, err)
	must(t, file.Truncate(4096))
	memory, err := unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(memory)
	must(t, file.Close())
	if targets := mapped(t, os.Getpid()); !slices.Contains(targets, file.Name()) {
		t.Errorf("%s is not among %q", file.Name(), targets)
	}
}

func TestALineOfMaps(t *testing.T) {
	for line, want := range map[string][2]string{
		"00400000-00452000 r-xp 00000000 08:02 173521                             /usr/bin/dbus daemon":   {"400000-452000", "08:02 173521                             /usr/bin/dbus daemon"},
		"00000000-00001000 r-xp 00000000 08:02 7                                  /a":                     {"0-1000", "08:02 7                                  /a"},
		"7f15a0000000-7f15a0001000 rw-s 00000000 00:05 4711                       /dev/nvme0n1 (deleted)": {"7f15a0000000-7f15a0001000", "00:05 4711                       /dev/nvme0n1 (deleted)"},
		"00e03000-00e24000 rw-p 00000000 00:00 0                                  [heap]":                 {},
		"7ffd1d9d1000-7ffd1d9f2000 rw-p 00000000 00:00 0 ":                                                {},
		"":  {},
		"-": {},
	} {
		at, file := parseMapping([]byte(line))
		if at != want[0] || string(file) != want[1] {
			t.Errorf("%q: %q, %q", line, at, file)
		}
	}
}

func TestAProcessThatHasEndedHasNothing(t *testing.T) {
	ended := Dir(t.TempDir())
	must(t, ended.Descriptors(1, func(link string) error { return fmt.Errorf("it has %s", link) }))
	must(t, ended.Mappings(1, func(file, _ string) error { return fmt.Errorf("it has %s", file) }))
}
