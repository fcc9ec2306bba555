package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"vfio-hotplug/internal/pci"
)

func TestAnEntryIsReadAsItWasWritten(t *testing.T) {
	l := open(t)
	want := Entry{
		Address:  vmd,
		Identity: 1<<64 - 1,
		Before:   Before{Driver: "nvme", Override: "pci-stub", New: true},
		Driver:   "vfio-pci",
		Rule:     `front <bays> "1"`,
		Outcome:  "taken",
		Latency:  1234567 * time.Nanosecond,
		At:       time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC),
		Stage:    Taken,
	}
	must(t, l.Put(want))
	got, found, err := l.Get(vmd)
	if err != nil || !found {
		t.Fatalf("Get: found %v, error %v", found, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheLastPutCountsAndDeleteRemovesIt(t *testing.T) {
	l := open(t)
	must(t, l.Put(small))
	must(t, l.Put(large))
	if got, _, err := l.Get(bay1); err != nil || !cmp.Equal(got, large) {
		t.Errorf("Get after two Puts: stage %q, error %v; want stage %q", got.Stage, err, large.Stage)
	}
	must(t, l.Delete(bay1))
	must(t, l.Delete(bay1))
	if _, found, err := l.Get(bay1); found || err != nil {
		t.Errorf("Get after Delete: found %v, error %v", found, err)
	}
}

func TestPutRefusesWhatGetWouldNotBelieve(t *testing.T) {
	for name, e := range map[string]Entry{
		"no stage":  {Address: bay1, Driver: "vfio-pci"},
		"no driver": {Address: bay1, Stage: Taken},
	} {
		l := open(t)
		if err := l.Put(e); err == nil {
			t.Errorf("%s: Put took it", name)
		}
		if _, found, err := l.Get(bay1); found || err != nil {
			t.Errorf("%s: Get: found %v, error %v", name, found, err)
		}
	}
}

func TestAllIsInOrderOfAddress(t *testing.T) {
	l := open(t)
	for _, a := range []pci.Address{vmd, bay2, bay1} {
		must(t, l.Put(Entry{Address: a, Driver: "vfio-pci", Stage: Taken}))
	}
	all, err := l.All()
	must(t, err)
	var got []pci.Address
	for _, e := range all {
		got = append(got, e.Address)
	}
	if diff := cmp.Diff([]pci.Address{bay1, bay2, vmd}, got); diff != "" {
		t.Error(diff)
	}
}

func TestFilesAreForRootAloneAndOthersMayPass(t *testing.T) {
	l := open(t)
	must(t, l.Put(small))
	must(t, l.Release(bay2, 1))
	lock, err := l.Lock(bay1)
	must(t, err)
	defer lock.Unlock()
	err = filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o755
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s: mode %04o, want %04o", path, info.Mode().Perm(), want)
		}
		return nil
	})
	must(t, err)
}

func TestADirectoryThatOthersCanWriteToIsRefused(t *testing.T) {
	for _, folder := range []string{".", devices, released, locks, aside} {
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dir, folder), 0o755))
		must(t, os.Chmod(filepath.Join(dir, folder), 0o777))
		if _, err := Open(dir, "/proc"); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
			t.Errorf("%s: error %v, want one that says chmod go-w", folder, err)
		}
	}
}

func TestWithoutPermissionEveryCallSaysSo(t *testing.T) {
	l := open(t)
	must(t, l.Put(small))
	must(t, os.Chmod(l.dir, 0o700))
	if os.Getuid() != 0 {
		must(t, os.Chmod(l.dir, 0))
		defer os.Chmod(l.dir, 0o700)
	}
	calls := map[string]func() error{
		"Put":      func() error { return l.Put(large) },
		"Get":      func() error { _, _, err := l.Get(bay1); return err },
		"Delete":   func() error { return l.Delete(bay1) },
		"All":      func() error { _, err := l.All(); return err },
		"Release":  func() error { return l.Release(bay1, 1) },
		"Released": func() error { _, err := l.Released(bay1, 1); return err },
		"Forget":   func() error { return l.Forget(bay1) },
		"Lock":     func() error { _, err := l.Lock(bay1); return err },
		"Prune": func() error {
			_, err := l.Prune(func(pci.Address) (uint64, bool) { return 0, false })
			return err
		},
	}
	unprivileged(func() {
		for name, call := range calls {
			if err := call(); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: error %v, want permission denied", name, err)
			}
		}
	})
	must(t, os.Chmod(l.dir, 0o755))
	if got, _, err := l.Get(bay1); err != nil || !cmp.Equal(got, small) {
		t.Errorf("the entry did not outlive it: %+v, error %v", got, err)
	}
}

// errKilled ends a write where a kill -9 would.
var errKilled = errors.New("killed")

// dying are files whose writer dies at a step.
type dying struct {
	kernelFiles
	step string
}

