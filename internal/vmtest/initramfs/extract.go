package initramfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Extract puts the files of an archive that Archive wrote below the directory
// root. A file replaces one of the same name, be it a program that runs; of a
// directory or a link that is there already, the one that is there stays.
func Extract(archive []byte, root string) error {
	for len(archive) > 0 {
		e, rest, err := next(archive)
		if err != nil {
			return err
		}
		if e.name == trailer {
			return nil
		}
		if err := e.put(filepath.Join(root, filepath.Clean("/"+e.name))); err != nil {
			return err
		}
		archive = rest
	}
	return errors.New("the archive has no end")
}

const (
	magic   = "070701"
	trailer = "TRAILER!!!"
	// headerSize is that of the magic and of thirteen fields of eight digits.
	headerSize = 6 + 13*8
	modeField  = 1
	sizeField  = 6
	nameField  = 11
)

// An entry is one file of an archive.
type entry struct {
	name     string
	mode     uint32
	contents []byte
}

// next takes the first entry off an archive.
func next(archive []byte) (e entry, rest []byte, err error) {
	if len(archive) < headerSize || string(archive[:len(magic)]) != magic {
		return e, nil, errors.New("this is no entry of a cpio archive in the newc format")
	}
	field := func(n int) int {
		digits := string(archive[len(magic)+8*n:][:8])
		value, parseErr := strconv.ParseUint(digits, 16, 32)
		err = errors.Join(err, parseErr)
		return int(value)
	}
	mode, size, nameSize := field(modeField), field(sizeField), field(nameField)
	if err != nil {
		return e, nil, fmt.Errorf("header of a cpio archive: %w", err)
	}
	nameEnd := headerSize + nameSize
	start := (nameEnd + 3) &^ 3
	end := start + size
	if nameSize < 1 || end > len(archive) {
		return e, nil, errors.New("the archive is cut off")
	}
	e = entry{string(archive[headerSize : nameEnd-1]), uint32(mode), archive[start:end]}
	return e, archive[min((end+3)&^3, len(archive)):], nil
}

// put makes the file of an entry.
func (e entry) put(name string) error {
	switch e.mode & 0o170000 {
	case typeDir:
		return os.MkdirAll(name, fs.FileMode(e.mode&0o777))
	case typeLink:
		if err := os.Symlink(string(e.contents), name); !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case typeFile:
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		mode := fs.FileMode(e.mode & 0o777)
		return errors.Join(os.WriteFile(name, e.contents, mode), os.Chmod(name, mode))
	}
	return fmt.Errorf("%s is of no type that an archive may have: mode %#o", name, e.mode)
}
