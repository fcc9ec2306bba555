package journal

import (
	"encoding"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxValue bounds one value in bytes, so that what waits in the queue is
// bounded too. A longer one is cut and ends with an ellipsis.
const maxValue = 8 << 10

// text gives a resolved value as text of bounded length. A method of the
// value that panics is told, not passed on: a log line must not end a daemon.
func text(v slog.Value) (s string) {
	defer func() {
		if p := recover(); p != nil {
			s = fmt.Sprintf("!PANIC: %v", p)
		}
		s = cut(strings.ToValidUTF8(s, string(utf8.RuneError)))
	}()
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().Format(time.RFC3339Nano)
	case slog.KindAny:
		return anyText(v.Any())
	}
	return v.String()
}

func anyText(v any) string {
	switch v := v.(type) {
	case error:
		return v.Error()
	case encoding.TextMarshaler:
		b, err := v.MarshalText()
		if err != nil {
			return "!ERROR: " + err.Error()
		}
		return string(b)
	case []byte:
		return string(v)
	}
	return fmt.Sprintf("%+v", v)
}

func cut(s string) string {
	if len(s) <= maxValue {
		return s
	}
	const ellipsis = "…"
	end := maxValue - len(ellipsis)
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}

// printable makes one line of s: whatever is not printable is escaped as in a
// Go string. A name read from a file or a device can thus neither forge a
// second line nor command the terminal, and journalctl never hides the
// message as blob data.
func printable(s string) string {
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if !unprintable(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRune(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }
