// Package qmp talks to QEMU's monitor: the QEMU Machine Protocol, JSON
// objects a line (QEMU's docs/interop/qmp-spec.txt).
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// An Error is QEMU's refusal of a command.
type Error struct {
	Command string
	Class   string `json:"class"` // such as DeviceNotFound or GenericError
	Desc    string `json:"desc"`
}

func (e *Error) Error() string { return fmt.Sprintf("qmp %s: %s", e.Command, e.Desc) }

// An Event is something that happened in QEMU, such as DEVICE_DELETED.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// ErrClosed is the reason that commands and waits end when QEMU is gone.
var ErrClosed = errors.New("QEMU closed its monitor")

// A Conn is a connection to a monitor. Its methods may be called by several
// goroutines at once.
type Conn struct {
	conn io.ReadWriteCloser

	mu      sync.Mutex
	next    int
	waiting map[int]chan message
	events  []Event
	news    chan struct{} // closed at each event
	closed  chan struct{}
}

type message struct {
	Event
	ID     *int            `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

// New negotiates on a fresh connection to a monitor and owns it from then on.
func New(ctx context.Context, conn net.Conn) (*Conn, error) {
	c := &Conn{conn: conn, waiting: map[int]chan message{}, news: make(chan struct{}), closed: make(chan struct{})}
	go c.receive()
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the connection. The machine goes on.
func (c *Conn) Close() error { return c.conn.Close() }

// Closed is closed when the connection has ended.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// Execute runs a command. args is what the command takes, nil for nothing;
// result, unless nil, is filled with what it returns. A refusal is an *Error.
func (c *Conn) Execute(ctx context.Context, command string, args, result any) error {
	return c.execute(ctx, command, args, result, c.conn.Write)
}

// GiveFile gives QEMU a copy of a file, under a name for other commands (getfd in
// QEMU's QMP reference). The monitor has to be on a unix socket.
func (c *Conn) GiveFile(ctx context.Context, name string, file *os.File) error {
	socket, ok := c.conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("qmp getfd: the monitor is on no unix socket but a %T", c.conn)
	}
	return c.execute(ctx, "getfd", map[string]any{"fdname": name}, nil, func(request []byte) (int, error) {
		n, _, err := socket.WriteMsgUnix(request, unix.UnixRights(int(file.Fd())), nil)
		return n, err
	})
}

func (c *Conn) execute(ctx context.Context, command string, args, result any, write func([]byte) (int, error)) error {
	id, reply := c.register()
	defer c.forget(id)
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, args, id})
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	if _, err := write(append(request, '\n')); err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	select {
	case m := <-reply:
		return m.unpack(command, result)
	case <-c.closed:
		return fmt.Errorf("qmp %s: %w", command, ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: %w", command, ctx.Err())
	}
}

func (m message) unpack(command string, result any) error {
	if m.Error != nil {
		m.Error.Command = command
		return m.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	return nil
}

// Mark is a place in the stream of events: now.
func (c *Conn) Mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.events)
}

// Wait gives the first event since a Mark that match accepts.
func (c *Conn) Wait(ctx context.Context, mark int, match func(Event) bool) (Event, error) {
	for {
		c.mu.Lock()
		fresh, news := c.events[mark:], c.news
		c.mu.Unlock()
		for _, event := range fresh {
			if match(event) {
				return event, nil
			}
		}
		mark += len(fresh)
		select {
		case <-news:
		case <-c.closed:
			return Event{}, ErrClosed
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

func (c *Conn) register() (int, chan message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	reply := make(chan message, 1)
	c.waiting[c.next] = reply
	return c.next, reply
}

func (c *Conn) forget(id int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

func (c *Conn) receive() {
	defer close(c.closed)
	lines := bufio.NewReader(c.conn)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(line, &m) == nil {
			c.dispatch(m)
		}
	}
}

func (c *Conn) dispatch(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case m.Name != "":
		c.events = append(c.events, m.Event)
		close(c.news)
		c.news = make(chan struct{})
	case m.ID != nil && c.waiting[*m.ID] != nil:
		c.waiting[*m.ID] <- m
	}
}
