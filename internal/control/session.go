package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// maxWaiting bounds the calls that one client may send ahead of their
// replies; their bytes together are bounded like one call.
const maxWaiting = 16

// session is one connection on the server's side. One goroutine always reads,
// so that a client that goes away is noticed while a handler works; the other
// serves the calls in their order.
type session struct {
	conn     net.Conn
	peer     Peer
	handlers map[string]Handler
	held     atomic.Int64 // bytes of calls that were read and not yet served
}

// serve returns when the client is gone, has been silent for idleTime, has
// not taken a reply for writeTime, has broken the protocol, or ctx has ended.
func (s *session) serve(ctx context.Context) {
	client, gone := context.WithCancel(ctx)
	calls := make(chan call, maxWaiting)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer gone()
		defer close(calls)
		s.read(calls)
	})
	defer reader.Wait()
	defer s.conn.Close()
	defer gone()
	for {
		s.conn.SetReadDeadline(time.Now().Add(idleTime))
		select {
		case <-ctx.Done():
			return
		case c, ok := <-calls:
			if !ok {
				return
			}
			// A handler may take its time, and the client may wait.
			s.conn.SetReadDeadline(time.Time{})
			if err := s.answer(ctx, client, c); err != nil {
				return
			}
			s.held.Add(-int64(c.size))
		}
	}
}

// read returns at the first thing that is no call, and when the client sends
// more ahead than there is room for.
func (s *session) read(calls chan<- call) {
	most := mostOf(s.peer)
	frames := newFrames(s.conn, most)
	for {
		message, err := frames.next()
		if err != nil {
			return
		}
		c, err := parseCall(message)
		if err != nil || s.held.Add(int64(c.size)) > int64(most) {
			return
		}
		select {
		case calls <- c:
		default:
			return
		}
	}
}

// answer serves one call and sends its reply. A call that wants no reply is
// served even when its client left at once; any other is not begun for one
// that is gone.
func (s *session) answer(server, client context.Context, c call) error {
	if c.Oneway {
		_, _ = s.call(server, c)
		return nil
	}
	if client.Err() != nil {
		return client.Err()
	}
	parameters, err := s.call(client, c)
	if err != nil {
		e := travelling(err)
		return s.send(reply{Error: e.Name, Parameters: e.Parameters})
	}
	return s.send(reply{Parameters: parameters})
}

func (s *session) call(ctx context.Context, c call) (json.RawMessage, error) {
	h, err := find(s.handlers, c.Method)
	switch {
	case err != nil:
		return nil, err
	case h.Root && s.peer.UID != 0:
		return nil, NewError(errPermission, struct{}{})
	case h.Stream && !c.More:
		return nil, NewError(service+".ExpectedMore", struct{}{})
	}
	out, err := h.Handle(ctx, &Call{Method: c.Method, Peer: s.peer, parameters: c.Parameters, send: s.streamTo(c)})
	if err != nil {
		return nil, err
	}
	return object(out)
}

// streamTo gives what Call.Send uses. A client that asked for one reply, or
// for none, gets no other.
func (s *session) streamTo(c call) func(reply) error {
	if c.More && !c.Oneway {
		return s.send
	}
	return func(reply) error {
		return fmt.Errorf("%s: the client did not ask for more than one reply", c.Method)
	}
}

func (s *session) send(r reply) error {
	b, err := encode(r)
	if err != nil {
		return err
	}
	s.conn.SetWriteDeadline(time.Now().Add(writeTime))
	_, err = s.conn.Write(b)
	return err
}

// object encodes parameters; nil gives none.
func object(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	return json.Marshal(v)
}
