package sysfstest

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/sysfs"
)

// Expendable writes as sysfs.InProcess does: it looks whether the device is
// still the same one, and when ctx ends it returns while the write goes on and
// keeps the files of Hold open. What Kill asks for has no meaning here: a write
// has always begun.
func (k *Kernel) Expendable() sysfs.Expendable {
	return func(ctx context.Context, w sysfs.Write) error {
		end := func() {}
		if w.Ended != nil {
			end, w.Ended = w.Ended, nil
		}
		if err := ctx.Err(); err != nil {
			end()
			return wrap(w, err)
		}
		held, err := duplicate(w.Hold)
		if err != nil {
			end()
			return err
		}
		ended := make(chan error, 1)
		go func() {
			err := sysfs.Direct(k.Root())(context.Background(), w)
			for _, f := range held {
				err = errors.Join(err, f.Close())
			}
			end()
			ended <- err
		}()
		select {
		case err := <-ended:
			return wrap(w, err)
		case <-ctx.Done():
			return fmt.Errorf("write %s: %w", w.Attribute, ctx.Err())
		}
	}
}

func wrap(w sysfs.Write, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write %s: %w", w.Attribute, err)
}

// duplicate gives descriptors of the same open files, as a child process has.
func duplicate(files []*os.File) ([]*os.File, error) {
	var copies []*os.File
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
		}
		copies = append(copies, os.NewFile(uintptr(fd), f.Name()))
	}
	return copies, nil
}
