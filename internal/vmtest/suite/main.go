// Suite runs the tests: those of the code, all of it and then with the race
// detector, those of the package in whole Debians, and those in small guests. It
// ends with where the time went: the longest tests, and how guests were started.
//
//	go run ./internal/vmtest/suite [-guests 6.1,newest] [-quick]
//
// It must be called from the top of the tree.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest"
)

func main() {
	guests := flag.String("guests", "all", "kernels to run guests with, such as 6.1,newest")
	quick := flag.Bool("quick", false, "leave out what takes a whole Debian")
	flag.Parse()
	if *guests == "" {
		fmt.Fprintln(os.Stderr, "suite: -guests needs kernels, such as 6.1,newest, or all")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, stages(*guests, *quick)); err != nil {
		fmt.Fprintf(os.Stderr, "suite: %v\n", err)
		os.Exit(1)
	}
}

// A stage is one run of go test, through gotestsum.
type stage struct {
	name   string
	format string // of gotestsum
	kernel string // what guests run, "" for a stage without guests
	args   []string
}

// stages gives what is run, one after the other. Guests run side by side, as many
// as the laboratory lets: those of the package are alike in length, and so have a
// stage of their own.
func stages(guests string, quick bool) []stage {
	code := []string{"-timeout=30m", "./..."}
	all := []stage{
		{name: "code", format: "pkgname", args: code},
		// With a quarter of the daemon's trials: see everyNth in internal/daemon.
		{name: "race", format: "pkgname", args: slices.Concat([]string{"-race"}, code)},
	}
	inGuests := []string{"-count=1", "-p=1", "-timeout=75m"}
	if !quick {
		all = append(all, stage{name: "package", format: "standard-verbose", kernel: guests,
			args: slices.Concat(inGuests, []string{"-run=" + vmtest.SystemTests, "./internal/vmtest/scenario", "./internal/vmtest"})})
	}
	return append(all, stage{name: "guests", format: "standard-verbose", kernel: guests,
		args: slices.Concat(inGuests, []string{"-run=" + vmtest.GuestTests, "-skip=" + vmtest.SystemTests,
			"./internal/vmtest/scenario", "./internal/vmtest", "./internal/sysfstest"})})
}

// run runs all stages, also after one that has failed, and reports.
func run(ctx context.Context, out io.Writer, stages []stage) error {
	dir, err := os.MkdirTemp("", "vmtest-suite-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	memory, forget := inMemory()
	defer forget()
	account := filepath.Join(dir, "account")
	var all []stageResult
	var failed []error
	for _, s := range stages {
		if ctx.Err() != nil {
			break
		}
		env := []string{"GUESTS=" + s.kernel, vmtest.AccountVar + "=" + account}
		if s.kernel == "" {
			env = append(env, memory...)
		}
		events := filepath.Join(dir, s.name)
		began := time.Now()
		err := s.run(ctx, out, events, env)
		took := time.Since(began)
		r, readErr := readResults(events)
		if err := errors.Join(err, readErr); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", s.name, err))
		}
		all = append(all, stageResult{s.name, took, r})
	}
	entries, err := readAccount(account)
	failed = append(failed, err)
	report(out, all, entries)
	return errors.Join(append(failed, ctx.Err())...)
}

// inMemory gives the environment for tests that make thousands of small files: a
// directory for these in memory, where this machine has one with room in which
// programs may run. That halves their time. forget removes it.
func inMemory() (env []string, forget func()) {
	const shm, room = "/dev/shm", 1 << 30
	var fs unix.Statfs_t
	if err := unix.Statfs(shm, &fs); err != nil || fs.Flags&unix.ST_NOEXEC != 0 || fs.Bavail*uint64(fs.Bsize) < room {
		return nil, func() {}
	}
	dir, err := os.MkdirTemp(shm, "vmtest-suite-")
	if err != nil {
		return nil, func() {}
	}
	return []string{"TMPDIR=" + dir, "GOTMPDIR=" + os.TempDir()}, func() { os.RemoveAll(dir) }
}

func (s stage) run(ctx context.Context, out io.Writer, events string, env []string) error {
	fmt.Fprintf(out, "\n== %s: go test %q\n", s.name, s.args)
	args := append([]string{"tool", "-modfile=tools/go.mod", "gotestsum", "--format", s.format, "--jsonfile", events, "--"}, s.args...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	// go test does not tell its tests to end: all of them are told.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = time.Minute
	return cmd.Run()
}
