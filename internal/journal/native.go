package journal

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"syscall"
)

// maxFields bounds the attributes of one entry; what is beyond it is left
// out. journald itself takes 1024.
const maxFields = 64

// Native is an slog.Handler that writes entries with fields to journald.
//
// Keys become field names in upper case, groups a prefix that ends with an
// underscore, invalid characters an underscore. A time.Duration named latency
// becomes LATENCY_USEC, in microseconds; an error becomes its text, and the
// errno it wraps becomes ERRNO; a MessageID becomes MESSAGE_ID. Of two
// attributes with one name the last is sent. Source positions and the
// record's time are not sent: journald stamps what it takes.
//
// Handle never blocks and never fails: it hands the entry to a Queue, which
// may drop and count it.
type Native struct {
	queue      *Queue
	level      slog.Leveler
	identifier string
	scope      scope
}

// NewNative returns a handler that sends records of at least the given level
// through the queue. The identifier becomes SYSLOG_IDENTIFIER: what
// `journalctl -t` asks for.
func NewNative(queue *Queue, level slog.Leveler, identifier string) *Native {
	return &Native{queue: queue, level: level, identifier: identifier, scope: scope{separator: "_"}}
}

// Enabled tells whether records of that level are sent.
func (h *Native) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

// Handle puts the record into the queue. It always returns nil.
func (h *Native) Handle(_ context.Context, r slog.Record) error {
	h.queue.put(entry{
		message:  cut(printable(r.Message)),
		priority: priority(r.Level),
		fields:   h.fields(r),
	})
	return nil
}

// WithAttrs returns a handler that adds these attributes to every record.
func (h *Native) WithAttrs(attrs []slog.Attr) slog.Handler {
	derived := *h
	derived.scope = h.scope.withAttrs(attrs)
	return &derived
}

// WithGroup returns a handler that prefixes the names of what follows.
func (h *Native) WithGroup(name string) slog.Handler {
	derived := *h
	derived.scope = h.scope.withGroup(name)
	return &derived
}

func (h *Native) fields(r slog.Record) map[string]string {
	all := h.scope.record(r)
	fields := make(map[string]string, len(all)+1)
	fields["SYSLOG_IDENTIFIER"] = h.identifier
	for _, f := range all[:min(len(all), maxFields)] {
		setField(fields, f)
	}
	return fields
}

func setField(fields map[string]string, f field) {
	if f.value.Kind() == slog.KindDuration {
		name := fieldName(strings.TrimSuffix(f.key, "_usec") + "_usec")
		fields[name] = strconv.FormatInt(f.value.Duration().Microseconds(), 10)
		return
	}
	switch v := f.value.Any().(type) {
	case MessageID:
		fields["MESSAGE_ID"] = string(v)
		return
	case error:
		setErrno(fields, v)
	}
	fields[fieldName(f.key)] = text(f.value)
}

// setErrno adds the number of the system call's error, as sd_journal_perror
// does (systemd.journal-fields(7)).
func setErrno(fields map[string]string, err error) {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		fields["ERRNO"] = strconv.Itoa(int(errno))
	}
}
