package sysfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/pci"
)

var drive = pci.Address{Bus: 1}

// bay is a root with a drive, and the write that unbinds it.
func bay(t *testing.T) (root string, w Write) {
	t.Helper()
	root = grow(t, map[string]string{
		"devices/0000:01:00.0/vendor":  "0x144d\n",
		"bus/pci/devices/0000:01:00.0": "-> ../../../devices/0000:01:00.0",
		"bus/pci/drivers/nvme/unbind":  "",
	})
	d, err := openRoot(t, root).Open("devices/0000:01:00.0")
	must(t, err)
	defer d.Close()
	return root, Write{
		Attribute: "bus/pci/drivers/nvme/unbind",
		Value:     drive.String(),
		Device:    drive,
		Identity:  identity(t, d),
	}
}

func self(t *testing.T) string {
	t.Helper()
	program, err := os.Executable()
	must(t, err)
	return program
}

// expendables are the ways to carry out a write, which must not differ.
func expendables(t *testing.T, root string) map[string]Expendable {
	return map[string]Expendable{
		"direct":     Direct(openRoot(t, root)),
		"in process": InProcess(self(t), root),
	}
}

func TestExpendableWrites(t *testing.T) {
	root, w := bay(t)
	for name, write := range expendables(t, root) {
		must(t, os.WriteFile(filepath.Join(root, w.Attribute), nil, 0o644))
		if err := write(t.Context(), w); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(filepath.Join(root, w.Attribute)); err != nil || string(got) != w.Value {
			t.Errorf("%s: wrote %q, %v, want %q", name, got, err, w.Value)
		}
	}
}

func TestExpendablePassesTheErrorOn(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(root string, w *Write) error
		want  error
	}{
		{"no such driver", func(root string, w *Write) error { return os.Remove(filepath.Join(root, w.Attribute)) }, syscall.ENOENT},
		{"the device is gone", func(root string, w *Write) error { return os.Remove(root + "/bus/pci/devices/0000:01:00.0") }, syscall.ENOENT},
		{"another device", func(root string, w *Write) error { w.Identity++; return nil }, ErrReplaced},
		{"not an attribute", func(root string, w *Write) error { w.Attribute = "bus/pci"; return nil }, syscall.EISDIR},
		{"outside the root", func(root string, w *Write) error { w.Attribute = "/dev/null"; return nil }, syscall.EINVAL},
	} {
		t.Run(test.name, func(t *testing.T) {
			root, w := bay(t)
			must(t, test.spoil(root, &w))
			for name, write := range expendables(t, root) {
				if err := write(t.Context(), w); !errors.Is(err, test.want) {
					t.Errorf("%s: %v, want %v", name, err, test.want)
				}
				if got, err := os.ReadFile(filepath.Join(root, "bus/pci/drivers/nvme/unbind")); err == nil && len(got) > 0 {
					t.Errorf("%s: %q was written", name, got)
				}
			}
		})
	}
}

// Whatever ends the process without an answer must not read as an answer of
// the kernel: least of all as ENOENT, which means that all is well.
func TestProcessWithoutAnAnswer(t *testing.T) {
	root, w := bay(t)
	for name, script := range map[string]string{
		"a panic":           "exit 2",
		"an unknown option": "exit 1",
		"another meaning":   "exit 19",
		"a signal":          "kill -9 $$",
	} {
		t.Run(name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "program")
			must(t, os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o755))
			err := InProcess(program, root)(t.Context(), w)
			var errno syscall.Errno
			if err == nil || errors.As(err, &errno) || Gone(err) {
				t.Errorf("error is %v, want one that is no errno", err)
			}
		})
	}
	if err := InProcess(root+"/none", root)(t.Context(), w); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestRunWriteRefusesBadArguments(t *testing.T) {
	root, w := bay(t)
	good := []string{root, w.Attribute, w.Value, w.Device.String(), strconv.FormatUint(w.Identity, 10), ""}
	if code := RunWrite(good); code != 0 {
		t.Fatalf("exit code is %d, want 0", code)
	}
	must(t, os.Truncate(filepath.Join(root, w.Attribute), 0))
	for name, args := range map[string][]string{
		"none":         nil,
		"too few":      good[:5],
		"too many":     append(good[:6:6], "more"),
		"no address":   {root, w.Attribute, w.Value, "nonsense", good[4], ""},
		"no identity":  {root, w.Attribute, w.Value, good[3], "-1", ""},
		"another root": {root + "/none", w.Attribute, w.Value, good[3], good[4], ""},
	} {
		if code := RunWrite(args); code == 0 {
			t.Errorf("%s: exit code is that of success", name)
		}
	}
	if got, err := os.ReadFile(filepath.Join(root, w.Attribute)); err != nil || len(got) > 0 {
		t.Errorf("%q was written, %v", got, err)
	}
}

