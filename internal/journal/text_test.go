package journal

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"
	"time"
)

func TestTextKeepsTheRulesOfHandlers(t *testing.T) {
	var out bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out.Reset()
		return NewText(&out, slog.LevelInfo, true)
	}, func(t *testing.T) map[string]any {
		return parseLine(t, out.String())
	})
}

// parseLine reads back the one line a test of slogtest wrote. Its values hold
// no spaces.
func parseLine(t *testing.T, line string) map[string]any {
	t.Helper()
	head, attrs, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
	got := map[string]any{}
	if clock, rest, _ := strings.Cut(head, " "); strings.Contains(clock, ":") {
		got[slog.TimeKey], head = clock, rest
	}
	// INFO is padded to five, so its gap is the first pair of spaces.
	if level := strings.TrimSpace(head); level == "INFO" {
		message, rest, _ := strings.Cut(attrs, "  ")
		head, attrs = level+" "+message, rest
	}
	level, message, _ := strings.Cut(head, " ")
	got[slog.LevelKey], got[slog.MessageKey] = level, message
	for pair := range strings.FieldsSeq(attrs) {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			t.Fatalf("no key=value in %q of line %q", pair, line)
		}
		put(got, strings.Split(key, "."), value)
	}
	return got
}

func put(m map[string]any, path []string, value string) {
	for _, group := range path[:len(path)-1] {
		if m[group] == nil {
			m[group] = map[string]any{}
		}
		m = m[group].(map[string]any)
	}
	m[path[len(path)-1]] = value
}

func TestTextLine(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 3, 44, 123456789, time.UTC)
	tests := []struct {
		name    string
		level   slog.Level
		message string
		attrs   []slog.Attr
		want    string
	}{
		{
			"a device that came up", slog.LevelInfo, "bound 0000:01:00.0 to vfio-pci",
			[]slog.Attr{
				MessageDirect.Attr(),
				slog.String(KeyAddress, "0000:01:00.0"),
				slog.String(KeyDriver, "vfio-pci"),
				slog.String(KeyRule, "front bays"),
				slog.Duration(KeyLatency, 4200*time.Microsecond),
			},
			`12:03:44.123 INFO  bound 0000:01:00.0 to vfio-pci  rule="front bays" latency=4.2ms`,
		},
		{
			"an address that the message does not name", slog.LevelWarn, "not viable",
			[]slog.Attr{slog.String(KeyAddress, "0000:01:00.0")},
			`12:03:44.123 WARN  not viable  pci_address=0000:01:00.0`,
		},
		{
			"an address that is only a part of a word", slog.LevelInfo, "see 10000:01:00.0",
			[]slog.Attr{slog.String(KeyAddress, "0000:01:00.0")},
			`12:03:44.123 INFO  see 10000:01:00.0  pci_address=0000:01:00.0`,
		},
		{
			"a reason of many words that the message gives", slog.LevelWarn, "refused to take 0000:01:00.0: mounted at /srv; next: umount /srv",
			[]slog.Attr{
				slog.String(KeyAddress, "0000:01:00.0"),
				slog.String(KeyReason, "mounted at /srv"),
				slog.String(KeyDriver, "nvme"),
			},
			`12:03:44.123 WARN  refused to take 0000:01:00.0: mounted at /srv; next: umount /srv  driver=nvme`,
		},
		{
			"a word that is a part of one first, and then itself", slog.LevelInfo, "vfio-pci-core before vfio-pci",
			[]slog.Attr{slog.String(KeyDriver, "vfio-pci")},
			`12:03:44.123 INFO  vfio-pci-core before vfio-pci`,
		},
		{
			"a number that the message happens to have", slog.LevelInfo, "found 14 devices",
			[]slog.Attr{slog.Int(KeyGroup, 14)},
			`12:03:44.123 INFO  found 14 devices  iommu_group=14`,
		},
		{
			"an error", slog.LevelError, "unbind",
			[]slog.Attr{slog.Any(KeyError, errors.New("no such device"))},
			`12:03:44.123 ERROR unbind  error="no such device"`,
		},
		{
			"a forged second line and a command to the terminal", slog.LevelInfo, "a\nb",
			[]slog.Attr{slog.String("serial", "x\x1b[2J\n12:03:44.123 ERROR all lost")},
			`12:03:44.123 INFO  a\nb  serial="x\x1b[2J\n12:03:44.123 ERROR all lost"`,
		},
		{
			"values that need quotes", slog.LevelInfo, "m",
			[]slog.Attr{slog.String("a", ""), slog.String("b", "c=d"), slog.String("e f", "g")},
			`12:03:44.123 INFO  m  a="" b="c=d" "e f"=g`,
		},
		{
			"times rounded to three digits", slog.LevelInfo, "m",
			[]slog.Attr{slog.Duration("a", 1234567), slog.Duration("b", 98765*time.Millisecond), slog.Duration("c", -1234567), slog.Duration("d", 0)},
			`12:03:44.123 INFO  m  a=1.23ms b=1m38.8s c=-1.23ms d=0s`,
		},
		{
			"a level between two names", slog.LevelInfo + 2, "m", nil,
			`12:03:44.123 INFO+2 m`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			r := slog.NewRecord(at, tt.level, tt.message, 0)
			r.AddAttrs(tt.attrs...)
			if err := NewText(&out, slog.LevelDebug, true).Handle(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != tt.want+"\n" {
				t.Errorf("got  %swant %s", got, tt.want)
			}
		})
	}
}

func TestTextWithoutClockStartsWithTheLevel(t *testing.T) {
	var out bytes.Buffer
	slog.New(NewText(&out, slog.LevelInfo, false)).Info("ready")
	if got, want := out.String(), "INFO  ready\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTextGivesTheErrorOfTheWriter(t *testing.T) {
	h := NewText(fullDisk{}, slog.LevelInfo, false)
	if err := h.Handle(t.Context(), slog.Record{}); !errors.Is(err, errFull) {
		t.Errorf("got %v, want %v", err, errFull)
	}
}

var errFull = errors.New("full")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }
