package journal

import (
	"log/slog"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/journal"
)

// Attribute keys that have a meaning of their own in the journal, spelled
// once. In the journal each is a field in upper case; a time.Duration gets
// the suffix _USEC, so KeyLatency becomes LATENCY_USEC.
const (
	KeyAddress = "pci_address"
	KeyDriver  = "driver"
	KeyRule    = "rule"
	KeyOutcome = "outcome"
	KeyReason  = "reason"
	KeyLatency = "latency"
	KeyGroup   = "iommu_group"
	KeyError   = "error"
)

// maxFieldName is journald's bound (journal_field_valid in systemd's
// src/libsystemd/sd-journal/journal-file.c).
const maxFieldName = 64

// fieldName makes a name that journald accepts: A to Z, 0 to 9 and
// underscore, 1 to 64 long, starting with a letter. Names that start with an
// underscore belong to journald itself, and it drops a field with any other
// fault without a word.
func fieldName(key string) string {
	name := strings.Map(fieldRune, key)
	name = strings.TrimLeft(name, "_")
	switch {
	case name == "":
		return "FIELD"
	case name[0] >= '0' && name[0] <= '9', reserved(name):
		name = "FIELD_" + name
	}
	return name[:min(len(name), maxFieldName)]
}

func fieldRune(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z':
		return r - 'a' + 'A'
	case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return r
	}
	return '_'
}

// reserved tells whether the handler itself sends that field: an attribute of
// the same name must not replace it.
func reserved(name string) bool {
	switch name {
	case "MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER":
		return true
	}
	return false
}

// priority turns a level into syslog's scale. The steps between slog's named
// levels are NOTICE (between INFO and WARN) and CRIT (four above ERROR).
func priority(level slog.Level) systemd.Priority {
	switch {
	case level < slog.LevelInfo:
		return systemd.PriDebug
	case level < slog.LevelInfo+2:
		return systemd.PriInfo
	case level < slog.LevelWarn:
		return systemd.PriNotice
	case level < slog.LevelError:
		return systemd.PriWarning
	case level < slog.LevelError+4:
		return systemd.PriErr
	}
	return systemd.PriCrit
}
