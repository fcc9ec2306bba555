package vmtest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"vfio-hotplug/internal/vmtest/wire"
)

const (
	bootDeadline = 3 * time.Minute
	// packageBootDeadline is for a whole Debian, which takes half a minute
	// emulated on a machine that is not busy.
	packageBootDeadline = 20 * time.Minute
	// stepDeadline is for one operation on a guest; emulated, on a busy
	// machine, each takes well under ten seconds.
	stepDeadline = 2 * time.Minute
)

// A Lab is a Guest for a test: an operation that goes wrong ends the test. For
// one that is meant to go wrong, call the Guest's.
type Lab struct {
	*Guest
	t testing.TB
}

// Boot starts a guest for a test (see Start), which ends with it. When the test has failed,
// the guest's directory is kept and its path logged.
func Boot(t testing.TB, cfg Config) *Lab {
	t.Helper()
	ctx := t.Context()
	turn, err := takeTurn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { turn.Close() })
	bench, err := newBench(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { clear(t, bench) })
	g, err := Start(ctx, cfg, bench.dir)
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{Guest: g, t: t}
	t.Cleanup(l.close)
	took, how := g.StartTime()
	t.Logf("%s, %s hot-plug: %s in %.1f s", cfg.Kernel, cfg.Hotplug, how, took.Seconds())
	return l
}

func (l *Lab) close() {
	if l.t.Failed() {
		ctx, cancel := context.WithTimeout(context.Background(), stepDeadline)
		defer cancel()
		if err := l.Guest.Record(ctx); err != nil {
			l.t.Logf("what the failed guest saw: %v", err)
		}
	}
	if err := l.Guest.Close(); err != nil {
		l.t.Errorf("close the guest: %v", err)
	}
}

func clear(t testing.TB, b *bench) {
	if !t.Failed() {
		if err := b.remove(); err != nil {
			t.Errorf("remove the guest's files: %v", err)
		}
		return
	}
	dir, err := b.keep()
	if err != nil {
		t.Logf("keep the guest's files: %v", err)
	}
	t.Logf("the guest's console, logs and %s: %s\nthe test again: %s", reproduceFile, dir, again(t.Name()))
}

// again gives the command that runs one test.
func again(name string) string {
	var pattern []string
	for part := range strings.SplitSeq(name, "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	dir, err := os.Getwd()
	if err != nil {
		dir = "."
	}
	return fmt.Sprintf("cd %s && GUESTS=%s go test -count=1 -v -run %s .", quote(dir), os.Getenv("GUESTS"), quote(strings.Join(pattern, "/")))
}

// Step gives a context for one operation of the Guest.
func (l *Lab) Step() (context.Context, context.CancelFunc) {
	return context.WithTimeout(l.t.Context(), stepDeadline)
}

// must runs an operation that has to go well.
func must[T any](l *Lab, do func(context.Context) (T, error)) T {
	l.t.Helper()
	ctx, cancel := l.Step()
	defer cancel()
	result, err := do(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	return result
}

func (l *Lab) do(step func(context.Context) error) {
	l.t.Helper()
	must(l, func(ctx context.Context) (struct{}, error) { return struct{}{}, step(ctx) })
}

// Plug is Guest.Plug.
func (l *Lab) Plug(bay int, d Device) {
	l.t.Helper()
	l.do(func(ctx context.Context) error { return l.Guest.Plug(ctx, bay, d) })
}

// Unplug is Guest.Unplug.
func (l *Lab) Unplug(bay int) {
	l.t.Helper()
	l.do(func(ctx context.Context) error { return l.Guest.Unplug(ctx, bay) })
}

// Address is Guest.Address.
func (l *Lab) Address(bay int) string {
	l.t.Helper()
	return must(l, func(ctx context.Context) (string, error) { return l.Guest.Address(ctx, bay) })
}

// Driver is Guest.Driver.
func (l *Lab) Driver(bay int) string {
	l.t.Helper()
	return must(l, func(ctx context.Context) (string, error) { return l.Guest.Driver(ctx, bay) })
}

// WaitDriver waits until the device in a bay is bound to a driver.
func (l *Lab) WaitDriver(bay int, driver string) {
	l.t.Helper()
	address := l.Address(bay)
	l.WaitFor(address+" to be bound to "+driver, func(ctx context.Context) (bool, error) {
		is, err := l.Guest.Driver(ctx, bay)
		return is == driver, absent(err)
	})
}

// absent takes "is not there" for an ordinary answer.
func absent(err error) error {
	if err != nil && os.IsNotExist(err) {
		return nil
	}
	return err
}

// RootAddress is Guest.RootAddress.
func (l *Lab) RootAddress() string {
	l.t.Helper()
	return must(l, l.Guest.RootAddress)
}

// Reboot is Guest.Reboot.
func (l *Lab) Reboot(words ...string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), packageBootDeadline)
	defer cancel()
	if err := l.Guest.Reboot(ctx, words...); err != nil {
		l.t.Fatal(err)
	}
}

// Run is Guest.Run, with argv.
func (l *Lab) Run(argv ...string) Finished {
	l.t.Helper()
	return must(l, func(ctx context.Context) (Finished, error) { return l.Guest.Run(ctx, Command{Argv: argv}) })
}

// Do is Run for a program that must exit with 0. It gives what the program
// wrote to its standard output.
func (l *Lab) Do(argv ...string) string {
	l.t.Helper()
	f := l.Run(argv...)
	if f.Code != 0 {
		l.t.Fatalf("%s: exit code %d %s: %s%s", strings.Join(argv, " "), f.Code, f.Signal, f.Stdout, f.Stderr)
	}
	return string(f.Stdout)
}

