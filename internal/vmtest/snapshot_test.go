package vmtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/cache"
	"vfio-hotplug/internal/vmtest/wire"
)

// TestGuestSnapshots has a snapshot that was damaged, one that QEMU refuses, another
// QEMU, and no room for a snapshot: each time there is a guest in the end, and it is
// said what the laboratory did for that.
func TestGuestSnapshots(t *testing.T) {
	cfg := Config{Kernel: Kernels(t)[0], Bays: 1, Cmdline: "vmtest.snapshots=" + strconv.Itoa(os.Getpid())}
	if cfg.boots() {
		t.Skip("with KVM no guest is restored")
	}
	const anew = "thrown away and made anew"
	dir := startWarning(t, cfg, Restored, "")
	state, sums := filepath.Join(dir, stateFile), filepath.Join(dir, sumsFile)
	startWarning(t, cfg, Restored, "")

	text, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(state, text, 0o600); err != nil {
		t.Fatal(err)
	}
	startWarning(t, cfg, Restored, anew)

	// Whole, and nothing that QEMU can read.
	if err := os.WriteFile(state, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	valid, err := cfg.sums(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sums, valid, 0o600); err != nil {
		t.Fatal(err)
	}
	startWarning(t, cfg, Restored, anew)

	// Damaged, and somebody else has it: it is left to him.
	if err := os.WriteFile(sums, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := cache.Share(dir + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	startWarning(t, cfg, Booted, "this guest is booted")
	other.Close()

	programs := t.TempDir()
	real, err := exec.LookPath(qemuProgram)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(programs, qemuProgram), []byte("#!/bin/sh\nexec "+quote(real)+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	if now := startWarning(t, cfg, Restored, ""); now == dir {
		t.Error("another QEMU has restored what the first has saved")
	}

	// A limit of what a process may write to one file, large enough for all but
	// the snapshot, stands for a disk that is full.
	signal.Ignore(unix.SIGXFSZ)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: wire.MailboxSize, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_FSIZE, &limit)
	cfg.Cmdline += ".full"
	dir = startWarning(t, cfg, Booted, "file too large")
	for _, left := range []string{dir, dir + ".unfinished"} {
		if _, err := os.Lstat(left); err == nil {
			t.Errorf("a snapshot that was not written is left in %s", left)
		}
	}
}

// startWarning starts a guest and checks how it was started, of what the laboratory
// warns meanwhile, and that the guest works. It gives the place of its snapshot,
// which goes with the test.
func startWarning(t *testing.T, cfg Config, how, words string) (dir string) {
	t.Helper()
	said := stderrOf(t, func() {
		t.Run(how+" "+words, func(t *testing.T) {
			l := Boot(t, cfg)
			if _, was := l.StartTime(); was != how {
				t.Errorf("the guest was %s, want %s", was, how)
			}
			l.Plug(0, Device{})
			l.WaitUevent(0, Match{Action: "add", Subsystem: "pci", Devpath: l.Address(0)})
		})
	})
	// That a boot is tried again is another matter.
	said = regexp.MustCompile("(?m)^.*"+EmulatorFault+".*\n").ReplaceAllString(said, "")
	if !strings.Contains(said, words) || words == "" && said != "" {
		t.Errorf("the laboratory says %q, want %q", said, words)
	}
	dir, err := (&Guest{cfg: cfg}).snapshotDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// stderrOf gives what this process writes to its standard error meanwhile.
func stderrOf(t *testing.T, do func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var said bytes.Buffer
	read := make(chan struct{})
	go func() { io.Copy(&said, r); close(read) }()
	before := os.Stderr
	os.Stderr = w
	do()
	os.Stderr = before
	w.Close()
	<-read
	return said.String()
}

// TestGuestOfASystemIsRestored restores a whole Debian, from a SATA disk, twice:
// each has its own disk and files, and the time of day that it is told.
func TestGuestOfASystemIsRestored(t *testing.T) {
	k := Kernels(t)[0]
	t.Parallel()
	found := systems(t, k)
	if len(found) == 0 {
		t.Skipf("there is no package guest with kernel %s", k)
	}
	cfg := Config{Kernel: k, System: &found[0], SATARoot: true}
	if cfg.boots() {
		t.Skip("with KVM no guest is restored")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("contents"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.Files = map[string]string{"/srv/file": file}
	restored := func(t *testing.T) {
		l := Boot(t, cfg)
		if took, how := l.StartTime(); how != Restored {
			t.Errorf("the guest was %s, in %v", how, took)
		}
		if got := l.ReadFile("/srv/file"); got != "contents" {
			t.Errorf("the file is %q", got)
		}
		if l.Exists("/var/own") {
			t.Error("this guest has the disk of the one before")
		}
		l.Do("sh", "-c", "echo >/var/own && sync")
		l.wantTime(time.Now())
		tomorrow := time.Now().Add(24 * time.Hour)
		l.do(func(ctx context.Context) error {
			var reply wire.Outcome
			return errors.Join(l.call(ctx, "Resume", wire.Resume{Time: tomorrow, Seed: []byte("seed")}, &reply), failure(reply))
		})
		l.wantTime(tomorrow)
		if state := l.Do("systemctl", "is-system-running"); state != "running\n" {
			t.Errorf("the system is %s", state)
		}
		l.Plug(0, Device{})
		l.WaitDriver(0, "nvme")
	}
	t.Run("first", restored)
	t.Run("second", restored)
}

// wantTime checks the guest's time of day.
func (l *Lab) wantTime(want time.Time) {
	l.t.Helper()
	seconds, err := strconv.ParseInt(strings.TrimSpace(l.Do("date", "+%s")), 10, 64)
	if off := time.Unix(seconds, 0).Sub(want).Abs(); err != nil || off > 10*time.Minute {
		l.t.Errorf("the guest's clock is %v off, %v", off, err)
	}
}

// TestABootThatFailsIsAnError asks a guest that has never answered.
func TestABootThatFailsIsAnError(t *testing.T) {
	g := &Guest{}
	if err := g.WriteFile(t.Context(), "/dev/null", ""); err == nil || !strings.Contains(err.Error(), "never answered") {
		t.Errorf("error %v, want that it has never answered", err)
	}
}
