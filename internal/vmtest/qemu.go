package vmtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A qemu is a running QEMU, in a directory of its own. It dies with this
// process.
type qemu struct {
	dir        string
	agent, qmp net.Conn
	process    *os.Process
	exited     chan struct{}
	end        *os.ProcessState // how it ended; once exited is closed
}

const (
	consoleFile   = "console.log"
	qemuFile      = "qemu.log"
	kernelFile    = "vmlinuz"
	initrdFile    = "initrd"
	rootFile      = "root.img"
	reproduceFile = "reproduce.sh"
)

// launch starts QEMU with its two ports on socket pairs: no name in any file
// system, nothing left over.
func launch(dir string, args func(wiring) ([]string, error)) (*qemu, error) {
	q := &qemu{dir: dir, exited: make(chan struct{})}
	agent, agentFar, err := pair()
	if err != nil {
		return nil, err
	}
	defer agentFar.Close()
	monitor, monitorFar, err := pair()
	if err != nil {
		return nil, err
	}
	defer monitorFar.Close()
	q.agent, q.qmp = agent, monitor
	// The first of ExtraFiles is descriptor 3.
	all, err := args(wiring{console: "file,append=on,path=" + consoleFile, agent: "socket,fd=3", qmp: "socket,fd=4"})
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(dir, qemuFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(qemuProgram, all...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.ExtraFiles = []*os.File{agentFar, monitorFar}
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := q.start(cmd); err != nil {
		return nil, fmt.Errorf("start QEMU (go run ./internal/vmtest/vmsetup installs it): %w", err)
	}
	return q, nil
}

// start starts cmd and watches for its end. The signal of Pdeathsig comes when
// the thread that started it ends, so that thread waits for it.
func (q *qemu) start(cmd *exec.Cmd) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		q.process = cmd.Process
		started <- err
		if err == nil {
			cmd.Wait()
			q.end = cmd.ProcessState
		}
		close(q.exited)
	}()
	return <-started
}

// crashed reports whether QEMU, which has ended, was ended by a fault of its own.
func (q *qemu) crashed() bool {
	status, ok := q.end.Sys().(syscall.WaitStatus)
	own := []syscall.Signal{unix.SIGSEGV, unix.SIGABRT, unix.SIGBUS, unix.SIGILL, unix.SIGFPE}
	return ok && status.Signaled() && slices.Contains(own, status.Signal())
}

// kill ends QEMU at once.
func (q *qemu) kill() {
	q.process.Kill()
	<-q.exited
}

// pair gives two ends of a stream, one for us and one to hand on.
func pair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	defer near.Close()
	conn, err := net.FileConn(near)
	if err != nil {
		far.Close()
		return nil, nil, err
	}
	return conn, far, nil
}

// tail gives the last lines of a log, for an error message.
func tail(path string) string {
	lines := logLines(path)
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// lastWords gives what a kernel said when it died, else the tail of its console.
func lastWords(path string) string {
	var words []string
	for _, line := range logLines(path) {
		for _, sign := range []string{"Kernel panic", "BUG:", "Oops", "RIP: 0010"} {
			if strings.Contains(line, sign) {
				words = append(words, line)
				break
			}
		}
	}
	if words == nil {
		return tail(path)
	}
	return strings.Join(words, "\n")
}

func logLines(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Split(strings.TrimSpace(strings.ReplaceAll(string(text), "\r", "")), "\n")
}

// writeReproduce leaves a script that boots the same machine for a person,
// with a shell on the console.
func writeReproduce(dir string, args []string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "#!/bin/sh\n# The same machine with a shell; Ctrl-A X ends it, Ctrl-A C is QEMU's monitor.\ncd \"$(dirname \"$0\")\" || exit 1\nexec %s", qemuProgram)
	for _, arg := range args {
		fmt.Fprintf(&b, " \\\n\t%s", quote(arg))
	}
	b.WriteString("\n")
	return os.WriteFile(filepath.Join(dir, reproduceFile), []byte(b.String()), 0o700)
}

func quote(arg string) string { return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'" }
