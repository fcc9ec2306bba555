package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// Times a client gets. They bound how long a silent or dead one keeps its
// seat; they do not bound a handler.
const (
	idleTime  = 30 * time.Second
	writeTime = 5 * time.Second
	retryTime = 100 * time.Millisecond
)

// Handler serves one method.
type Handler struct {
	// Root refuses everyone but uid 0.
	Root bool
	// Stream demands a caller that accepts many replies ("more"), which the
	// handler gives with Call.Send.
	Stream bool
	// Handle gives the last or only reply: a value that encodes as a JSON
	// object, or nil for an empty one. An *Error travels as it is, any other
	// becomes io.vfiohotplug.Failed. The context ends when the client goes
	// away or the server stops; calls of one client come one after the other,
	// those of different clients at the same time.
	Handle func(context.Context, *Call) (any, error)
}

// Call is one call of a method.
type Call struct {
	Method string
	Peer   Peer

	parameters json.RawMessage
	send       func(reply) error
}

// NewCall is a call as a client makes it, for whoever calls a Handler itself.
func NewCall(method string, parameters json.RawMessage) *Call {
	return &Call{Method: method, parameters: parameters, send: func(reply) error { return nil }}
}

// Decode reads the call's parameters into v. A parameter that v does not have
// is an error: what a newer client asks for must not be half done.
func (c *Call) Decode(v any) error {
	if len(c.parameters) == 0 {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(c.parameters)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return NewError(service+".InvalidParameter", map[string]string{"parameter": faulty(err)})
	}
	return nil
}

// faulty names the parameter that an error of encoding/json is about, or
// gives the error's own words.
func faulty(err error) string {
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		return wrongType.Field
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return strings.Trim(name, `"`)
	}
	return err.Error()
}

// Send gives one of many replies. Only the handler of a Stream may call it;
// an error means that the client is gone or too slow.
func (c *Call) Send(v any) error {
	parameters, err := object(v)
	if err != nil {
		return err
	}
	return c.send(reply{Parameters: parameters, Continues: true})
}

// Server answers calls on a unix socket. The zero value serves nothing but
// GetInfo and GetInterfaceDescription. It must not be changed while it serves.
type Server struct {
	Info Info
	// Handlers by full method name, such as io.vfiohotplug.Status.
	Handlers map[string]Handler

	// peer stands in for SO_PEERCRED in tests.
	peer func(net.Conn) (Peer, error)
}

// Serve answers until ctx ends; then it closes the listener, ends the
// handlers' contexts, waits for the handlers and returns nil. An error means
// that the listener itself broke.
//
// A client that is silent, slow, gone or talks nonsense loses its connection
// and stalls nobody. One that finds no seat is hung up on.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	handlers := withService(s.Info, s.Handlers)
	peer := s.peer
	if peer == nil {
		peer = peerOf
	}
	var taken seats
	var open sync.WaitGroup
	defer open.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := accept(ctx, l)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for clients: %w", err)
		}
		who, err := peer(conn)
		if err != nil || !taken.take(who) {
			conn.Close()
			continue
		}
		open.Go(func() {
			defer taken.leave(who)
			session := session{conn: conn, peer: who, handlers: handlers}
			session.serve(ctx)
		})
	}
}

// accept waits for a client, and out a shortage of descriptors or memory. A
// closed listener is final.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	for {
		conn, err := l.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(retryTime):
		}
	}
}
