package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Bounds of one message in bytes, without its NUL. A call is a few hundred
// bytes; the socket is open to everybody, so those who are not root get less
// of the daemon's memory. A reply can list every device of a large machine,
// and only root's own daemon sends one.
const (
	maxCall       = 1 << 20
	maxCallOthers = 64 << 10
	maxReply      = 16 << 20
)

// mostOf gives the longest call that is taken from that user.
func mostOf(p Peer) int {
	if p.UID != 0 {
		return maxCallOthers
	}
	return maxCall
}

// errOversize is what a reader gets for a message beyond its bound.
var errOversize = errors.New("message too long")

// call is what a client sends.
type call struct {
	Method     string          `json:"method"`
	Parameters json.RawMessage `json:"parameters,omitempty"`
	More       bool            `json:"more,omitempty"`
	Oneway     bool            `json:"oneway,omitempty"`

	size int // of the message
}

// reply is what a server sends: an error when Error is set.
type reply struct {
	Parameters json.RawMessage `json:"parameters,omitempty"`
	Continues  bool            `json:"continues,omitempty"`
	Error      string          `json:"error,omitempty"`
}

// frames cuts a stream into messages: varlink ends each with a NUL.
type frames struct {
	scanner *bufio.Scanner
	most    int
}

// newFrames reads messages of at most so many bytes. What it holds grows with
// what was really received, up to that.
func newFrames(r io.Reader, most int) *frames {
	s := bufio.NewScanner(r)
	s.Buffer(nil, most+1)
	s.Split(splitNUL)
	return &frames{scanner: s, most: most}
}

// next gives one message, valid until the following call. It is io.EOF at the
// end of the stream, io.ErrUnexpectedEOF when that is inside a message, and
// errOversize when a message is too long; each is final.
func (f *frames) next() ([]byte, error) {
	if f.scanner.Scan() {
		return f.scanner.Bytes(), nil
	}
	switch err := f.scanner.Err(); {
	case err == nil:
		return nil, io.EOF
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("%w: more than %d bytes", errOversize, f.most)
	default:
		return nil, err
	}
}

func splitNUL(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return 0, nil, nil
}

// parseCall reads one message of a client. Keys that varlink may add later
// are passed over.
func parseCall(message []byte) (call, error) {
	var c call
	if err := json.Unmarshal(message, &c); err != nil {
		return call{}, fmt.Errorf("read a call: %w", err)
	}
	if c.Method == "" {
		return call{}, errors.New("read a call: it names no method")
	}
	c.size = len(message)
	return c, nil
}

// encode makes one message with its NUL. JSON writes a NUL inside a string as
// \u0000.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(b, 0), nil
}
