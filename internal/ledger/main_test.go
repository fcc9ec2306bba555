package ledger

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/pci"
)

// The test binary is also the other processes of these tests.
const roleVariable = "LEDGER_TEST_ROLE"

func TestMain(m *testing.M) {
	role, ok := roles[os.Getenv(roleVariable)]
	if !ok {
		os.Exit(m.Run())
	}
	if err := role(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var roles = map[string]func(args []string) error{
	"count": runCount,
	"hold":  runHold,
	"lock":  runLock,
	"write": runWrite,
}

// process is this binary in a role. Its standard input ends with the test.
type process struct {
	*exec.Cmd
	stdout *bufio.Reader
}

func start(t *testing.T, role string, inherited []*os.File, args ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = inherited
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return &process{cmd, bufio.NewReader(stdout)}
}

// expect waits for a line.
func (p *process) expect(t *testing.T, want string) {
	t.Helper()
	if got, err := p.stdout.ReadString('\n'); got != want {
		t.Fatalf("the other process said %q, error %v; want %q", got, err, want)
	}
}

// runLock holds the lock of a device until its standard input ends.
func runLock(args []string) error {
	l, err := Open(args[0], "/proc")
	if err != nil {
		return err
	}
	lock, err := l.Lock(bay1)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	os.Stdout.WriteString("locked\n")
	return runHold(nil)
}

// runHold keeps what it inherited open until its standard input ends.
func runHold([]string) error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// runCount adds one to the number in a file, again and again, with nothing but
// the device's lock to keep others from doing so at the same time.
func runCount(args []string) error {
	l, err := Open(args[0], "/proc")
	if err != nil {
		return err
	}
	file := args[1]
	rounds, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	for range rounds {
		lock, err := l.LockWait(context.Background(), bay1)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(text))
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(strconv.Itoa(n+1)), 0o600); err != nil {
			return err
		}
		if err := lock.Unlock(); err != nil {
			return err
		}
	}
	return nil
}

// runWrite writes two entries by turns until it is killed, and says after the
// first that it is at it.
func runWrite(args []string) error {
	l, err := Open(args[0], "/proc")
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		if err := l.Put([]Entry{small, large}[n%2]); err != nil {
			return err
		}
		if n == 0 {
			os.Stdout.WriteString("writing\n")
		}
	}
}

var (
	bay1 = pci.Address{Bus: 1}
	bay2 = pci.Address{Bus: 2}
	vmd  = pci.Address{Domain: 0x10000, Bus: 1}

	small = Entry{Address: bay1, Identity: 1 << 60, Driver: "vfio-pci", Stage: Taking}
	large = Entry{Address: bay1, Identity: 1 << 60, Driver: "vfio-pci", Stage: Taken, Rule: strings.Repeat("long name ", 300)}
)

func open(t *testing.T) *Ledger {
	t.Helper()
	l, err := Open(t.TempDir(), "/proc")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

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
