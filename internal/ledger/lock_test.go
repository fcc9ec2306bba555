package ledger

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestALockIsForOne(t *testing.T) {
	l := open(t)
	lock, err := l.Lock(bay1)
	must(t, err)

	_, err = l.Lock(bay1)
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || !errors.Is(err, ErrLocked) {
		t.Fatalf("second Lock: error %v, want a *LockedError", err)
	}
	if locked.Address != bay1 || locked.PID != os.Getpid() || !strings.Contains(err.Error(), locked.Command) || locked.Command == "" {
		t.Errorf("error %q does not name this process (%d)", err, os.Getpid())
	}
	other, err := l.Lock(bay2)
	must(t, err)
	must(t, other.Unlock())

	must(t, lock.Unlock())
	lock, err = l.Lock(bay1)
	must(t, err)
	must(t, lock.Unlock())
}

func TestAHolderThatCannotBeSeenIsNotInvented(t *testing.T) {
	l := open(t)
	lock, err := l.Lock(bay1)
	must(t, err)
	defer lock.Unlock()
	l.proc = t.TempDir()
	_, err = l.Lock(bay1)
	if locked, ok := errors.AsType[*LockedError](err); !ok || locked.PID != 0 {
		t.Errorf("error %v, want a *LockedError without a process", err)
	}
}

func TestAChildThatInheritedTheLockKeepsIt(t *testing.T) {
	l := open(t)
	lock, err := l.Lock(bay1)
	must(t, err)
	child := start(t, "hold", []*os.File{lock.File()})
	must(t, lock.Unlock())

	_, err = l.Lock(bay1)
	if locked, ok := errors.AsType[*LockedError](err); !ok || locked.PID != child.Process.Pid {
		t.Fatalf("Lock: error %v, want it locked by the child, process %d", err, child.Process.Pid)
	}

	must(t, child.Process.Kill())
	child.Wait()
	lock, err = l.Lock(bay1)
	must(t, err)
	must(t, lock.Unlock())
}

func TestALockEndsWithItsProcess(t *testing.T) {
	l := open(t)
	holder := start(t, "lock", nil, l.dir)
	holder.expect(t, "locked\n")
	_, err := l.Lock(bay1)
	if locked, ok := errors.AsType[*LockedError](err); !ok || locked.PID != holder.Process.Pid {
		t.Fatalf("Lock: error %v, want it locked by process %d", err, holder.Process.Pid)
	}
	must(t, holder.Process.Kill())
	holder.Wait()
	lock, err := l.Lock(bay1)
	must(t, err)
	must(t, lock.Unlock())
}

func TestProcessesTakeTurns(t *testing.T) {
	l := open(t)
	file := filepath.Join(t.TempDir(), "count")
	must(t, os.WriteFile(file, []byte("0"), 0o600))
	first := start(t, "count", nil, l.dir, file, "200")
	second := start(t, "count", nil, l.dir, file, "200")
	must(t, first.Wait())
	must(t, second.Wait())
	if got, err := os.ReadFile(file); string(got) != "400" {
		t.Errorf("counted %s, error %v; want 400", got, err)
	}
}

func TestLockWaitComesAtMostAnEighthLate(t *testing.T) {
	for _, held := range []time.Duration{2 * time.Millisecond, 100 * time.Millisecond, 10 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			l := open(t)
			lock, err := l.Lock(bay1)
			must(t, err)
			began := time.Now()
			time.AfterFunc(held, func() {
				if err := lock.Unlock(); err != nil {
					t.Error(err)
				}
			})
			second, err := l.LockWait(t.Context(), bay1)
			must(t, err)
			defer second.Unlock()
			if waited := time.Since(began); waited < held || waited > held+held/8+time.Millisecond {
				t.Errorf("held for %v, waited for %v", held, waited)
			}
		})
	}
}

func TestLockWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t)
		lock, err := l.Lock(bay1)
		must(t, err)
		defer lock.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		_, err = l.LockWait(ctx, bay1)
		if !errors.Is(err, ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want both locked and deadline exceeded", err)
		}
		if waited := time.Since(began); waited != time.Minute {
			t.Errorf("waited for %v", waited)
		}
	})
}

func TestLockWaitTakesAFreeLockEvenIfItsContextEnded(t *testing.T) {
	l := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lock, err := l.LockWait(ctx, bay1)
	must(t, err)
	must(t, lock.Unlock())
}
