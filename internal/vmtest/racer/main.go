// Racer mounts a block device whenever it can, in a tight loop, and looks whether
// the drive stays with nvme for as long as it is mounted. It runs in a guest.
//
//	racer NODE DIR
//
// There has to be a file system of type ext4 with a file "data". It says when it
// has mounted for the first time. On a signal to end it writes how often it mounted and how often the drive was taken away
// meanwhile; its exit code is 1 if it ever was.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "racer: want NODE DIR")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	r := &racer{node: os.Args[1], dir: os.Args[2]}
	for ctx.Err() == nil {
		r.try(ctx)
	}
	fmt.Printf("tried %d, mounted %d, taken away %d\n", r.tried, r.mounted, r.both)
	if r.both > 0 {
		os.Exit(1)
	}
}

type racer struct {
	node, dir            string
	sum                  []byte // of data, once it has been read
	tried, mounted, both int
}

// try mounts once. After a mount it stays away for about as long as the daemon
// waits before it looks again, so that the next ones meet the look, and longer
// than it was there, so that there is a time to take the drive.
func (r *racer) try(ctx context.Context) {
	r.tried++
	if unix.Mount(r.node, r.dir, "ext4", 0, "") != nil {
		return
	}
	if r.mounted++; r.mounted == 1 {
		fmt.Println("in the race")
	}
	began := time.Now()
	if err := r.use(); err != nil {
		r.both++
		fmt.Printf("mounted, and taken away: %v\n", err)
	}
	for unix.Unmount(r.dir, 0) == unix.EBUSY {
	}
	select {
	case <-time.After(time.Since(began) + time.Duration(300+rand.IntN(400))*time.Millisecond):
	case <-ctx.Done():
	}
}

// use uses the mounted file system for a moment. The error says that the drive
// did not stay, or that its contents did not.
func (r *racer) use() error {
	for range 5 {
		if driver := r.driver(); driver != "nvme" {
			return fmt.Errorf("the driver is %q", driver)
		}
		if err := r.write(); err != nil {
			return err
		}
		data, err := os.ReadFile(filepath.Join(r.dir, "data"))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		if r.sum == nil {
			r.sum = sum[:]
		}
		if !bytes.Equal(r.sum, sum[:]) {
			return fmt.Errorf("data has become %x", sum)
		}
	}
	return nil
}

// driver gives the driver of the drive: block device, controller, PCI function.
func (r *racer) driver() string {
	target, err := os.Readlink(filepath.Join("/sys/class/block", filepath.Base(r.node), "device/device/driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// write has the drive write something.
func (r *racer) write() error {
	file, err := os.Create(filepath.Join(r.dir, "written"))
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := fmt.Fprintln(file, r.mounted); err != nil {
		return err
	}
	return file.Sync()
}
