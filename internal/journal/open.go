// Package journal writes the program's log: native entries with fields where
// journald reads them, one readable line each elsewhere.
package journal

import (
	"context"
	"log/slog"
	"os"

	systemd "github.com/coreos/go-systemd/v22/journal"
)

// Format says how records are written.
type Format int

const (
	// Auto sends fields when journald reads stderr, and writes lines otherwise.
	Auto Format = iota
	// Fields sends entries with fields to journald, wherever stderr goes. When
	// no journald listens it writes lines, so that nothing is lost.
	Fields
	// Lines writes readable lines to stderr.
	Lines
)

// Options of Open.
type Options struct {
	// Format is Auto by default.
	Format Format
	// Level is the least level that is written; INFO when it is nil.
	Level slog.Leveler
	// Identifier names the program in the journal, as in `journalctl -t`.
	Identifier string
}

// Open returns the handler for this process, and a function that writes what
// still waits: it ends with an error when ctx ends first, as Queue.Close does.
// Nothing but that function ends the goroutine behind a native handler.
func Open(o Options) (slog.Handler, func(context.Context) error) {
	if o.Level == nil {
		o.Level = slog.LevelInfo
	}
	if native(o.Format) {
		queue := NewQueue(systemd.Send, o.Identifier)
		return NewNative(queue, o.Level, o.Identifier), queue.Close
	}
	nothing := func(context.Context) error { return nil }
	return NewText(os.Stderr, o.Level, clock()), nothing
}

func native(f Format) bool {
	switch f {
	case Lines:
		return false
	case Fields:
		return systemd.Enabled()
	}
	// A JOURNAL_STREAM that cannot be read is not ours (sd-journal ignores it).
	stream, err := systemd.StderrIsJournalStream()
	return err == nil && stream && systemd.Enabled()
}

// clock tells whether a line needs the time. The log of a service manager adds
// its own: every process of a systemd unit has INVOCATION_ID (systemd.exec(5)).
// A terminal adds nothing, and may have inherited that variable.
func clock() bool {
	info, err := os.Stderr.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return terminal || os.Getenv("INVOCATION_ID") == ""
}
