package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/vmtest/wire"
)

// outcome keeps of an error what the host can make one of again.
func outcome(err error) wire.Outcome {
	if err == nil {
		return wire.Outcome{}
	}
	o := wire.Outcome{Text: err.Error()}
	var path *fs.PathError
	if errors.As(err, &path) {
		o.Op, o.Path = path.Op, path.Path
	}
	errors.As(err, &o.Errno)
	return o
}

// ReadFile reads a whole file.
func (a *Agent) ReadFile(ask wire.Path, reply *wire.Contents) error {
	data, err := os.ReadFile(ask.Path)
	reply.Data, reply.Outcome = data, outcome(err)
	return nil
}

// WriteFile writes to a file in one call. A write that hangs goes on when the
// time is over.
func (a *Agent) WriteFile(ask wire.Write, reply *wire.Outcome) error {
	done := make(chan error, 1)
	go func() { done <- write(ask) }()
	select {
	case err := <-done:
		*reply = outcome(err)
	case <-time.After(ask.Timeout):
		*reply = outcome(&fs.PathError{Op: "write", Path: ask.Path, Err: syscall.ETIMEDOUT})
	}
	return nil
}

func write(ask wire.Write) error {
	flags := os.O_WRONLY
	if ask.Create {
		flags |= os.O_CREATE | os.O_TRUNC
		if err := os.MkdirAll(filepath.Dir(ask.Path), 0o755); err != nil {
			return err
		}
	}
	fd, err := unix.Open(ask.Path, flags|unix.O_CLOEXEC, uint32(ask.Mode.Perm()))
	if err != nil {
		return &fs.PathError{Op: "open", Path: ask.Path, Err: err}
	}
	defer unix.Close(fd)
	n, err := unix.Write(fd, ask.Data)
	if err == nil && n < len(ask.Data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: ask.Path, Err: err}
	}
	return nil
}

// Stat describes a file, without following a link.
func (a *Agent) Stat(ask wire.Path, reply *wire.Info) error {
	info, err := os.Lstat(ask.Path)
	if err != nil {
		reply.Outcome = outcome(err)
		return nil
	}
	reply.Mode, reply.Size = info.Mode(), info.Size()
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		reply.UID, reply.GID = sys.Uid, sys.Gid
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		reply.Target, err = os.Readlink(ask.Path)
		reply.Outcome = outcome(err)
	}
	return nil
}

// Glob gives the files that match a pattern (filepath.Match).
func (a *Agent) Glob(ask wire.Path, reply *wire.Names) error {
	names, err := filepath.Glob(ask.Path)
	reply.Names, reply.Outcome = names, outcome(err)
	return nil
}
