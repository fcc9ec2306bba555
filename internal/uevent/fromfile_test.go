package uevent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFromFileReceivesWhatWasQueuedBefore(t *testing.T) {
	send := newSender(t)
	path := "/devices/" + t.Name()
	passed := os.NewFile(uintptr(kernelSocket(t, kernelGroup)), "LISTEN_FD_3")
	send.kernel(event("add", path+"/1"))
	send.multicast(event("add", path+"/forged"))
	send.kernel(event("add", path+"/2"))

	conn := fromFile(t, passed)
	noError(t, passed.Close()) // the Conn has its own descriptor
	var ev Event
	for _, want := range []string{path + "/1", path + "/2"} {
		receive(t, conn, path, &ev)
		if ev.KObj != want {
			t.Errorf("received %s, want %s", ev.KObj, want)
		}
	}
	if got, want := conn.Dropped(), (Dropped{Foreign: 1}); got != want {
		t.Errorf("Dropped() = %+v, want %+v", got, want)
	}
}

func TestFromFileLeavesTheQueueToItsOwner(t *testing.T) {
	send := newSender(t)
	path := "/devices/" + t.Name()
	owned := os.NewFile(uintptr(kernelSocket(t, kernelGroup)), "LISTEN_FD_3")
	defer owned.Close()
	noError(t, fromFile(t, owned).Close())
	send.kernel(event("add", path)) // nobody listens, as while a daemon restarts

	var ev Event
	receive(t, fromFile(t, owned), path, &ev)
}

func TestFromFileIsWokenHoweverBlockingTheSocketIs(t *testing.T) {
	tests := map[string]func(fd int) error{ // what happens after FromFile
		"blocking when passed":             func(int) error { return nil },
		"made blocking again by its owner": func(fd int) error { return unix.SetNonblock(fd, false) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			fd := kernelSocket(t, kernelGroup)
			passed := os.NewFile(uintptr(fd), "LISTEN_FD_3")
			defer passed.Close()
			conn := fromFile(t, passed)
			noError(t, change(fd))
			got := make(chan error)
			go func() { got <- receiveUntilError(conn) }()
			awaitReceiver(t)
			noError(t, conn.Close())
			if err := <-got; !errors.Is(err, os.ErrClosed) {
				t.Errorf("Receive = %v, want os.ErrClosed", err)
			}
		})
	}
}

func TestFromFileIsNotInherited(t *testing.T) {
	passed := os.NewFile(uintptr(kernelSocket(t, kernelGroup)), "LISTEN_FD_3")
	defer passed.Close()
	assertCloseOnExec(t, fromFile(t, passed))
}

func TestFromFileLeavesTheBufferAsItWasMade(t *testing.T) {
	passed := os.NewFile(uintptr(kernelSocket(t, kernelGroup)), "LISTEN_FD_3")
	defer passed.Close()
	conn := fromFile(t, passed)
	control(t, conn, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 50_000)
	})
	if got := fromFile(t, passed).BufferSize(); got != 100_000 {
		t.Errorf("BufferSize() = %d, want the owner's 100000", got)
	}
}

func TestFromFileRefuses(t *testing.T) {
	tests := map[string]struct {
		open func(t *testing.T) *os.File
		want string
	}{
		"a regular file": {
			func(t *testing.T) *os.File {
				f, err := os.Create(filepath.Join(t.TempDir(), "file"))
				noError(t, err)
				return f
			},
			"socket operation on non-socket",
		},
		"a pipe": {
			func(t *testing.T) *os.File {
				r, w, err := os.Pipe()
				noError(t, err)
				noError(t, w.Close())
				return r
			},
			"socket operation on non-socket",
		},
		"a UNIX socket": {
			func(t *testing.T) *os.File {
				return os.NewFile(uintptr(socket(t, unix.AF_UNIX, unix.SOCK_DGRAM, 0)), "unix")
			},
			"its address family is 1, not netlink",
		},
		"a route socket": {
			func(t *testing.T) *os.File {
				return os.NewFile(uintptr(socket(t, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)), "route")
			},
			"its netlink protocol is 0, not kobject-uevent",
		},
		"a socket of no group": {
			func(t *testing.T) *os.File {
				return os.NewFile(uintptr(socket(t, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT)), "deaf")
			},
			"bound to groups 0x0, not 0x1",
		},
		"a socket of udev's group": {
			func(t *testing.T) *os.File { return os.NewFile(uintptr(kernelSocket(t, 2)), "udev") },
			"bound to groups 0x2, not 0x1",
		},
		"a socket of both groups": {
			func(t *testing.T) *os.File { return os.NewFile(uintptr(kernelSocket(t, 3)), "both") },
			"bound to groups 0x3, not 0x1",
		},
		"a closed file": {
			func(t *testing.T) *os.File {
				f, err := os.Open(os.DevNull)
				noError(t, err)
				noError(t, f.Close())
				return f
			},
			"use of closed file",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := test.open(t)
			defer f.Close()
			conn, err := FromFile(f)
			if err == nil {
				t.Fatalf("FromFile took it: %v", conn.Close())
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), f.Name()) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line with %q and the file's name %q", err, test.want, f.Name())
			}
		})
	}
}

func fromFile(t *testing.T, f *os.File) *Conn {
	t.Helper()
	conn, err := FromFile(f)
	noError(t, err)
	t.Cleanup(func() {
		if err := conn.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return conn
}

// kernelSocket opens a blocking uevent socket as systemd does, for the groups
// of that mask.
func kernelSocket(t *testing.T, groups uint32) int {
	t.Helper()
	fd := socket(t, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT)
	noError(t, unix.Bind(fd, &unix.SockaddrNetlink{Groups: groups}))
	return fd
}
