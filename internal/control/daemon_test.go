package control

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

const slowTime = 10 * time.Minute

// daemon is a server over pipes, so that a test can own the clock, with
// handlers that do what the tests need.
type daemon struct {
	listener *pipeListener
	stop     context.CancelFunc
	served   chan error    // what Serve returned
	waited   chan error    // how the context of a Wait ended
	slow     chan struct{} // a Slow was done to its end
	flooded  chan struct{} // a Flood could send no more
}

// start runs a server until the test ends.
func start(t *testing.T) *daemon {
	ctx, cancel := context.WithCancel(t.Context())
	d := &daemon{
		listener: &pipeListener{conns: make(chan accepted), closed: make(chan struct{})},
		stop:     cancel,
		served:   make(chan error, 1),
		waited:   make(chan error, 1),
		slow:     make(chan struct{}, 1),
		flooded:  make(chan struct{}, 1),
	}
	handlers := harmless()
	handlers[Interface+".Wait"] = Handler{Handle: func(ctx context.Context, _ *Call) (any, error) {
		<-ctx.Done()
		d.waited <- ctx.Err()
		return nil, ctx.Err()
	}}
	handlers[Interface+".Slow"] = Handler{Handle: func(ctx context.Context, _ *Call) (any, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(slowTime):
			d.slow <- struct{}{}
			return nil, nil
		}
	}}
	handlers[Interface+".Flood"] = Handler{Stream: true, Handle: func(_ context.Context, c *Call) (any, error) {
		for {
			if err := c.Send(struct{}{}); err != nil {
				d.flooded <- struct{}{}
				return nil, err
			}
		}
	}}
	server := &Server{
		Info:     Info{Vendor: "v", Product: "p", Version: "1", URL: "u"},
		Handlers: handlers,
		peer:     peerOfPipe,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.served <- server.Serve(ctx, d.listener)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return d
}

// harmless are handlers that answer at once.
func harmless() map[string]Handler {
	return map[string]Handler{
		Interface + ".Echo": {Handle: func(_ context.Context, c *Call) (any, error) {
			var in struct {
				Say string `json:"say"`
			}
			err := c.Decode(&in)
			return in, err
		}},
		Interface + ".Admin": {Root: true, Handle: func(context.Context, *Call) (any, error) {
			return nil, nil
		}},
		Interface + ".Who": {Handle: func(_ context.Context, c *Call) (any, error) {
			return c.Peer, nil
		}},
		Interface + ".Refuse": {Handle: func(context.Context, *Call) (any, error) {
			return nil, errBusy()
		}},
		Interface + ".Break": {Handle: func(context.Context, *Call) (any, error) {
			return nil, fmt.Errorf("unbind nvme: %w", syscall.ENODEV)
		}},
		Interface + ".Unencodable": {Handle: func(context.Context, *Call) (any, error) {
			return make(chan int), nil
		}},
		Interface + ".Count": {Stream: true, Handle: func(_ context.Context, c *Call) (any, error) {
			for n := range 2 {
				if err := c.Send(map[string]int{"n": n + 1}); err != nil {
					return nil, err
				}
			}
			return nil, nil
		}},
	}
}

// busy is what a handler's own error carries.
type busy struct {
	Address string `json:"address"`
	Reason  string `json:"reason"`
}

func errBusy() *Error {
	return NewError("org.example.Busy", busy{Address: "0000:01:00.0", Reason: "mounted"})
}

// dial connects as that user.
func (d *daemon) dial(p Peer) net.Conn {
	near, far := net.Pipe()
	d.listener.conns <- accepted{conn: pipeConn{far, p}}
	return near
}

// pipeListener accepts what a test hands it.
type pipeListener struct {
	conns  chan accepted
	closed chan struct{}
	once   sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case a := <-l.conns:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// pipeConn knows who is at its other end.
type pipeConn struct {
	net.Conn
	peer Peer
}

func peerOfPipe(conn net.Conn) (Peer, error) {
	if c, ok := conn.(pipeConn); ok {
		return c.peer, nil
	}
	return peerOf(conn)
}
