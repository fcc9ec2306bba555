package vmtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"vfio-hotplug/internal/vmtest/cache"
)

// turns is how many guests of this user may run at a time. Each has two
// processors, and waits for half of the time: for a slot, for udev, for a
// deadline that must pass.
func turns() int { return runtime.NumCPU() }

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
	return waitTurn(ctx, turnFile(dir, os.Getpid()%turns()))
}

func turnFile(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%d.lock", n)) }

// waitTurn waits in a goroutine that may outlive ctx: flock(2) knows no
// deadline.
func waitTurn(ctx context.Context, path string) (*os.File, error) {
	type result struct {
		turn *os.File
		err  error
	}
	got := make(chan result)
	go func() {
		turn, err := cache.Lock(path)
		select {
		case got <- result{turn, err}:
		case <-ctx.Done():
			turn.Close()
		}
	}()
	select {
	case r := <-got:
		return r.turn, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait until other guests are done: %w", ctx.Err())
	}
}
