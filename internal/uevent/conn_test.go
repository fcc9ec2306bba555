package uevent

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAWaitingReceiveIsWoken(t *testing.T) {
	tests := map[string]struct {
		wake func(t *testing.T, c *Conn)
		want error
	}{
		"by Close": {
			func(t *testing.T, c *Conn) { noError(t, c.Close()) },
			os.ErrClosed,
		},
		"by a deadline": {
			func(t *testing.T, c *Conn) { noError(t, c.SetReadDeadline(time.Now())) },
			os.ErrDeadlineExceeded,
		},
		"by a context": {
			func(t *testing.T, c *Conn) {
				ctx, cancel := context.WithCancel(t.Context())
				context.AfterFunc(ctx, func() { _ = c.Close() })
				cancel()
			},
			os.ErrClosed,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			conn := listen(t)
			got := make(chan error)
			go func() { got <- receiveUntilError(conn) }()
			awaitReceiver(t)
			test.wake(t, conn)
			if err := <-got; !errors.Is(err, test.want) {
				t.Errorf("Receive = %v, want %v", err, test.want)
			}
		})
	}
}

func TestReceiveOnAClosedConn(t *testing.T) {
	conn := listen(t)
	noError(t, conn.Close())
	if err := conn.Receive(new(Event)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Receive = %v, want os.ErrClosed", err)
	}
	if err := conn.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close = %v, want os.ErrClosed", err)
	}
}

func TestReceiveGoesOnAfterADeadline(t *testing.T) {
	send, conn := newSender(t), listen(t)
	noError(t, conn.SetReadDeadline(time.Unix(1, 0)))
	var ev Event
	if err := conn.Receive(&ev); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Receive = %v, want os.ErrDeadlineExceeded", err)
	}
	path := "/devices/" + t.Name()
	send.kernel(event("add", path))
	receive(t, conn, path, &ev)
}

func TestListenIsNotInherited(t *testing.T) {
	assertCloseOnExec(t, listen(t))
}

func TestListenGrowsTheBuffer(t *testing.T) {
	fd := socket(t, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT)
	defer unix.Close(fd)
	small, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	noError(t, err)

	conn := listen(t)
	control(t, conn, func(fd int) error {
		size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		if conn.BufferSize() != size {
			t.Errorf("BufferSize() = %d, the kernel says %d", conn.BufferSize(), size)
		}
		return err
	})
	want, why := small+1, "more than the default, without CAP_NET_ADMIN"
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) == nil {
		want, why = 256<<20, "128 MiB doubled, with CAP_NET_ADMIN"
	}
	if conn.BufferSize() < want {
		t.Errorf("BufferSize() = %d, want at least %d: %s", conn.BufferSize(), want, why)
	}
}

func TestConnLeaksNoDescriptor(t *testing.T) {
	noError(t, listen(t).Close()) // the runtime's poller opens its own, once
	passed := os.NewFile(uintptr(kernelSocket(t, kernelGroup)), "passed")
	defer passed.Close()
	wrong := os.NewFile(uintptr(kernelSocket(t, 2)), "wrong")
	defer wrong.Close()

	before := openDescriptors(t)
	for range 10 {
		conn, err := Listen()
		noError(t, err)
		noError(t, conn.Close())
		conn, err = FromFile(passed)
		noError(t, err)
		noError(t, conn.Close())
		if _, err := FromFile(wrong); err == nil {
			t.Fatal("FromFile took a socket of udev's group")
		}
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}

func assertCloseOnExec(t *testing.T, conn *Conn) {
	t.Helper()
	control(t, conn, func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if flags&unix.FD_CLOEXEC == 0 {
			t.Error("FD_CLOEXEC is not set")
		}
		return err
	})
}

// receiveUntilError passes over what the machine's own devices send.
func receiveUntilError(conn *Conn) error {
	var ev Event
	for {
		if err := conn.Receive(&ev); err != nil {
			return err
		}
	}
}

// awaitReceiver returns when a goroutine waits for the socket in Receive.
func awaitReceiver(t *testing.T) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for t.Context().Err() == nil {
		for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(stack, "[IO wait") && strings.Contains(stack, "(*Conn).Receive(") {
				return
			}
		}
		runtime.Gosched()
	}
}

func socket(t *testing.T, domain, kind, protocol int) int {
	t.Helper()
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
	noError(t, err)
	return fd
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	noError(t, err)
	return len(entries)
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