// Start is Guest.Start.
func (l *Lab) Start(b Background) *LabProcess {
	l.t.Helper()
	p := must(l, func(ctx context.Context) (*Process, error) { return l.Guest.Start(ctx, b) })
	return &LabProcess{Process: p, lab: l}
}

// ReadFile is Guest.ReadFile.
func (l *Lab) ReadFile(path string) string {
	l.t.Helper()
	return must(l, func(ctx context.Context) (string, error) { return l.Guest.ReadFile(ctx, path) })
}

// WriteFile is Guest.WriteFile.
func (l *Lab) WriteFile(path, data string) {
	l.t.Helper()
	l.do(func(ctx context.Context) error { return l.Guest.WriteFile(ctx, path, data) })
}

// CreateFile is Guest.CreateFile.
func (l *Lab) CreateFile(path, data string, mode fs.FileMode) {
	l.t.Helper()
	l.do(func(ctx context.Context) error { return l.Guest.CreateFile(ctx, path, data, mode) })
}

// Exists tells whether a file is in the guest.
func (l *Lab) Exists(path string) bool {
	l.t.Helper()
	return must(l, func(ctx context.Context) (bool, error) {
		_, err := l.Guest.Stat(ctx, path)
		return err == nil, absent(err)
	})
}

// Stat is Guest.Stat.
func (l *Lab) Stat(path string) wire.Info {
	l.t.Helper()
	return must(l, func(ctx context.Context) (wire.Info, error) { return l.Guest.Stat(ctx, path) })
}

// Glob is Guest.Glob.
func (l *Lab) Glob(pattern string) []string {
	l.t.Helper()
	return must(l, func(ctx context.Context) ([]string, error) { return l.Guest.Glob(ctx, pattern) })
}

// LoadModule is Guest.LoadModule.
func (l *Lab) LoadModule(name, params string) {
	l.t.Helper()
	l.do(func(ctx context.Context) error { return l.Guest.LoadModule(ctx, name, params) })
}

// UnloadModule is Guest.UnloadModule.
func (l *Lab) UnloadModule(name string) {
	l.t.Helper()
	l.do(func(ctx context.Context) error { return l.Guest.UnloadModule(ctx, name) })
}

// Mark is Guest.Mark.
func (l *Lab) Mark() int {
	l.t.Helper()
	return must(l, l.Guest.Mark)
}

// Uevents is Guest.Uevents.
func (l *Lab) Uevents(mark int, m Match) []Uevent {
	l.t.Helper()
	return must(l, func(ctx context.Context) ([]Uevent, error) { return l.Guest.Uevents(ctx, mark, m) })
}

// WaitUevents is Guest.WaitUevents.
func (l *Lab) WaitUevents(mark int, m Match, count int) []Uevent {
	l.t.Helper()
	return must(l, func(ctx context.Context) ([]Uevent, error) { return l.Guest.WaitUevents(ctx, mark, m, count) })
}

// WaitUevent waits for the first uevent since a Mark that matches.
func (l *Lab) WaitUevent(mark int, m Match) Uevent {
	l.t.Helper()
	return l.WaitUevents(mark, m, 1)[0]
}

// WaitFor is Guest.WaitFor.
func (l *Lab) WaitFor(what string, ready func(context.Context) (bool, error)) {
	l.t.Helper()
	l.do(func(ctx context.Context) error { return l.Guest.WaitFor(ctx, what, ready) })
}

// TraceWrites is Guest.TraceWrites.
func (l *Lab) TraceWrites() {
	l.t.Helper()
	l.do(l.Guest.TraceWrites)
}

// Writes is Guest.Writes.
func (l *Lab) Writes() []SysWrite {
	l.t.Helper()
	return must(l, l.Guest.Writes)
}

// A LabProcess is a Process for a test, as a Lab is a Guest.
type LabProcess struct {
	*Process
	lab *Lab
}

// Lines is Process.Lines.
func (p *LabProcess) Lines(since int, match string) []Line {
	p.lab.t.Helper()
	return must(p.lab, func(ctx context.Context) ([]Line, error) { return p.Process.Lines(ctx, since, match) })
}

// WaitLine waits for a line of output that matches a regular expression, be it
// written already.
func (p *LabProcess) WaitLine(match string) Line {
	p.lab.t.Helper()
	lines := p.Lines(0, match)
	return lines[len(lines)-1]
}

// WaitReady waits until the program said READY=1; it must have been started
// with Notify.
func (p *LabProcess) WaitReady() {
	p.lab.t.Helper()
	p.WaitLine("^READY=1$")
}

// Output is Process.Output.
func (p *LabProcess) Output() []Line {
	p.lab.t.Helper()
	return must(p.lab, p.Process.Output)
}

// Signal is Process.Signal.
func (p *LabProcess) Signal(s syscall.Signal) {
	p.lab.t.Helper()
	p.lab.do(func(ctx context.Context) error { return p.Process.Signal(ctx, s) })
}

// Wait is Process.Wait.
func (p *LabProcess) Wait() Finished {
	p.lab.t.Helper()
	return must(p.lab, p.Process.Wait)
}

// Stop sends SIGTERM and waits for the end.
func (p *LabProcess) Stop() Finished {
	p.lab.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait()
}

// scratch is where guests work and failed ones stay.
func scratch(cacheDir string) (runs, failed string) {
	return filepath.Join(cacheDir, "runs"), filepath.Join(cacheDir, "failed")
}
