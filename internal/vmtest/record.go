package vmtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Record writes a script that boots the same machine, and what the guest saw, uevents, writes below /sys and output of
// programs, into its directory; of a package guest the journal, too.
func (g *Guest) Record(ctx context.Context) error {
	errs := []error{g.writeReproduce(), g.recordUevents(ctx), g.recordWrites(ctx)}
	if g.cfg.System != nil {
		errs = append(errs, g.recordJournal(ctx))
	}
	g.mu.Lock()
	processes := slices.Clone(g.processes)
	g.mu.Unlock()
	for _, p := range processes {
		errs = append(errs, g.recordProcess(ctx, p))
	}
	return errors.Join(errs...)
}

func (g *Guest) recordUevents(ctx context.Context) error {
	events, err := g.Uevents(ctx, 0, Match{})
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "%12.6f %s %s", e.Time.Seconds(), e.Action, e.Devpath)
		for _, key := range slices.Sorted(maps.Keys(e.Env)) {
			fmt.Fprintf(&b, " %s=%s", key, e.Env[key])
		}
		b.WriteByte('\n')
	}
	return errors.Join(err, g.record("uevents.log", b.String()))
}

func (g *Guest) recordWrites(ctx context.Context) error {
	writes, err := g.Writes(ctx)
	var b strings.Builder
	for _, w := range writes {
		fmt.Fprintf(&b, "%12.6f %s %d %s %q\n", w.Time.Seconds(), w.Command, w.PID, w.Path, w.Data)
	}
	return errors.Join(err, g.record("writes.log", b.String()))
}

func (g *Guest) recordJournal(ctx context.Context) error {
	f, err := g.Run(ctx, Command{Argv: []string{"journalctl", "--no-pager", "--output=short-monotonic", "--no-hostname"}})
	return errors.Join(err, g.record("journal.log", string(f.Stdout)))
}

func (g *Guest) recordProcess(ctx context.Context, p *Process) error {
	lines, err := p.Output(ctx)
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "%12.6f %s %s\n", line.Time.Seconds(), line.Stream, line.Text)
	}
	return errors.Join(err, g.record(fmt.Sprintf("process-%d.log", p.PID), b.String()))
}

func (g *Guest) record(name, text string) error {
	return os.WriteFile(filepath.Join(g.dir, name), []byte(text), 0o600)
}
