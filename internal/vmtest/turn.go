package vmtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/cache"
)

// turns is how many guests of this user may run at a time: as many as there are
// processors, since a guest waits for half of its time, and as have room in half
// of the memory.
func turns() int {
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil {
		return 1
	}
	room := memory.Totalram * uint64(memory.Unit) / 2 >> 30 // a gigabyte each
	return max(1, min(runtime.NumCPU(), int(room)))
}

// takeTurn waits until one more guest may run on this machine, whichever
// process its neighbours belong to. Closing the file ends the turn.
func takeTurn(ctx context.Context) (*os.File, error) {
	cacheDir, err := cache.Dir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cacheDir, "turns")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for n := range turns() {
		if turn, err := cache.TryLock(turnFile(dir, n)); err == nil {
			return turn, nil
		}
	}
	return waitTurn(ctx, dir)
}

func turnFile(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%d.lock", n)) }

// waitTurn waits for whichever turn ends first, in goroutines that outlive it:
// flock(2) knows no deadline. A turn that comes too late is ended at once.
func waitTurn(ctx context.Context, dir string) (*os.File, error) {
	type result struct {
		turn *os.File
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	got := make(chan result)
	for n := range turns() {
		go func() {
			turn, err := cache.Lock(turnFile(dir, n))
			select {
			case got <- result{turn, err}:
			case <-ctx.Done():
				turn.Close()
			}
		}()
	}
	select {
	case r := <-got:
		return r.turn, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait until other guests are done: %w", ctx.Err())
	}
}
