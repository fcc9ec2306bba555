package vmtest

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestGuestSnapshots has a snapshot that was damaged, one that QEMU refuses, another
// QEMU, and no room for a snapshot: each time there is a guest in the end, and it is
// said what the laboratory did for that.
func TestGuestSnapshots(t *testing.T) {
	cfg := Config{Kernel: Kernels(t)[0], Bays: 1, Cmdline: "vmtest.snapshots"}
	if cfg.boots() {
		t.Skip("with KVM no guest is restored")
	}
	first := startSaying(t, cfg, Restored, "")
	state := filepath.Join(first.dir, stateFile)
	startSaying(t, cfg, Restored, "")

	text, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(state, text, 0o600); err != nil {
		t.Fatal(err)
	}
	startSaying(t, cfg, Restored, "thrown away and made anew")

	// Whole, and nothing that QEMU can read.
	if err := os.WriteFile(state, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum, err := sumOf(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(first.dir, sumFile), sum, 0o600); err != nil {
		t.Fatal(err)
	}
	startSaying(t, cfg, Restored, "thrown away and made anew")

	other := t.TempDir()
	real, err := exec.LookPath(qemuProgram)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, qemuProgram), []byte("#!/bin/sh\nexec "+quote(real)+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", other+":"+os.Getenv("PATH"))
	if s := startSaying(t, cfg, Restored, ""); s == first {
		t.Error("another QEMU has restored what the first has saved")
	}

	// A limit of what a process may write to one file, large enough for all but
	// the snapshot, stands for a disk that is full.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: mailboxSize, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_FSIZE, &limit)
	cfg.Cmdline += ".full"
	if s := startSaying(t, cfg, Booted, "this one is booted"); exists(s.dir) || exists(s.dir+".unfinished") {
		t.Errorf("a snapshot that was not written is left in %s", s.dir)
	}
}

// startSaying starts a guest and checks how, what the laboratory says meanwhile, and
// that it works. It gives the place of its snapshot.
func startSaying(t *testing.T, cfg Config, how, words string) snapshot {
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
	if !strings.Contains(said, words) || words == "" && said != "" {
		t.Errorf("the laboratory says %q, want %q", said, words)
	}
	place, err := (&Guest{cfg: cfg}).snapshotPlace(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return place
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

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestGuestOfASystemIsRestored restores a whole Debian, from a SATA disk, twice:
// each has its own disk, files and random numbers, and the time of day.
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
	seen := map[string]bool{}
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
		seconds, err := strconv.ParseInt(strings.TrimSpace(l.Do("date", "+%s")), 10, 64)
		if off := time.Since(time.Unix(seconds, 0)).Abs(); err != nil || off > time.Minute {
			t.Errorf("the guest's clock is %v off, %v", off, err)
		}
		seen[l.ReadFile("/proc/sys/kernel/random/uuid")] = true
		if state := l.Do("systemctl", "is-system-running"); state != "running\n" {
			t.Errorf("the system is %s", state)
		}
		l.Plug(0, Device{})
		l.WaitDriver(0, "nvme")
	}
	t.Run("first", restored)
	t.Run("second", restored)
	if len(seen) != 2 {
		t.Error("two guests have the same random numbers")
	}
}
