package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNativeFields(t *testing.T) {
	long := strings.Repeat("ä", maxValue)
	tests := []struct {
		name string
		log  func(*slog.Logger)
		want map[string]string
	}{
		{
			"a device that came up",
			func(l *slog.Logger) {
				l.Info("m", MessageDirect.Attr(),
					slog.Any(KeyAddress, marshaler("0000:01:00.0")),
					slog.String(KeyDriver, "vfio-pci"),
					slog.Duration(KeyLatency, 4200*time.Microsecond),
					slog.Int(KeyGroup, 14))
			},
			map[string]string{
				"MESSAGE_ID": string(MessageDirect), "PCI_ADDRESS": "0000:01:00.0",
				"DRIVER": "vfio-pci", "LATENCY_USEC": "4200", "IOMMU_GROUP": "14",
			},
		},
		{
			"a duration that names its unit already",
			func(l *slog.Logger) { l.Info("m", slog.Duration("wait_usec", time.Second)) },
			map[string]string{"WAIT_USEC": "1000000"},
		},
		{
			"an error and the errno it wraps",
			func(l *slog.Logger) { l.Info("m", KeyError, fmt.Errorf("unbind nvme: %w", syscall.ENODEV)) },
			map[string]string{"ERROR": "unbind nvme: no such device", "ERRNO": "19"},
		},
		{
			"an error without errno, of two lines",
			func(l *slog.Logger) { l.Info("m", KeyError, errors.Join(errors.New("a"), errors.New("b"))) },
			map[string]string{"ERROR": "a\nb"},
		},
		{
			"groups prefix, from the handler and from the attribute",
			func(l *slog.Logger) {
				l.With("a", 1).WithGroup("g").With("b", 2).Info("m", "c", 3, slog.Group("h", "d", 4), slog.Group("", "e", 5))
			},
			map[string]string{"A": "1", "G_B": "2", "G_C": "3", "G_H_D": "4", "G_E": "5"},
		},
		{
			"a kind of message inside a group",
			func(l *slog.Logger) { l.WithGroup("g").Info("m", MessageGone.Attr()) },
			map[string]string{"MESSAGE_ID": string(MessageGone)},
		},
		{
			"attributes named like what journald needs",
			func(l *slog.Logger) {
				l.Info("m", "message", "x", "priority", 0, "message_id", "y", "syslog_identifier", "z")
			},
			map[string]string{
				"FIELD_MESSAGE": "x", "FIELD_PRIORITY": "0", "FIELD_MESSAGE_ID": "y", "FIELD_SYSLOG_IDENTIFIER": "z",
			},
		},
		{
			"of two with one name the last",
			func(l *slog.Logger) { l.With("a", 1).Info("m", "a", 2) },
			map[string]string{"A": "2"},
		},
		{
			"empty attributes and groups vanish",
			func(l *slog.Logger) { l.WithGroup("g").Info("m", slog.Attr{}, slog.Group("h")) },
			map[string]string{},
		},
		{
			"a value computed only when it is logged",
			func(l *slog.Logger) { l.Info("m", "a", valuer{slog.GroupValue(slog.Int("b", 1))}) },
			map[string]string{"A_B": "1"},
		},
		{
			"a value that panics",
			func(l *slog.Logger) { l.Info("m", KeyError, (*pathError)(nil)) },
			map[string]string{"ERROR": "!PANIC: runtime error: invalid memory address or nil pointer dereference"},
		},
		{
			"a value that cannot be marshaled",
			func(l *slog.Logger) { l.Info("m", "a", marshaler("")) },
			map[string]string{"A": "!ERROR: empty"},
		},
		{
			"bytes that are no UTF-8",
			func(l *slog.Logger) { l.Info("m", "serial", []byte("S\xff1")) },
			map[string]string{"SERIAL": "S\ufffd1"},
		},
		{
			"a long value is cut between two characters",
			func(l *slog.Logger) { l.Info("m", "a", long) },
			map[string]string{"A": long[:maxValue-4] + "…"},
		},
		{
			"a time",
			func(l *slog.Logger) { l.Info("m", "a", time.Date(2026, 3, 1, 12, 0, 0, 5000, time.UTC)) },
			map[string]string{"A": "2026-03-01T12:00:00.000005Z"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var sent recorder
			queue := NewQueue(sent.send, "prog")
			tt.log(slog.New(NewNative(queue, slog.LevelInfo, "prog")))
			if err := queue.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := maps.Clone(tt.want)
			want["SYSLOG_IDENTIFIER"] = "prog"
			if len(sent.entries) != 1 {
				t.Fatalf("%d entries were sent, want 1", len(sent.entries))
			}
			if diff := cmp.Diff(want, sent.entries[0].fields); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNativeSendsOneLineAndTheAskedLevels(t *testing.T) {
	var sent recorder
	queue := NewQueue(sent.send, "prog")
	log := slog.New(NewNative(queue, slog.LevelInfo, "prog"))
	log.Debug("not asked for")
	log.Warn("slot \x1b[2J 3\n")
	if err := queue.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(sent.entries) != 1 {
		t.Fatalf("%d entries were sent, want 1", len(sent.entries))
	}
	got := sent.entries[0]
	if got.message != `slot \x1b[2J 3\n` || got.priority != 4 {
		t.Errorf("sent %q with priority %d", got.message, got.priority)
	}
}

func TestNativeBoundsTheNumberOfFields(t *testing.T) {
	var sent recorder
	queue := NewQueue(sent.send, "prog")
	r := slog.NewRecord(time.Time{}, slog.LevelInfo, "m", 0)
	for i := range 10 * maxFields {
		r.AddAttrs(slog.Int(fmt.Sprint("f", i), i))
	}
	if err := NewNative(queue, slog.LevelInfo, "prog").Handle(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := queue.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(sent.entries[0].fields); got != maxFields+1 {
		t.Errorf("%d fields were sent, want %d and the identifier", got, maxFields)
	}
}

func TestDerivedHandlersDoNotShareAttributes(t *testing.T) {
	var sent recorder
	queue := NewQueue(sent.send, "prog")
	base := slog.New(NewNative(queue, slog.LevelInfo, "prog")).With("a", 1, "b", 2, "c", 3)
	one, two := base.With("d", "one"), base.With("d", "two")
	one.Info("m")
	two.Info("m")
	if err := queue.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if a, b := sent.entries[0].fields["D"], sent.entries[1].fields["D"]; a != "one" || b != "two" {
		t.Errorf("got D=%s and D=%s, want one and two", a, b)
	}
}

type marshaler string

func (m marshaler) MarshalText() ([]byte, error) {
	if m == "" {
		return nil, errors.New("empty")
	}
	return []byte(m), nil
}

type valuer struct{ v slog.Value }

func (v valuer) LogValue() slog.Value { return v.v }

type pathError struct{ path string }

func (e *pathError) Error() string { return e.path }