func (d dying) write(name string, data []byte) error {
	switch d.step {
	case "before the open":
		return errKilled
	case "after the open":
		data = nil
	case "inside the write":
		data = data[:len(data)/2]
	}
	err := d.kernelFiles.write(name, data)
	if d.step != "after the rename" {
		err = errKilled
	}
	return err
}

func (d dying) rename(from, to string) error {
	return errors.Join(d.kernelFiles.rename(from, to), errKilled)
}

func TestAKillAtAnyStepLeavesTheOldEntryOrTheNewOne(t *testing.T) {
	for _, step := range []struct {
		name    string
		written bool
	}{
		{"before the open", false},
		{"after the open", false},
		{"inside the write", false},
		{"before the rename", false},
		{"after the rename", true},
	} {
		for _, before := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/entry before %v", step.name, before), func(t *testing.T) {
				l := open(t)
				var want []Entry
				if before {
					must(t, l.Put(small))
					want = []Entry{small}
				}
				if step.written {
					want = []Entry{large}
				}
				l.files = dying{step: step.name}
				if err := l.Put(large); !errors.Is(err, errKilled) {
					t.Fatalf("Put: %v", err)
				}

				again, err := Open(l.dir, "/proc")
				must(t, err)
				got, err := again.All()
				must(t, err)
				if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
					t.Error(diff)
				}
				must(t, again.Put(small))
				if got, _, err := again.Get(bay1); err != nil || !cmp.Equal(got, small) {
					t.Errorf("the next Put did not work: %+v, error %v", got, err)
				}
			})
		}
	}
}

func TestARealKillLeavesAWholeEntry(t *testing.T) {
	l := open(t)
	for round := range 10 {
		cmd := start(t, "write", nil, l.dir)
		cmd.expect(t, "writing\n")
		// Each round kills somewhere else: the scheduler decides.
		for range round * 100 {
			if _, _, err := l.Get(bay1); err != nil {
				t.Fatalf("while it was written: %v", err)
			}
		}
		must(t, cmd.Process.Kill())
		cmd.Wait()
		got, found, err := l.Get(bay1)
		if err != nil || !found || !cmp.Equal(got, small) && !cmp.Equal(got, large) {
			t.Fatalf("round %d: found %v, stage %q, error %v", round, found, got.Stage, err)
		}
	}
}

func TestOneBadFileStopsNoOther(t *testing.T) {
	good, err := encode(small)
	must(t, err)
	other, err := encode(Entry{Address: bay2, Driver: "vfio-pci", Stage: Taken})
	must(t, err)
	stage, err := encode(Entry{Address: bay1, Driver: "vfio-pci", Stage: "took"})
	must(t, err)
	name := bay1.String() + suffix
	for _, c := range []struct {
		what, file string
		content    []byte
		says       string
	}{
		{"empty", name, nil, "torn or not ours"},
		{"torn", name, good[:len(good)/2], "torn or not ours"},
		{"not JSON", name, []byte("hello\n"), "torn or not ours"},
		{"two files in one", name, append(append([]byte{}, good...), good...), "torn or not ours"},
		{"a flipped bit", name, []byte(strings.Replace(string(good), "vfio-pci", "vfio-pbi", 1)), "its checksum is"},
		{"no checksum", name, []byte(`{"version":1,"record":{}}`), "its checksum is"},
		{"of a later version", name, []byte(strings.Replace(string(good), `"version":1`, `"version":2`, 1)), "version 2"},
		{"of another device", name, other, "it speaks of 0000:02:00.0"},
		{"of an unknown stage", name, stage, `unknown stage "took"`},
		{"a foreign name", "README", good, "not that of a device's file"},
		{"another spelling", "01:00.0.json", good, "not that of a device's file"},
	} {
		t.Run(c.what, func(t *testing.T) {
			l := open(t)
			neighbour := Entry{Address: bay2, Driver: "vfio-pci", Stage: Taken}
			must(t, l.Put(neighbour))
			bad := filepath.Join(l.dir, devices, c.file)
			must(t, os.WriteFile(bad, c.content, 0o600))

			all, err := l.All()
			if len(all) != 1 || !cmp.Equal(all[0], neighbour) {
				t.Errorf("All gave %+v, want the neighbour alone", all)
			}
			fault, ok := errors.AsType[*FileError](err)
			if !ok {
				t.Fatalf("All: error %v, want a *FileError", err)
			}
			if fault.File != bad || !strings.Contains(fault.Error(), c.says) {
				t.Errorf("error %q, want it to name %s and say %q", fault, bad, c.says)
			}
			kept, err := os.ReadFile(fault.Aside)
			if err != nil || string(kept) != string(c.content) {
				t.Errorf("kept aside: %q, error %v; want %q", kept, err, c.content)
			}
			if _, err := l.All(); err != nil {
				t.Errorf("All again: %v", err)
			}
		})
	}
}

