package uevent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The tests run in a network namespace of their own: there, a test may make
// the kernel send an event that no other listener of the machine sees.
// namespaceEnv says how the namespace came out: "private", or why there is none.
const (
	namespaceEnv     = "UEVENT_TEST_NAMESPACE"
	namespacePrivate = "private"
)

func TestMain(m *testing.M) {
	if os.Getenv(namespaceEnv) == "" {
		os.Exit(runInNamespace())
	}
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, "after all tests:", err)
		code = 1
	}
	os.Exit(code)
}

// runInNamespace runs this test binary again in a new network namespace. Who
// is not root gets a new user namespace too, and is root in that.
func runInNamespace() int {
	runtime.LockOSThread() // the child dies with the thread that started it
	flags := uintptr(unix.CLONE_NEWNET)
	if os.Getuid() != 0 {
		flags |= unix.CLONE_NEWUSER
	}
	code, err := rerun(namespacePrivate, flags)
	if err == nil {
		return code
	}
	code, err = rerun(fmt.Sprintf("clone with flags %#x: %v", flags, err), 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests again:", err)
		return 1
	}
	return code
}

// rerun fails only if the process does not start.
func rerun(namespace string, flags uintptr) (code int, err error) {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), namespaceEnv+"="+namespace)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: unix.SIGKILL}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// needNamespace skips a test that injects events where the kernel gave us no
// namespace to do that in.
func needNamespace(tb testing.TB) {
	tb.Helper()
	if ns := os.Getenv(namespaceEnv); ns != namespacePrivate {
		tb.Skipf("no private network namespace: %s", ns)
	}
}

// sender is a socket that a test sends uevents from.
type sender struct {
	tb testing.TB
	fd int
}

func newSender(tb testing.TB) *sender {
	tb.Helper()
	needNamespace(tb)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	return &sender{tb: tb, fd: fd}
}

// kernel makes the kernel send payload with a SEQNUM added, as a true event of
// its own. It returns when the event is in the queue of every listener.
func (s *sender) kernel(payload string) {
	s.tb.Helper()
	s.kernelAs(os.Getuid(), payload)
}

// kernelAs is kernel for a payload that came from the user uid.
func (s *sender) kernelAs(uid int, payload string) {
	s.tb.Helper()
	creds := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(uid), Gid: uint32(os.Getgid())})
	s.send(frame(payload), creds, &unix.SockaddrNetlink{})
	ack := make([]byte, 4096)
	n, _, err := unix.Recvfrom(s.fd, ack, 0)
	if err != nil {
		s.tb.Fatal("wait for the kernel's answer:", err)
	}
	if errno := ackErrno(ack[:n]); errno != 0 {
		s.tb.Fatalf("kernel refuses to send %q: %v", payload, errno)
	}
}

// multicast sends payload to every listener without the kernel's help.
func (s *sender) multicast(payload string) {
	s.tb.Helper()
	s.send([]byte(payload), nil, &unix.SockaddrNetlink{Groups: kernelGroup})
}

// unicast sends payload to the socket of c alone.
func (s *sender) unicast(c *Conn, payload string) {
	s.tb.Helper()
	var addr unix.Sockaddr
	control(s.tb, c, func(fd int) (err error) {
		addr, err = unix.Getsockname(fd)
		return err
	})
	s.send([]byte(payload), nil, &unix.SockaddrNetlink{Pid: addr.(*unix.SockaddrNetlink).Pid})
}

func (s *sender) send(data, oob []byte, to *unix.SockaddrNetlink) {
	s.tb.Helper()
	if err := unix.Sendmsg(s.fd, data, oob, to, 0); err != nil {
		s.tb.Fatalf("send to port %d, groups %#x: %v", to.Pid, to.Groups, err)
	}
}

// control runs f with the descriptor of c.
func control(tb testing.TB, c *Conn, f func(fd int) error) {
	tb.Helper()
	var err error
	if ctlErr := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); ctlErr != nil || err != nil {
		tb.Fatal(ctlErr, err)
	}
}

// event is a message of the kernel's form, without the SEQNUM.
func event(action, path string, properties ...string) string {
	fields := append([]string{action + "@" + path, "ACTION=" + action, "DEVPATH=" + path}, properties...)
	return strings.Join(fields, "\x00") + "\x00"
}
