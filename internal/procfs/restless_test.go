package procfs

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// holderVariable has the test binary open and map the file that it says. Its first
// thread ends when it reads a byte, and all of it when there is no more to read.
const holderVariable = "PROCFS_TEST_HOLDER"

func init() {
	if os.Getenv(holderVariable) != "" {
		runtime.LockOSThread() // TestMain runs on the first thread
	}
}

func TestMain(m *testing.M) {
	if file := os.Getenv(holderVariable); file != "" {
		os.Exit(hold(file))
	}
	os.Exit(m.Run())
}

func hold(name string) int {
	file, err := os.Open(name)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if _, err = unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		fmt.Println(err)
		return 1
	}
	in := bufio.NewReader(os.Stdin)
	fmt.Println("holds it")
	if _, err := in.ReadByte(); err != nil {
		return 0
	}
	go func() {
		_, _ = io.ReadAll(in)
		os.Exit(0)
	}()
	_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
	return 1
}

// holder starts a process that has a file open and mapped. endFirst ends its
// first thread, and waits for that.
func holder(t *testing.T) (pid int, file string, endFirst func()) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "held")
	must(t, os.WriteFile(file, make([]byte, 4096), 0o644))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holderVariable+"="+file)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		must(t, cmd.Wait())
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "holds it\n" {
		t.Fatalf("the holder says %q, %v", line, err)
	}
	pid = cmd.Process.Pid
	return pid, file, func() {
		_, err := in.Write([]byte{'x'})
		must(t, err)
		for state := ""; !strings.Contains(state, ") Z "); {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			must(t, err)
			state = string(text)
			time.Sleep(time.Millisecond)
		}
	}
}

func TestWhatAProcessHasOutlivesItsFirstThread(t *testing.T) {
	pid, file, endFirst := holder(t)
	endFirst()
	if targets := descriptors(t, pid); !slices.Contains(targets, file) {
		t.Errorf("%s is not among the descriptors %q", file, targets)
	}
	if targets := mapped(t, pid); !slices.Contains(targets, file) {
		t.Errorf("%s is not among the mappings %q", file, targets)
	}
}

// The thread by which a table is read ends, and the others still have it.
func TestATableIsReadThoughTheThreadEndsByWhichItIsRead(t *testing.T) {
	for name, refusal := range map[string]error{"forgotten": nil, "refused": syscall.EACCES} {
		t.Run(name, func(t *testing.T) {
			pid, file, endFirst := holder(t)
			var targets []string
			must(t, proc.Descriptors(pid, func(link string) error {
				if endFirst != nil {
					endFirst()
					endFirst = nil
				}
				target, err := os.Readlink(link)
				targets = append(targets, target)
				if err != nil && refusal != nil { // as the kernel may answer meanwhile
					err = refusal
				}
				return err
			}))
			if !slices.Contains(targets, file) {
				t.Errorf("%s is not among %q", file, targets)
			}
		})
	}
}

func TestAThreadThatMayNotBeLookedIntoIsNotOneThatHasEnded(t *testing.T) {
	pid, _, _ := holder(t)
	err := proc.Descriptors(pid, func(string) error { return syscall.EACCES })
	if !errors.Is(err, syscall.EACCES) {
		t.Errorf("error %v", err)
	}
	err = proc.Mappings(pid, func(string, string) error { return syscall.EPERM })
	if !errors.Is(err, syscall.EPERM) {
		t.Errorf("error %v", err)
	}
}

// A piece of memory that is split or joined has another name from then on.
func TestAMappingIsFollowedThoughItsPiecesChange(t *testing.T) {
	for name, c := range map[string]struct {
		change func(memory []byte) error
		end    error // what is said of where the mapping leads, nil for the truth
		want   error
		found  bool
	}{
		"split":      {change: func(memory []byte) error { return unix.Mprotect(memory[:len(memory)/2], unix.PROT_NONE) }, found: true},
		"unmapped":   {change: unix.Munmap},
		"never seen": {change: func([]byte) error { return nil }, end: syscall.ENOENT, want: ErrRestless},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "mapped")
			must(t, os.WriteFile(file, make([]byte, 2*os.Getpagesize()), 0o644))
			open, err := os.Open(file)
			must(t, err)
			memory, err := unix.Mmap(int(open.Fd()), 0, 2*os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
			must(t, err)
			defer unix.Munmap(memory)
			must(t, open.Close())
			changed, found := false, false
			err = proc.Mappings(os.Getpid(), func(name, link string) error {
				if !strings.HasSuffix(name, file) {
					return nil
				}
				if !changed {
					changed = true
					must(t, c.change(memory))
				}
				target, err := os.Readlink(link)
				found = found || target == file
				return cmp.Or(c.end, err)
			})
			if !errors.Is(err, c.want) || c.want == nil && found != c.found {
				t.Errorf("error %v, found %v; want %v, %v", err, found, c.want, c.found)
			}
		})
	}
}

// made is a procfs of processes that have no more than a directory.
func made(t *testing.T, pids ...int) Dir {
	t.Helper()
	dir := Dir(t.TempDir())
	for _, pid := range pids {
		must(t, os.Mkdir(dir.of(pid), 0o755))
	}
	return dir
}

func TestAProcessThatStartsMeanwhileIsVisited(t *testing.T) {
	dir := made(t, 10, 20, 30)
	var visited []int
	must(t, dir.EachProcess(func(pid int) {
		visited = append(visited, pid)
		if pid == 10 { // 20 has forked, and ended
			must(t, os.Mkdir(dir.of(5), 0o755))
			must(t, os.Remove(dir.of(20)))
		}
	}))
	if want := []int{10, 20, 30, 5}; !slices.Equal(visited, want) {
		t.Errorf("visited %v, want %v", visited, want)
	}
}

func TestProcessesThatComeWithoutEndAreAnError(t *testing.T) {
	dir := made(t, 10)
	err := dir.EachProcess(func(pid int) { must(t, os.Mkdir(dir.of(pid+1), 0o755)) })
	if !errors.Is(err, ErrRestless) {
		t.Errorf("error %v", err)
	}
}