func TestBadFilesOfOneNameAreAllKept(t *testing.T) {
	l := open(t)
	bad := l.file(devices, bay1)
	for n := range 3 {
		must(t, os.WriteFile(bad, fmt.Appendf(nil, "bad %d", n), 0o600))
		if _, err := l.All(); err == nil {
			t.Fatal("All believed it")
		}
	}
	kept, err := os.ReadDir(filepath.Join(l.dir, aside))
	must(t, err)
	if len(kept) != 3 {
		t.Errorf("%d files kept, want 3", len(kept))
	}
}

func TestABadFileWhoseDeviceIsLockedStays(t *testing.T) {
	l := open(t)
	bad := l.file(devices, bay1)
	must(t, os.WriteFile(bad, []byte("bad"), 0o600))
	lock, err := l.Lock(bay1)
	must(t, err)
	defer lock.Unlock()
	_, err = l.All()
	fault, ok := errors.AsType[*FileError](err)
	if !ok || fault.Aside != "" {
		t.Fatalf("error %v, want a *FileError of a file that stays", err)
	}
	if _, err := os.Stat(bad); err != nil {
		t.Error(err)
	}
}

func TestPruneDropsWhatSpeaksOfAnotherDevice(t *testing.T) {
	l := open(t)
	gone, replaced, here, busy := bay1, bay2, vmd, pci.Address{Bus: 9}
	for _, a := range []pci.Address{gone, replaced, here, busy} {
		must(t, l.Put(Entry{Address: a, Identity: 7, Driver: "vfio-pci", Stage: Taken}))
		must(t, l.Release(a, 7))
	}
	lock, err := l.Lock(busy)
	must(t, err)
	defer lock.Unlock()

	dropped, err := l.Prune(func(a pci.Address) (uint64, bool) {
		switch a {
		case here:
			return 7, true
		case replaced:
			return 8, true
		}
		return 0, false
	})
	must(t, err)
	if len(dropped) != 2 || dropped[0].Address != gone || dropped[1].Address != replaced {
		t.Errorf("dropped %+v, want %s and %s", dropped, gone, replaced)
	}
	for a, want := range map[pci.Address]bool{gone: false, replaced: false, here: true, busy: true} {
		if _, found, err := l.Get(a); found != want || err != nil {
			t.Errorf("%s: entry found %v, error %v; want %v", a, found, err, want)
		}
		if found, err := l.Released(a, 7); found != want || err != nil {
			t.Errorf("%s: released %v, error %v; want %v", a, found, err, want)
		}
	}
}

func TestAReleaseHoldsForOneIncarnation(t *testing.T) {
	l := open(t)
	ask := func(identity uint64, want bool) {
		t.Helper()
		again, err := Open(l.dir, "/proc")
		must(t, err)
		if got, err := again.Released(bay1, identity); got != want || err != nil {
			t.Errorf("Released(%d): %v, error %v; want %v", identity, got, err, want)
		}
	}
	ask(7, false)
	must(t, l.Release(bay1, 7))
	ask(7, true)
	ask(8, false)
	must(t, l.Release(bay1, 8))
	ask(7, false)
	ask(8, true)
	must(t, l.Forget(bay1))
	must(t, l.Forget(bay1))
	ask(8, false)
}

func TestAReleaseThatCannotBeReadStillHolds(t *testing.T) {
	l := open(t)
	must(t, os.WriteFile(l.file(released, bay1), []byte("torn"), 0o600))
	got, err := l.Released(bay1, 7)
	if _, ok := errors.AsType[*FileError](err); !got || !ok {
		t.Errorf("Released: %v, error %v; want true and a *FileError", got, err)
	}
	must(t, l.Forget(bay1))
	if got, err := l.Released(bay1, 7); got || err != nil {
		t.Errorf("after Forget: %v, error %v", got, err)
	}
}

func TestDevicesAreWrittenAtOnce(t *testing.T) {
	l := open(t)
	var workers sync.WaitGroup
	const bays, rounds = 12, 50
	for bay := range bays {
		workers.Go(func() {
			a := pci.Address{Bus: uint8(bay)}
			for n := range rounds {
				lock, err := l.LockWait(t.Context(), a)
				if err != nil {
					t.Error(err)
					return
				}
				if err := l.Put(Entry{Address: a, Identity: uint64(n), Driver: "vfio-pci", Stage: Taking}); err != nil {
					t.Error(err)
				}
				if e, found, err := l.Get(a); err != nil || !found || e.Identity != uint64(n) {
					t.Errorf("%s: read %d after writing %d, error %v", a, e.Identity, n, err)
				}
				if err := lock.Unlock(); err != nil {
					t.Error(err)
				}
				if _, err := l.All(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	if all, err := l.All(); len(all) != bays || err != nil {
		t.Errorf("%d entries, error %v; want %d", len(all), err, bays)
	}
}

func BenchmarkPut(b *testing.B) {
	l, err := Open(b.TempDir(), "/proc")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := l.Put(small); err != nil {
			b.Fatal(err)
		}
	}
}
