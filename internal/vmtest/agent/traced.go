package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"vfio-hotplug/internal/vmtest/wire"
)

// A record is what the eBPF program says of one write: these fields, each eight
// bytes in the machine's own order, unless said otherwise.
const (
	recordThread  = 0  // the process in the upper half, the thread in the lower
	recordTime    = 8  // ns
	recordCommand = 16 // a string, commandSize bytes
	recordWritten = recordCommand + commandSize
	recordType    = recordWritten + 8 // of the buffer
	recordFault   = recordType + 8    // 0 when the data could be read
	recordMagic   = recordFault + 8   // of the file system
	recordNames   = recordMagic + 8   // levels strings, the file's own name first
	recordData    = recordNames + levels*nameSize
	recordSize    = recordData + dataSize

	commandSize = 16
	nameSize    = 64
	// levels is how deep a path may be. The deepest below a PCI device has
	// eleven, each bridge above it one more.
	levels   = 20
	dataSize = 1024
)

// sysfsMagic is in the superblock of a sysfs (include/uapi/linux/magic.h);
// other file systems, such as that of cgroups, are made of kernfs too.
const sysfsMagic = 0x62656572

// parseRecord reads a record. ok is false for a write that was not below /sys.
func parseRecord(raw []byte, userBuffer uint64) (w wire.SysWrite, ok bool, err error) {
	if len(raw) < recordSize {
		return w, false, fmt.Errorf("a record of the trace has %d bytes, want %d", len(raw), recordSize)
	}
	field := func(at int) uint64 { return binary.NativeEndian.Uint64(raw[at:]) }
	if field(recordMagic) != sysfsMagic {
		return w, false, nil
	}
	w = wire.SysWrite{
		Time:    time.Duration(field(recordTime)),
		Command: text(raw[recordCommand : recordCommand+commandSize]),
		TID:     int(uint32(field(recordThread))),
		PID:     int(field(recordThread) >> 32),
		Size:    int(field(recordWritten)),
	}
	w.Own = w.PID == os.Getpid()
	if field(recordType) == userBuffer && field(recordFault) == 0 && w.Size <= dataSize {
		w.Data, w.Known = string(raw[recordData:recordData+w.Size]), true
	}
	w.Path, err = tracedPath(raw[recordNames:recordData])
	return w, true, err
}

// tracedPath joins the names of a file and of the directories above it, up to
// the root.
func tracedPath(names []byte) (string, error) {
	var parts []string
	for name := range slices.Chunk(names, nameSize) {
		if text(name) == "/" {
			slices.Reverse(parts)
			return path.Join(parts...), nil
		}
		parts = append(parts, text(name))
	}
	return "", fmt.Errorf("a write below /sys to a path of more than %d levels: %q", levels, parts)
}

// text reads up to a NUL.
func text(raw []byte) string {
	before, _, _ := bytes.Cut(raw, []byte{0})
	return string(before)
}
