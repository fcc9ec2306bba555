package uevent

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// receiveBuffer is what Listen asks for, in bytes. The kernel doubles it, and
// it then holds more than 200,000 events; memory is used only by what waits.
const receiveBuffer = 128 << 20

// Conn is a socket that the kernel sends its uevents to.
//
// Receive is for one goroutine at a time. All other methods may be called from
// any goroutine at any time, and Close and SetReadDeadline wake a Receive that
// waits. To end a Receive with a context:
//
//	stop := context.AfterFunc(ctx, func() { conn.Close() })
//	defer stop()
type Conn struct {
	file       *os.File
	raw        syscall.RawConn
	bufferSize int

	msg      *message
	read     func(fd uintptr) bool // readMessage, bound once: a method value allocates
	draining bool                  // events were lost and the queue has not been read to its end

	dropped dropCounters
	closed  atomic.Bool
}

// Listen opens a socket and starts to listen: the kernel queues every event
// from now on. The receive buffer is 128 MiB with CAP_NET_ADMIN, else as much
// of that as net.core.rmem_max allows.
func Listen() (*Conn, error) {
	fd, err := openKernelEvents()
	if err != nil {
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	if err := growBuffer(fd); err != nil {
		return nil, closeOn(fd, fmt.Errorf("set the receive buffer of the uevent socket: %w", err))
	}
	return newConn(fd)
}

// FromFile listens on a socket that somebody else opened and passed: systemd,
// for a socket unit with
//
//	ListenNetlink=kobject-uevent 1
//	ReceiveBuffer=128M
//
// Events that queued before are received. The Conn has its own descriptor, so
// f may be closed and should be, but both are one socket: it becomes
// non-blocking, credentials are switched on, and its buffer is left as its
// owner made it (see BufferSize).
func FromFile(f *os.File) (*Conn, error) {
	fd, err := duplicate(f)
	if err != nil {
		return nil, fmt.Errorf("duplicate uevent socket %s: %w", f.Name(), err)
	}
	if err := checkKernelEvents(fd); err != nil {
		return nil, closeOn(fd, fmt.Errorf("%s is no uevent socket (its unit needs \"ListenNetlink=kobject-uevent 1\"): %w", f.Name(), err))
	}
	return newConn(fd)
}

// newConn owns fd, which it closes on an error.
func newConn(fd int) (*Conn, error) {
	size, err := prepare(fd)
	if err != nil {
		return nil, closeOn(fd, fmt.Errorf("prepare uevent socket: %w", err))
	}
	file := os.NewFile(uintptr(fd), "uevent")
	raw, err := file.SyscallConn()
	if err == nil {
		// Only a file that the runtime's poller took has deadlines. Any other
		// would block a thread, and Close would not wake it.
		err = file.SetReadDeadline(time.Time{})
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("poll uevent socket: %w", err)
	}
	c := &Conn{file: file, raw: raw, bufferSize: size, msg: newMessage()}
	c.read = c.readMessage
	return c, nil
}

// SetReadDeadline sets the time at which a Receive, also one that waits now,
// ends with os.ErrDeadlineExceeded. The zero time is none.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.file.SetReadDeadline(t)
}

// Close closes the socket and wakes a Receive that waits, which then returns
// os.ErrClosed. A second Close returns os.ErrClosed itself.
func (c *Conn) Close() error {
	c.closed.Store(true)
	return c.file.Close()
}

// BufferSize is the size of the socket's receive buffer in bytes when the Conn
// was opened, as the kernel counts it: twice what was asked for, because its
// own bookkeeping is in it too.
func (c *Conn) BufferSize() int {
	return c.bufferSize
}

// Dropped counts the messages that Receive has dropped so far.
func (c *Conn) Dropped() Dropped {
	return c.dropped.snapshot()
}