func TestWriteOnlyOverWhatIsExpected(t *testing.T) {
	root, w := bay(t)
	w.Attribute = "devices/0000:01:00.0/vendor" // reads "0x144d\n"
	for name, write := range expendables(t, root) {
		w.Only, w.Value = "0x1b36", "0x8086\n"
		if err := write(t.Context(), w); !errors.Is(err, ErrOther) {
			t.Errorf("%s: error is %v, want %v", name, err, ErrOther)
		}
		w.Only, w.Value = "0x144d", "0x144d\n"
		if err := write(t.Context(), w); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(root, w.Attribute)); err != nil || string(got) != "0x144d\n" {
		t.Errorf("it reads %q, %v", got, err)
	}
}

// TestAKilledWriteIsNotYetToCome: with Kill, what has not begun when the
// context ends never does.
func TestAKilledWriteIsNotYetToCome(t *testing.T) {
	root, w := bay(t)
	attribute := filepath.Join(root, w.Attribute)
	must(t, os.Remove(attribute))
	must(t, unix.Mkfifo(attribute, 0o600))
	ended := make(chan struct{})
	w.Kill, w.Ended = true, func() { close(ended) }
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := InProcess(self(t), root)(ctx, w); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want %v", err, context.DeadlineExceeded)
	}
	<-ended
	reader, err := os.OpenFile(attribute, os.O_RDONLY|unix.O_NONBLOCK, 0)
	must(t, err)
	defer reader.Close()
	if got, err := io.ReadAll(reader); err != nil || len(got) > 0 {
		t.Errorf("written: %q, %v", got, err)
	}
}

// A pipe nobody reads stands for an attribute whose write hangs: opening it
// waits. Its file in Hold is seen to close by the end of the other pipe.
func TestWriteGoesOnWithoutItsCaller(t *testing.T) {
	root, w := bay(t)
	attribute := filepath.Join(root, w.Attribute)
	must(t, os.Remove(attribute))
	must(t, unix.Mkfifo(attribute, 0o600))
	held, hold, err := os.Pipe()
	must(t, err)
	defer held.Close()
	w.Hold = []*os.File{hold}

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := InProcess(self(t), root)(ctx, w); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want %v", err, context.DeadlineExceeded)
	}
	must(t, hold.Close())
	fd := int(held.Fd())
	must(t, unix.SetNonblock(fd, true))
	if n, err := unix.Read(fd, make([]byte, 1)); err != unix.EAGAIN {
		t.Errorf("the held file: %d, %v, want it open", n, err)
	}
	must(t, unix.SetNonblock(fd, false))

	reader, err := os.Open(attribute) // the write is let through
	must(t, err)
	defer reader.Close()
	if got, err := io.ReadAll(reader); err != nil || string(got) != w.Value {
		t.Errorf("written: %q, %v, want %q", got, err, w.Value)
	}
	if rest, err := io.ReadAll(held); err != nil || len(rest) > 0 {
		t.Errorf("the held file: %q, %v, want its end", rest, err)
	}
}

func TestNothingIsBegunTooLate(t *testing.T) {
	root, w := bay(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := InProcess(root+"/none", root)(ctx, w); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want %v and no try to start the program", err, context.Canceled)
	}
}

func TestHeldFilesCloseWithTheWrite(t *testing.T) {
	root, w := bay(t)
	held, hold, err := os.Pipe()
	must(t, err)
	defer held.Close()
	w.Hold = []*os.File{hold}
	must(t, InProcess(self(t), root)(t.Context(), w))
	must(t, hold.Close())
	if rest, err := io.ReadAll(held); err != nil || len(rest) > 0 {
		t.Errorf("the held file: %q, %v, want its end", rest, err)
	}
}

// Whoever looks for what hangs finds it by the name that it was started by.
func TestAWriteHasTheNameOfItsProgram(t *testing.T) {
	root, w := bay(t)
	attribute := filepath.Join(root, w.Attribute)
	must(t, os.Remove(attribute))
	must(t, unix.Mkfifo(attribute, 0o600)) // opening it waits for a reader
	ended := make(chan struct{})
	w.Ended = func() { close(ended) }
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := InProcess(Self, root)(ctx, w)
	_, after, _ := strings.Cut(fmt.Sprint(err), "(process ")
	pid, _, found := strings.Cut(after, ")")
	if !found || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error is %v, want one with a process", err)
	}
	want := filepath.Base(os.Args[0]) + " " + os.Args[0] + " " + WriteCommand + " "
	var name string
	for giveUp := time.Now().Add(time.Minute); !strings.HasPrefix(name, want) && time.Now().Before(giveUp); time.Sleep(time.Millisecond) {
		comm, err := os.ReadFile("/proc/" + pid + "/comm")
		must(t, err)
		line, err := os.ReadFile("/proc/" + pid + "/cmdline")
		must(t, err)
		name = strings.TrimSpace(string(comm)) + " " + strings.ReplaceAll(string(line), "\x00", " ")
	}
	if !strings.HasPrefix(name, want) {
		t.Errorf("it is called %q, want %q", name, want)
	}
	reader, err := os.Open(attribute)
	must(t, err)
	defer reader.Close()
	<-ended
}
