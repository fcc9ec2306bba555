package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/pci"
)

// record is what a file holds: it speaks of one incarnation of one device.
type record interface {
	of() (pci.Address, uint64)
	valid(at pci.Address) error
}

// version is the version of a file's shape: a program that changes what a
// field means counts it up.
const version = 1

// sheet is the content of a file. The sum is over the bytes of Record as they
// stand in the file.
type sheet struct {
	Version int             `json:"version"`
	CRC32C  string          `json:"crc32c"`
	Record  json.RawMessage `json:"record"`
}

const (
	suffix     = ".json"
	tempSuffix = ".tmp"
)

// put replaces the file of a record as a whole.
func put[R record](l *Ledger, folder string, r R) error {
	data, err := encode(r)
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	a, _ := r.of()
	file := l.file(folder, a)
	// One name for each device, so that crashes leave at most one each.
	if err := l.files.write(file+tempSuffix, data); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	if err := l.files.rename(file+tempSuffix, file); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// get reads the file of a device, and says whether there is one.
func get[R record](l *Ledger, folder string, a pci.Address) (R, bool, error) {
	var r, none R
	file := l.file(folder, a)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return none, false, nil
	}
	if err != nil {
		return none, false, fmt.Errorf("read ledger: %w", err)
	}
	err = decode(data, &r)
	if err == nil {
		err = r.valid(a)
	}
	if err != nil {
		return none, false, &FileError{File: file, Err: err}
	}
	return r, true, nil
}

func (l *Ledger) remove(folder string, a pci.Address) error {
	if err := os.Remove(l.file(folder, a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

func (l *Ledger) file(folder string, a pci.Address) string {
	return filepath.Join(l.dir, folder, a.String()+suffix)
}

// address gives the device that a file's name stands for.
func address(name string) (pci.Address, error) {
	a, err := pci.ParseAddress(strings.TrimSuffix(name, suffix))
	if err != nil || a.String()+suffix != name {
		return a, errors.New("its name is not that of a device's file")
	}
	return a, nil
}

func encode(r any) ([]byte, error) {
	inner, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(sheet{Version: version, CRC32C: sum(inner), Record: inner})
	return append(data, '\n'), err
}

func decode(data []byte, r any) error {
	var s sheet
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("it is torn or not ours: %w", err)
	}
	if s.Version != version {
		return fmt.Errorf("it has version %d, this program knows version %d", s.Version, version)
	}
	if have := sum(s.Record); have != s.CRC32C {
		return fmt.Errorf("its checksum is %s, its content has %s", s.CRC32C, have)
	}
	return json.Unmarshal(s.Record, r)
}

func sum(data []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
}

// files are the two steps of a write, apart so that a test can fail in each.
type files interface {
	write(name string, data []byte) error
	rename(from, to string) error
}

type kernelFiles struct{}

// write makes a file anew in three system calls: os.WriteFile would also offer
// it to the runtime poller.
func (kernelFiles) write(name string, data []byte) error {
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	n, err := unix.Write(fd, data)
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	if err == nil && n < len(data) {
		err = unix.ENOSPC
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// rename is one system call: os.Rename would first look at the target.
func (kernelFiles) rename(from, to string) error {
	if err := unix.Rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
