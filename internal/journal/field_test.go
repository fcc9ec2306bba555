package journal

import (
	"log/slog"
	"strings"
	"testing"

	systemd "github.com/coreos/go-systemd/v22/journal"
)

func TestFieldName(t *testing.T) {
	tests := []struct{ key, want string }{
		{"pci_address", "PCI_ADDRESS"},
		{"driver", "DRIVER"},
		{"PCI_SLOT", "PCI_SLOT"},
		{"a.b-c d", "A_B_C_D"},
		{"größe", "GR__E"},
		{"_pid", "PID"},
		{"__", "FIELD"},
		{"", "FIELD"},
		{"2nd", "FIELD_2ND"},
		{"_2nd", "FIELD_2ND"},
		{"message", "FIELD_MESSAGE"},
		{"Message-ID", "FIELD_MESSAGE_ID"},
		{"priority", "FIELD_PRIORITY"},
		{"syslog_identifier", "FIELD_SYSLOG_IDENTIFIER"},
		{strings.Repeat("x", 65), strings.Repeat("X", 64)},
		{"7" + strings.Repeat("x", 64), "FIELD_7" + strings.Repeat("X", 57)},
	}
	for _, tt := range tests {
		if got := fieldName(tt.key); got != tt.want {
			t.Errorf("fieldName(%q) = %q, want %q", tt.key, got, tt.want)
		}
	}
}

func FuzzFieldName(f *testing.F) {
	for _, key := range []string{"", "_", "9", "message", "pci_address", "\xff\x00=\n"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		name := fieldName(key)
		valid := name != "" && len(name) <= 64 && name[0] >= 'A' && name[0] <= 'Z' &&
			strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
		if !valid || reserved(name) {
			t.Errorf("fieldName(%q) = %q", key, name)
		}
	})
}

func TestPriority(t *testing.T) {
	tests := []struct {
		level slog.Level
		want  systemd.Priority
	}{
		{slog.LevelDebug, systemd.PriDebug},
		{slog.LevelInfo - 1, systemd.PriDebug},
		{slog.LevelInfo, systemd.PriInfo},
		{slog.LevelInfo + 2, systemd.PriNotice},
		{slog.LevelWarn, systemd.PriWarning},
		{slog.LevelError, systemd.PriErr},
		{slog.LevelError + 3, systemd.PriErr},
		{slog.LevelError + 4, systemd.PriCrit},
	}
	for _, tt := range tests {
		if got := priority(tt.level); got != tt.want {
			t.Errorf("priority(%v) = %d, want %d", tt.level, got, tt.want)
		}
	}
}
