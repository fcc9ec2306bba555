package journal

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Text is an slog.Handler that writes one readable line a record:
//
//	12:03:44.123 INFO  bound 0000:01:00.0 to vfio-pci  rule="front bays" latency=4.2ms
//
// Groups are joined to the key with a dot. A string that the message says
// already is not repeated, and the MessageID is not shown. Handle blocks while
// the writer does.
type Text struct {
	out   *output
	level slog.Leveler
	clock bool
	scope scope
}

// output is the writer that derived handlers share, one line at a time.
type output struct {
	mu sync.Mutex
	w  io.Writer
}

// NewText returns a handler that writes records of at least the given level.
// Without clock a line starts with its level: right where whoever reads the
// stream adds the time.
func NewText(w io.Writer, level slog.Leveler, clock bool) *Text {
	return &Text{out: &output{w: w}, level: level, clock: clock, scope: scope{separator: "."}}
}

// Enabled tells whether records of that level are written.
func (h *Text) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

// Handle writes the record as one line, with one Write. The error is the
// writer's.
func (h *Text) Handle(_ context.Context, r slog.Record) error {
	line := h.line(r)
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := h.out.w.Write(line)
	return err
}

// WithAttrs returns a handler that adds these attributes to every record.
func (h *Text) WithAttrs(attrs []slog.Attr) slog.Handler {
	derived := *h
	derived.scope = h.scope.withAttrs(attrs)
	return &derived
}

// WithGroup returns a handler that prefixes the names of what follows.
func (h *Text) WithGroup(name string) slog.Handler {
	derived := *h
	derived.scope = h.scope.withGroup(name)
	return &derived
}

func (h *Text) line(r slog.Record) []byte {
	var b []byte
	if h.clock && !r.Time.IsZero() {
		b = r.Time.AppendFormat(b, "15:04:05.000 ")
	}
	b = fmt.Appendf(b, "%-5s %s", r.Level, printable(r.Message))
	gap := "  "
	for _, f := range h.scope.record(r) {
		value := shown(f.value)
		if hidden(f, value, r.Message) {
			continue
		}
		b = fmt.Appendf(b, "%s%s=%s", gap, quoted(f.key), quoted(value))
		gap = " "
	}
	return append(b, '\n')
}

// hidden tells whether a reader would see the same words twice, or a number
// that is meant for a machine.
func hidden(f field, value, message string) bool {
	switch v := f.value.Any().(type) {
	case MessageID:
		return true
	case string:
		return v != "" && says(message, value)
	}
	return false
}

// says tells whether the words stand in the message, and not as a part of a
// longer word.
func says(message, words string) bool {
	for at := 0; ; at++ {
		next := strings.Index(message[at:], words)
		if next < 0 {
			return false
		}
		at += next
		before, _ := utf8.DecodeLastRuneInString(message[:at])
		after, _ := utf8.DecodeRuneInString(message[at+len(words):])
		if !inWord(before) && !inWord(after) {
			return true
		}
	}
}

func inWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_'
}

func shown(v slog.Value) string {
	if v.Kind() == slog.KindDuration {
		return short(v.Duration()).String()
	}
	return text(v)
}

// short rounds to three digits: enough to compare by eye.
func short(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 || d/unit <= -1000 {
		unit *= 10
	}
	return d.Round(unit)
}

// quoted puts quotes round what could not be told from its surroundings.
func quoted(s string) string {
	if s == "" || strings.ContainsFunc(s, ambiguous) {
		return strconv.Quote(s)
	}
	return s
}

func ambiguous(r rune) bool {
	return r == '"' || r == '=' || unicode.IsSpace(r) || unprintable(r)
}
