package vmtest

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"vfio-hotplug/internal/vmtest/wire"
)

// failure makes an error of an outcome: a *fs.PathError with the guest's
// errno, so that errors.Is works as in the guest.
func failure(o wire.Outcome) error {
	switch {
	case o.Errno != 0:
		return &fs.PathError{Op: "guest: " + o.Op, Path: o.Path, Err: o.Errno}
	case o.Text != "":
		return errors.New("guest: " + o.Text)
	}
	return nil
}

// ReadFile reads a file of the guest.
func (g *Guest) ReadFile(ctx context.Context, path string) (string, error) {
	var reply wire.Contents
	if err := g.call(ctx, "ReadFile", wire.Path{Path: path}, &reply); err != nil {
		return "", err
	}
	return string(reply.Data), failure(reply.Outcome)
}

// WriteFile writes to a file that is there, such as an attribute of sysfs, in
// one write(2). The error has the errno. A write that hangs goes on in the
// guest when the context is over.
func (g *Guest) WriteFile(ctx context.Context, path, data string) error {
	return g.write(ctx, wire.Write{Path: path, Data: []byte(data)})
}

// CreateFile makes a file, or empties it, and writes to it. Directories come by
// themselves.
func (g *Guest) CreateFile(ctx context.Context, path, data string, mode fs.FileMode) error {
	return g.write(ctx, wire.Write{Path: path, Data: []byte(data), Create: true, Mode: mode})
}

func (g *Guest) write(ctx context.Context, ask wire.Write) error {
	ask.Timeout = time.Hour
	var reply wire.Outcome
	if err := g.call(ctx, "WriteFile", ask, &reply); err != nil {
		return err
	}
	return failure(reply)
}

// Exchange sends a message to whoever listens at a unix socket of the guest, and
// gives the answer up to and with the byte end. Where nobody listens the error is
// syscall.ENOENT or syscall.ECONNREFUSED. It costs the guest no process.
func (g *Guest) Exchange(ctx context.Context, socket string, message []byte, end byte) ([]byte, error) {
	var reply wire.Contents
	ask := wire.Exchange{Socket: socket, Message: message, End: end, Timeout: patience}
	if err := g.call(ctx, "Exchange", ask, &reply); err != nil {
		return nil, err
	}
	return reply.Data, failure(reply.Outcome)
}

// Stat describes a file of the guest, and where it points if it is a link.
func (g *Guest) Stat(ctx context.Context, path string) (wire.Info, error) {
	var reply wire.Info
	if err := g.call(ctx, "Stat", wire.Path{Path: path}, &reply); err != nil {
		return reply, err
	}
	return reply, failure(reply.Outcome)
}

// Glob gives the guest's files that match a pattern (filepath.Match).
func (g *Guest) Glob(ctx context.Context, pattern string) ([]string, error) {
	var reply wire.Names
	if err := g.call(ctx, "Glob", wire.Path{Path: pattern}, &reply); err != nil {
		return nil, err
	}
	return reply.Names, failure(reply.Outcome)
}

// LoadModule loads a module and what it needs; params is as on a modprobe
// command line. That it is loaded or built in already is fine.
func (g *Guest) LoadModule(ctx context.Context, name, params string) error {
	return g.module(ctx, "LoadModule", wire.Module{Name: name, Params: params})
}

// UnloadModule removes a module.
func (g *Guest) UnloadModule(ctx context.Context, name string) error {
	return g.module(ctx, "UnloadModule", wire.Module{Name: name})
}

func (g *Guest) module(ctx context.Context, method string, ask wire.Module) error {
	var reply wire.Outcome
	if err := g.call(ctx, method, ask, &reply); err != nil {
		return err
	}
	return failure(reply)
}
