package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/wire"
)

var mounts = [...]struct{ kind, dir, options string }{
	{"proc", "/proc", ""},
	{"sysfs", "/sys", ""},
	{"devtmpfs", "/dev", "mode=0755"},
	{"devpts", "/dev/pts", ""},
	{"tmpfs", "/run", "mode=0755"},
	{"tmpfs", "/tmp", "mode=1777"},
}

// initialise is the work of process 1. It returns only when the agent, which
// it runs as a child, is over.
func initialise() error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, m.options); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := links(); err != nil {
		return err
	}
	os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
	os.Setenv("HOME", "/root")
	if wantsShell() {
		if err := unpack(wire.MailboxSize); err != nil {
			fmt.Fprintf(os.Stderr, "agent: the files that the test brought are missing: %v\n", err)
		}
		return reap(exec.Command("/bin/sh"))
	}
	return reap(exec.Command("/usr/bin/agent"))
}

// links makes the links in /dev that programs expect.
func links() error {
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2",
	} {
		if err := os.Symlink(target, name); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// wantsShell tells whether a person booted this guest: see the file
// reproduce.sh that a failed guest leaves.
func wantsShell() bool {
	line, err := os.ReadFile("/proc/cmdline")
	return err == nil && strings.Contains(string(line), "vmtest.shell")
}

// reap runs a child and buries every other process that ends up here.
func reap(child *exec.Cmd) error {
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := child.Start(); err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("wait: %w", err)
		}
		if pid == child.Process.Pid {
			return fmt.Errorf("%s ended, wait status %#x", child.Path, uint32(status))
		}
	}
}
