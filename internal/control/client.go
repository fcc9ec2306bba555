package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// Client calls the daemon. It is for one goroutine at a time.
type Client struct {
	conn   net.Conn
	frames *frames
}

// Dial connects to the daemon's socket. The error is ErrNoDaemon when there
// is no socket, or one that nobody listens at any more.
func Dial(path string) (*Client, error) {
	conn, err := net.Dial("unix", path)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w at %s", ErrNoDaemon, path)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the daemon: %w", err)
	}
	return newClient(conn), nil
}

func newClient(conn net.Conn) *Client {
	return &Client{conn: conn, frames: newFrames(conn, maxReply)}
}

// Close hangs up.
func (c *Client) Close() error { return c.conn.Close() }

// Call makes one call and waits for its reply, which it reads into out unless
// that is nil. What the daemon answers with an error is an *Error. When ctx
// ends first the client hangs up, which ends the handler's context, and can
// call no more.
func (c *Client) Call(ctx context.Context, method string, in, out any) error {
	return c.do(ctx, call{Method: method}, in, func(parameters json.RawMessage) error {
		if out == nil || len(parameters) == 0 {
			return nil
		}
		return json.Unmarshal(parameters, out)
	})
}

// Stream makes one call that has many replies, and gives each to take. It
// ends with the last reply, the first error, or ctx.
func (c *Client) Stream(ctx context.Context, method string, in any, take func(json.RawMessage) error) error {
	return c.do(ctx, call{Method: method, More: true}, in, take)
}

func (c *Client) do(ctx context.Context, request call, in any, take func(json.RawMessage) error) error {
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	err := c.exchange(request, in, take)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%s: %w", request.Method, context.Cause(ctx))
	}
	return err
}

func (c *Client) exchange(request call, in any, take func(json.RawMessage) error) error {
	var err error
	if request.Parameters, err = object(in); err != nil {
		return fmt.Errorf("%s: %w", request.Method, err)
	}
	message, err := encode(request)
	if err != nil {
		return fmt.Errorf("%s: %w", request.Method, err)
	}
	if _, err := c.conn.Write(message); err != nil {
		return fmt.Errorf("%s: %w", request.Method, err)
	}
	for {
		r, err := c.reply()
		if err != nil {
			return fmt.Errorf("%s: %w", request.Method, err)
		}
		if r.Error != "" {
			return &Error{Name: r.Error, Parameters: r.Parameters}
		}
		if err := take(r.Parameters); err != nil {
			return fmt.Errorf("%s: read the reply: %w", request.Method, err)
		}
		if !r.Continues {
			return nil
		}
	}
}

func (c *Client) reply() (reply, error) {
	message, err := c.frames.next()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return reply{}, errors.New("the daemon hung up without an answer: it was stopped or has too many clients")
	}
	if err != nil {
		return reply{}, err
	}
	var r reply
	if err := json.Unmarshal(message, &r); err != nil {
		return reply{}, fmt.Errorf("read the reply: %w", err)
	}
	return r, nil
}
