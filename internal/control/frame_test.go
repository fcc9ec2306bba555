package control

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestFrames(t *testing.T) {
	const most = 8
	tests := []struct {
		name   string
		stream string
		want   []string
		end    error
	}{
		{"nothing", "", nil, io.EOF},
		{"one message", "{}\x00", []string{"{}"}, io.EOF},
		{"two in one packet", "{}\x00{1}\x00", []string{"{}", "{1}"}, io.EOF},
		{"an empty message is one too", "\x00\x00", []string{"", ""}, io.EOF},
		{"the stream ends inside a message", "{}\x00{1", []string{"{}"}, io.ErrUnexpectedEOF},
		{"the longest message", "12345678\x00", []string{"12345678"}, io.EOF},
		{"one byte too long", "123456789\x00", nil, errOversize},
		{"too long, and no end in sight", strings.Repeat("x", 100), nil, errOversize},
		{"too long after a good one", "{}\x00123456789\x00{}\x00", []string{"{}"}, errOversize},
	}
	packets := map[string]func(io.Reader) io.Reader{
		"whole":           func(r io.Reader) io.Reader { return r },
		"byte by byte":    iotest.OneByteReader,
		"in halves":       iotest.HalfReader,
		"with the end":    iotest.DataErrReader,
		"single with end": func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) },
	}
	for _, tt := range tests {
		for name, split := range packets {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				got, end := all(newFrames(split(strings.NewReader(tt.stream)), most))
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("messages (-want +got):\n%s", diff)
				}
				if !errors.Is(end, tt.end) {
					t.Errorf("ended with %v, want %v", end, tt.end)
				}
			})
		}
	}
}

func TestFramesPassOnTheErrorOfTheReader(t *testing.T) {
	broken := io.MultiReader(strings.NewReader("{}\x00{"), iotest.ErrReader(iotest.ErrTimeout))
	got, end := all(newFrames(broken, 8))
	if len(got) != 1 || !errors.Is(end, iotest.ErrTimeout) {
		t.Errorf("got %q and %v, want one message and %v", got, end, iotest.ErrTimeout)
	}
}

// The reference holds everything in memory and cuts it afterwards.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("{}\x00{\"method\":\"a.B\"}\x00"), uint8(3))
	f.Add([]byte("\x00\x00\x00x"), uint8(0))
	f.Add(bytes.Repeat([]byte("y"), 300), uint8(200))
	f.Fuzz(func(t *testing.T, stream []byte, most uint8) {
		want, wantEnd := cutWhole(stream, int(most))
		for name, r := range map[string]io.Reader{
			"whole":        bytes.NewReader(stream),
			"byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
		} {
			got, end := all(newFrames(r, int(most)))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: messages (-want +got):\n%s", name, diff)
			}
			if !errors.Is(end, wantEnd) {
				t.Errorf("%s: ended with %v, want %v", name, end, wantEnd)
			}
		}
	})
}

func cutWhole(stream []byte, most int) (messages []string, end error) {
	pieces := bytes.Split(stream, []byte{0})
	for i, piece := range pieces {
		last := i == len(pieces)-1
		switch {
		case len(piece) > most:
			return messages, errOversize
		case last && len(piece) > 0:
			return messages, io.ErrUnexpectedEOF
		case !last:
			messages = append(messages, string(piece))
		}
	}
	return messages, io.EOF
}

func all(f *frames) (messages []string, end error) {
	for {
		message, err := f.next()
		if err != nil {
			return messages, err
		}
		messages = append(messages, string(message))
	}
}
