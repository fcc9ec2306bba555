package inuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// read gives what a disk or partition carries that blkid knows: a file system,
// a member of an array, a partition table. What cannot be told is a doubt.
//
// blkid's exit code 2 alone does not mean "nothing": it gives the same after a
// failed open and, without a word, after a read error (util-linux,
// misc-utils/blkid.c, lowprobe_device), as a locked self-encrypting drive
// causes. So what blkid looks at is read here first.
func (l *look) read(ctx context.Context, d disk, file *os.File) contents {
	l.doing("reading %s", d.name)
	if at, err := unreadable(file, d.bytes); err != nil {
		l.report.doubt("look for "+d.name+" in the kernel's log: dmesg", "%s cannot be read at byte %d: %v", d.name, at, err)
		return nil
	}
	l.doing("blkid on %s", d.name)
	c, err := l.probe(ctx, file)
	if err != nil {
		l.report.doubt("try it: blkid -p /dev/"+d.name, "what %s carries cannot be told: %v", d.name, err)
	}
	return c
}

// Signatures stand in these first and last bytes of a disk (util-linux,
// libblkid/src: the farthest from the start is VMFS, at 2 MiB).
const (
	headBytes = 4 << 20
	tailBytes = 1 << 20
)

// unreadable gives the place of the first byte that cannot be read, in the
// parts of a disk where signatures stand.
func unreadable(disk io.ReaderAt, size int64) (int64, error) {
	buffer := make([]byte, 256<<10)
	for at := int64(0); at < size; {
		if at >= headBytes && at < size-tailBytes {
			at = size - tailBytes
		}
		n, err := disk.ReadAt(buffer[:min(int64(len(buffer)), size-at)], at)
		at += int64(n)
		if err != nil && at < size {
			return at, err
		}
	}
	return 0, nil
}

// probe runs blkid's low-level probe on an open disk.
func (l *look) probe(ctx context.Context, disk *os.File) (contents, error) {
	var stdout, stderr bytes.Buffer
	// The descriptor, because a path may lead elsewhere by now.
	cmd := exec.CommandContext(ctx, l.blkid, "-p", "-o", "udev", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{disk}
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	said := strings.Join(strings.Fields(stderr.String()), " ")
	var exit *exec.ExitError
	switch {
	case err == nil:
		return parseProperties(stdout.String()), nil
	case !errors.As(err, &exit):
		return nil, err
	case exit.ExitCode() == 2 && said == "":
		return nil, nil
	case exit.ExitCode() == 8:
		return nil, errors.New("blkid finds several signatures: wipefs shows them")
	case said == "":
		return nil, fmt.Errorf("blkid: %w", err)
	}
	return nil, fmt.Errorf("blkid: %s (%w)", said, err)
}
