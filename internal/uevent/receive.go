package uevent

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrOverrun says that the socket's buffer was full and the kernel dropped
// events. Scan the devices again; the Conn goes on.
//
// After the first loss the kernel queues nothing more, and says nothing more,
// until the queue has been read to its end (NETLINK_S_CONGESTED). So Receive
// first discards what is queued: whatever happens after it has returned
// ErrOverrun is either seen by a scan that starts now or received as an event.
var ErrOverrun = errors.New("kernel dropped uevents, scan the devices again")

// Receive waits for the next uevent of the kernel and writes it to ev. The map
// in ev.Env is used again: it is valid until the next Receive with that ev.
// Messages that the kernel did not send, or that are not of its form, are
// dropped and counted.
//
// It returns ErrOverrun after a loss, os.ErrDeadlineExceeded after a deadline
// and os.ErrClosed after Close, each perhaps wrapped. Only one goroutine at a
// time may call it.
func (c *Conn) Receive(ev *Event) error {
	for {
		if err := c.raw.Read(c.read); err != nil {
			return c.woken(err)
		}
		if done, err := c.take(ev); done {
			return err
		}
	}
}

// readMessage reads one message; false asks the runtime to wait for the next
// one. It is one a call, so that Close and deadlines are seen between any two.
func (c *Conn) readMessage(fd uintptr) bool {
	c.msg.receive(fd)
	return c.msg.errno != unix.EAGAIN || c.draining
}

// take judges what readMessage has read: is Receive done with it?
func (c *Conn) take(ev *Event) (done bool, err error) {
	switch errno := c.msg.errno; {
	case errno == unix.ENOBUFS:
		c.draining = true
		return false, nil
	case errno == unix.EAGAIN:
		c.draining = false
		return true, ErrOverrun
	case errno != 0:
		return true, fmt.Errorf("receive uevent: %w", errno)
	case !c.msg.fromKernel():
		c.dropped.foreign.Add(1)
		return false, nil
	case c.draining:
		c.dropped.overrun.Add(1)
		return false, nil
	case c.msg.truncated():
		c.dropped.truncated.Add(1)
		return false, nil
	}
	return c.parse(ev), nil
}

func (c *Conn) parse(ev *Event) bool {
	ev.At = time.Now()
	err := Parse(c.msg.bytes(), ev)
	switch {
	case err == nil:
		return true
	case errors.Is(err, ErrUnknownAction):
		c.dropped.unknownAction.Add(1)
	default:
		c.dropped.malformed.Add(1)
	}
	return false
}

// woken names what ended the wait. The poller's own error for a closed file
// is not os.ErrClosed.
func (c *Conn) woken(err error) error {
	if c.closed.Load() {
		err = os.ErrClosed
	}
	return fmt.Errorf("receive uevent: %w", err)
}
