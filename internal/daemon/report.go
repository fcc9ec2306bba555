package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
)

// said is how an outcome is told.
type said struct {
	level slog.Level
	id    journal.MessageID
	text  func(operate.Result) string
}

var outcomes = map[operate.Outcome]said{
	operate.Direct: {slog.LevelInfo, journal.MessageDirect, func(r operate.Result) string {
		return fmt.Sprintf("bound %s to %s", r.Address, r.Driver)
	}},
	operate.Taken: {slog.LevelInfo, journal.MessageTaken, func(r operate.Result) string {
		return fmt.Sprintf("took %s from %s for %s", r.Address, r.From, r.Driver)
	}},
	operate.Already: {slog.LevelInfo, journal.MessageAlready, func(r operate.Result) string {
		return fmt.Sprintf("%s is on %s already", r.Address, r.Driver)
	}},
	operate.Left: {slog.LevelInfo, journal.MessageLeft, func(r operate.Result) string {
		return fmt.Sprintf("left %s alone: %s%s", r.Address, r.Reason, next(r.Remedy))
	}},
	operate.Refused: {slog.LevelWarn, journal.MessageRefused, func(r operate.Result) string {
		return fmt.Sprintf("refused to %s %s: %s%s", verb(r), r.Address, r.Reason, next(r.Remedy))
	}},
	operate.Failed: {slog.LevelError, journal.MessageFailed, func(r operate.Result) string {
		return fmt.Sprintf("could not %s %s: %s%s", verb(r), r.Address, r.Reason, next(r.Remedy))
	}},
	operate.Stuck: {slog.LevelWarn, journal.MessageHeld, func(r operate.Result) string {
		return fmt.Sprintf("%s is held up: %s%s", r.Address, r.Reason, next(r.Remedy))
	}},
	operate.Gone: {slog.LevelInfo, journal.MessageGone, func(r operate.Result) string {
		return fmt.Sprintf("%s is gone: %s", r.Address, r.Reason)
	}},
	operate.Released: {slog.LevelInfo, journal.MessageReleased, func(r operate.Result) string {
		return fmt.Sprintf("gave %s back: %s", r.Address, r.Reason)
	}},
}

// verb is what was to be done.
func verb(r operate.Result) string {
	if r.Release {
		return "release"
	}
	return "take"
}

func next(remedy string) string {
	if remedy == "" {
		return ""
	}
	return "; next: " + remedy
}

// logResult tells what became of a device. A scan that finds what was told
// before says it at debug level only, and so is the ordinary case of a device
// that no rule names.
func (d *Daemon) logResult(before, now operate.Result, arrival operate.Arrival) {
	how, ok := outcomes[now.Outcome]
	if !ok {
		how = said{slog.LevelError, journal.MessageFailed, func(r operate.Result) string { return fmt.Sprintf("%s: %s", r.Address, r.Reason) }}
	}
	level := how.level
	if scanned := arrival == operate.Found || arrival == operate.AtBoot; scanned && old(before, now) || arrival == operate.Bystander && same(before, now) {
		level = slog.LevelDebug
	}
	text := how.text(now)
	if now.Outcome.Bound() && before.InUse != nil { // its users have gone
		text += ", which was refused before: " + before.Reason
	}
	d.Log.LogAttrs(context.Background(), level, text, append(attrs(now), how.id.Attr())...)
	if now.Missed {
		d.Log.LogAttrs(context.Background(), slog.LevelError,
			fmt.Sprintf("guard missed: %s had %s first although guard %s was armed", now.From, now.Address, now.Guard),
			append(attrs(now), journal.MessageGuardMissed.Attr())...)
	}
}

// old reports whether a scan has found nothing that was not told before.
func old(before, now operate.Result) bool {
	switch {
	case same(before, now):
		return true
	case now.Outcome == operate.Already:
		return before.Outcome.Bound()
	}
	return now.Outcome == operate.Left && now.Rule == "" && now.Remedy == ""
}

func same(before, now operate.Result) bool {
	return now.Outcome == before.Outcome && now.Reason == before.Reason
}

// attrs gives the fields of a result; those that say nothing are left out.
func attrs(r operate.Result) []slog.Attr {
	all := []slog.Attr{
		slog.String("pci_address", r.Address.String()),
		slog.String("outcome", string(r.Outcome)),
		slog.String("driver", r.Driver),
		slog.String("from", r.From),
		slog.String("rule", r.Rule),
		slog.String("guard", r.Guard),
		slog.String("slot", r.Slot),
		slog.String("node", r.Node),
		slog.String("reason", r.Reason),
		slog.String("remedy", r.Remedy),
	}
	if r.Group != pci.NoGroup {
		all = append(all, slog.Int("iommu_group", r.Group))
	}
	if r.Latency > 0 {
		all = append(all, slog.Duration("latency", r.Latency))
	}
	kept := all[:0]
	for _, a := range all {
		if a.Value.Kind() != slog.KindString || a.Value.String() != "" {
			kept = append(kept, a)
		}
	}
	return kept
}

// logStuck tells that the kernel has not come back from a step on a device.
func (d *Daemon) logStuck(a pci.Address, step string, since time.Duration) {
	d.Log.Error(fmt.Sprintf("%s is stuck: %s has not ended for %v; other devices go on, and so does this one if the kernel comes back", a, step, since.Round(time.Second)),
		slog.String("pci_address", a.String()),
		slog.String("outcome", string(operate.Stuck)),
		slog.String("reason", step),
		slog.Duration("since", since),
		journal.MessageStuck.Attr())
}
