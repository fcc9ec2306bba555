package sysfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vfio-hotplug/internal/pci"
)

// Write is one write that can hang for ever, such as an unbind of a device
// that a program holds open.
type Write struct {
	Attribute string      // relative to the root, such as bus/pci/drivers/nvme/unbind
	Value     string      // what to write
	Device    pci.Address // written only while this address ...
	Identity  uint64      // ... leads to this device; 0: the write is about no device
	Only      string      // written only while the attribute reads this, but for a line feed; "": whatever it reads
	Hold      []*os.File  // kept open until the write has ended, whatever becomes of the caller
	// Kill has what carries out the write killed when the context ends: it is
	// then either not begun, or past undoing, but not yet to come.
	Kill bool
	// Ended, if not nil, is called once when the write has ended, which may be
	// long after the caller was told that its context has.
	Ended func()
}

// ErrOther says that an attribute does not read what Write.Only says.
var ErrOther = errors.New("the attribute reads something else")

func (w Write) end() {
	if w.Ended != nil {
		w.Ended()
	}
}

// Expendable carries out a Write where a hang hurts nobody. It returns when
// the write has ended, with the write's error; or when ctx ends, with ctx's
// error, while the write may still be under way. When ctx has ended already,
// the write is not begun.
type Expendable func(ctx context.Context, w Write) error

// WriteCommand is the name of the hidden command that carries out a Write in
// a process of its own.
const WriteCommand = "sysfs-write"

// Self is the program that runs, for InProcess. Its path is not: after an upgrade
// another version lies there, and nothing after a removal.
const Self = "/proc/self/exe"

// InProcess gives an Expendable that runs program with WriteCommand against
// the sysfs at root. A process in an uninterruptible write cannot be killed;
// it ends by itself when the kernel lets go.
func InProcess(program, root string) Expendable {
	return func(ctx context.Context, w Write) error {
		if err := ctx.Err(); err != nil {
			w.end()
			return fmt.Errorf("write %s: %w", w.Attribute, err)
		}
		cmd := exec.Command(program, WriteCommand, root, w.Attribute, w.Value, w.Device.String(), strconv.FormatUint(w.Identity, 10), w.Only)
		cmd.Args[0] = os.Args[0] // what ps shows, not Self
		cmd.ExtraFiles = w.Hold
		// A group of its own: a Ctrl-C for the caller is not for the write.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			w.end()
			return fmt.Errorf("start %s: %w", program, err)
		}
		ended := make(chan error, 1)
		go func() {
			err := cmd.Wait()
			w.end()
			ended <- err
		}()
		select {
		case err := <-ended:
			return writeError(w, err)
		case <-ctx.Done():
			if w.Kill {
				_ = cmd.Process.Kill()
				select {
				case <-ended:
				case <-time.After(killed):
				}
			}
			return fmt.Errorf("write %s (process %d): %w", w.Attribute, cmd.Process.Pid, ctx.Err())
		}
	}
}

// killed is how long a killed process may take to end. One that the kernel
// holds does not.
const killed = 100 * time.Millisecond

// RunWrite is what WriteCommand does: the write of the six arguments that
// InProcess gives. The result is the exit code, for InProcess to read.
func RunWrite(args []string) int {
	if len(args) != 6 {
		return unclear
	}
	// Started as Self it is called exe, and whoever finds it hanging wonders.
	_ = os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0)
	return exitCode(runWrite(args[0], args[1], args[2], args[3], args[4], args[5]))
}

func runWrite(rootPath, attribute, value, address, identity, only string) error {
	a, err := pci.ParseAddress(address)
	if err != nil {
		return err
	}
	id, err := strconv.ParseUint(identity, 10, 64)
	if err != nil {
		return err
	}
	root, err := OpenRoot(rootPath)
	if err != nil {
		return err
	}
	defer root.Close()
	return Direct(root)(context.Background(), Write{Attribute: attribute, Value: value, Device: a, Identity: id, Only: only})
}

// Direct gives an Expendable that writes in the caller's own thread and does
// not heed its context: for a process that is itself expendable.
func Direct(root Dir) Expendable {
	return func(_ context.Context, w Write) error {
		defer w.end()
		if err := w.check(root); err != nil {
			return err
		}
		return root.Write(w.Attribute, w.Value)
	}
}

// check says whether the write is still to be done: whether the device that it
// is about is there, and the attribute as it must be.
func (w Write) check(root Dir) error {
	if err := w.checkDevice(root); err != nil || w.Only == "" {
		return err
	}
	now, err := root.Read(w.Attribute)
	if err == nil && strings.TrimSuffix(now, "\n") != w.Only {
		err = ErrOther
	}
	return err
}

func (w Write) checkDevice(root Dir) error {
	if w.Identity == 0 {
		return nil
	}
	d, err := New(root, nil).Open(w.Device)
	if err != nil {
		return err
	}
	defer d.Close()
	if d.identity != w.Identity {
		return ErrReplaced
	}
	return nil
}

// Unbind takes the device from a driver and returns when the kernel has let
// go of it, or when ctx ends. The files in hold stay open until the kernel has
// let go, even if the caller dies before.
//
// pci-stub does nothing when it lets go (drivers/pci/pci-stub.c), so for it no
// process is started.
func (d *Device) Unbind(ctx context.Context, driver string, hold ...*os.File) error {
	if driver == "pci-stub" {
		return d.control("bus/pci/drivers/pci-stub/unbind")
	}
	return d.fs.expendable(ctx, Write{
		Attribute: "bus/pci/drivers/" + driver + "/unbind",
		Value:     d.address.String(),
		Device:    d.address,
		Identity:  d.identity,
		Hold:      hold,
	})
}

// The exit codes of RunWrite for an error. Those of a program that came to no
// answer must not be among them: Go ends with 2 after a panic, which as an
// errno would be ENOENT and read as "the device is gone".
const (
	firstErrno = 100 // and from there on, the errno of the write
	other      = 253 // ErrOther
	unclear    = 254 // an error without an errno
	replaced   = 255 // ErrReplaced
)

// exitCode gives the exit code for the end of a write.
func exitCode(err error) int {
	var number syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrReplaced):
		return replaced
	case errors.Is(err, ErrOther):
		return other
	case errors.As(err, &number) && firstErrno+number < other:
		return firstErrno + int(number)
	}
	return unclear
}

// writeError is the reverse of exitCode.
func writeError(w Write, err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	switch code := exit.ExitCode(); {
	case code == replaced:
		return fmt.Errorf("%s: %w", w.Device, ErrReplaced)
	case code == other:
		return fmt.Errorf("write %s: %w", w.Attribute, ErrOther)
	case code > firstErrno && code < other:
		return fmt.Errorf("write %s: %w", w.Attribute, syscall.Errno(code-firstErrno))
	}
	return fmt.Errorf("write %s: process ended without an answer: %s", w.Attribute, exit.String())
}
