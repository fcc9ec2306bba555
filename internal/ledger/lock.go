package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/pci"
)

// ErrLocked says that somebody else is at work on the device. The error that
// wraps it is a *LockedError.
var ErrLocked = errors.New("locked")

// LockedError names who is at work on a device.
type LockedError struct {
	Address pci.Address
	PID     int    // 0 if it could not be found
	Command string // "" if it could not be found
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is locked by a process that cannot be named: try again", e.Address)
	}
	return fmt.Sprintf("%s is locked by process %d (%s): wait for it to end", e.Address, e.PID, e.Command)
}

// Unwrap gives ErrLocked.
func (e *LockedError) Unwrap() error { return ErrLocked }

// Lock is the right to change one device, for one goroutine of one process. It
// is a flock(2) on a file, so the kernel drops it when the last descriptor of
// it is closed, however its holder ends.
//
// Lock files are never removed: whoever opened one just before its removal
// would hold a lock that nobody else can see.
type Lock struct {
	file   *os.File
	shared bool
}

// Lock takes the lock of a device, or says at once that somebody else has it:
// errors.Is(err, ErrLocked).
func (l *Ledger) Lock(a pci.Address) (*Lock, error) {
	lock, err := l.try(a)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, l.locked(a)
	}
	return lock, err
}

// Reading keeps others from a device while somebody reads it, until unlock is
// called, or says at once that somebody is at work on it:
// errors.Is(err, ErrLocked). It makes and writes no file: where there is none to
// lock, nobody has begun anything on the device since the boot. Those who read
// do not keep one another out.
func (l *Ledger) Reading(a pci.Address) (unlock func() error, err error) {
	lock, err := l.tryReading(a)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, l.locked(a)
	}
	return unlocking(lock, err)
}

// ReadingWait is Reading, and waits for whoever is at work as LockWait does.
func (l *Ledger) ReadingWait(ctx context.Context, a pci.Address) (unlock func() error, err error) {
	return unlocking(l.wait(ctx, a, l.tryReading))
}

// unlocking is the end of a Reading.
func unlocking(lock *Lock, err error) (unlock func() error, _ error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return func() error { return nil }, nil
	case err != nil:
		return nil, err
	}
	return lock.Unlock, nil
}

// locked names who has the lock of a device.
func (l *Ledger) locked(a pci.Address) *LockedError {
	pid, command := holder(l.proc, l.lockFile(a))
	return &LockedError{Address: a, PID: pid, Command: command}
}

// LockWait takes the lock of a device, waiting for whoever has it until ctx
// ends; then errors.Is says both ErrLocked and the error of ctx.
//
// A flock that waits cannot be cancelled, so LockWait tries again and again: a
// millisecond apart at first, then after an eighth of the time waited, at most
// a second. So it comes late by at most an eighth, and wakes once a second for
// a lock that is never given back.
func (l *Ledger) LockWait(ctx context.Context, a pci.Address) (*Lock, error) {
	return l.wait(ctx, a, l.try)
}

func (l *Ledger) wait(ctx context.Context, a pci.Address, try func(pci.Address) (*Lock, error)) (*Lock, error) {
	began := time.Now()
	for {
		lock, err := try(a)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return lock, err
		}
		select {
		case <-time.After(min(time.Millisecond+time.Since(began)/8, time.Second)):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", l.locked(a), ctx.Err())
		}
	}
}

// File gives the lock's file, for a child process to inherit. From then on the
// device stays locked until Unlock was called and every such child has ended,
// even if this process dies: a child that hangs keeps the device from being
// changed twice.
func (k *Lock) File() *os.File {
	k.shared = true
	return k.file
}

// Unlock gives up this process's part of the lock.
func (k *Lock) Unlock() error {
	if !k.shared {
		// A child that is being forked for something else holds a copy of the
		// descriptor until its exec: closing alone would unlock only then. An
		// inherited lock must not be touched: LOCK_UN would take it from the
		// child too.
		if err := unix.Flock(int(k.file.Fd()), unix.LOCK_UN); err != nil {
			k.file.Close()
			return fmt.Errorf("unlock: %w", err)
		}
	}
	return k.file.Close()
}

func (l *Ledger) lockFile(a pci.Address) string { return filepath.Join(l.dir, locks, a.String()) }

// try takes a lock or gives EWOULDBLOCK.
func (l *Ledger) try(a pci.Address) (*Lock, error) {
	if l.only {
		return nil, fmt.Errorf("lock %s: %w", a, fs.ErrPermission)
	}
	file, err := os.OpenFile(l.lockFile(a), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", a, err)
	}
	if err := flock(file, unix.LOCK_EX); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", a, err)
	}
	// For the message of those who find it locked; of a fixed width, so that it
	// replaces the one before.
	if _, err := fmt.Fprintf(file, "%10d\n", os.Getpid()); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", a, err)
	}
	return &Lock{file: file}, nil
}

// tryReading takes the lock of a device as one of those who read, or gives
// EWOULDBLOCK.
func (l *Ledger) tryReading(a pci.Address) (*Lock, error) {
	file, err := os.Open(l.lockFile(a))
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", a, err)
	}
	if err := flock(file, unix.LOCK_SH); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", a, err)
	}
	return &Lock{file: file}, nil
}

func flock(file *os.File, how int) error {
	for {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if err != unix.EINTR {
			return err
		}
	}
}
