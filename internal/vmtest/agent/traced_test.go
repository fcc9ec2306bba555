package main

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vfio-hotplug/internal/vmtest/wire"
)

// raw makes a record as the kernel would.
type raw struct {
	pid, tid, size, buffer, fault int
	magic                         uint64
	command, data                 string
	names                         []string // the file's first
}

func (r raw) bytes() []byte {
	b := make([]byte, recordSize)
	put := func(at int, v uint64) { binary.NativeEndian.PutUint64(b[at:], v) }
	put(recordThread, uint64(r.pid)<<32|uint64(r.tid))
	put(recordTime, uint64(2500*time.Millisecond))
	put(recordWritten, uint64(r.size))
	put(recordType, uint64(r.buffer))
	put(recordFault, uint64(r.fault))
	put(recordMagic, r.magic)
	copy(b[recordCommand:], r.command)
	for level := range levels {
		name := "/" // the root is its own parent
		if level < len(r.names) {
			name = r.names[level]
		}
		copy(b[recordNames+level*nameSize:], name)
	}
	copy(b[recordData:], r.data)
	return b
}

func TestParseRecord(t *testing.T) {
	const userBuffer = 5
	names := []string{"unbind", "nvme", "drivers", "pci", "bus"}
	deep := strings.Split("scheduler queue nvme0n1 nvme0 nvme 0000:02:00.0 0000:01:00.0 0000:00:04.0 pci0000:00 devices", " ")
	const then = 2500 * time.Millisecond
	for name, test := range map[string]struct {
		raw  raw
		want wire.SysWrite
		not  bool
	}{
		"a line": {
			raw:  raw{pid: 8, tid: 9, size: 13, buffer: userBuffer, magic: sysfsMagic, command: "sh", names: names, data: "0000:01:00.0\n"},
			want: wire.SysWrite{Time: then, Command: "sh", TID: 9, PID: 8, Path: "bus/pci/drivers/nvme/unbind", Data: "0000:01:00.0\n", Known: true, Size: 13},
		},
		"below two bridges": {
			raw:  raw{pid: 8, tid: 8, size: 1, buffer: userBuffer, magic: sysfsMagic, command: "sh", names: deep, data: "x and what was there before"},
			want: wire.SysWrite{Time: then, Command: "sh", TID: 8, PID: 8, Path: "devices/pci0000:00/0000:00:04.0/0000:01:00.0/0000:02:00.0/nvme/nvme0/nvme0n1/queue/scheduler", Data: "x", Known: true, Size: 1},
		},
		"our own": {
			raw:  raw{pid: os.Getpid(), tid: 9, buffer: userBuffer, magic: sysfsMagic, names: names},
			want: wire.SysWrite{Time: then, TID: 9, PID: os.Getpid(), Own: true, Path: "bus/pci/drivers/nvme/unbind", Known: true},
		},
		"data that could not be read": {
			raw:  raw{pid: 8, tid: 9, size: 1, buffer: userBuffer, fault: -14, magic: sysfsMagic, names: names, data: "y"},
			want: wire.SysWrite{Time: then, TID: 9, PID: 8, Path: "bus/pci/drivers/nvme/unbind", Size: 1},
		},
		"not a plain buffer": {
			raw:  raw{pid: 8, tid: 9, size: 1, buffer: 1, magic: sysfsMagic, names: names, data: "y"},
			want: wire.SysWrite{Time: then, TID: 9, PID: 8, Path: "bus/pci/drivers/nvme/unbind", Size: 1},
		},
		"more data than there is room for": {
			raw:  raw{pid: 8, tid: 9, size: dataSize + 1, buffer: userBuffer, magic: sysfsMagic, names: names, data: strings.Repeat("y", dataSize)},
			want: wire.SysWrite{Time: then, TID: 9, PID: 8, Path: "bus/pci/drivers/nvme/unbind", Size: dataSize + 1},
		},
		"a cgroup": {raw: raw{pid: 8, tid: 9, magic: 0x63677270, names: names}, not: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok, err := parseRecord(test.raw.bytes(), userBuffer)
			if err != nil || ok == test.not {
				t.Fatalf("ok %v, %v", ok, err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("write (-want +got):\n%s", diff)
			}
		})
	}
}

func TestARecordThatTellsTooLittleIsAnError(t *testing.T) {
	endless := raw{magic: sysfsMagic, names: strings.Split(strings.Repeat("a ", levels), " ")}
	for name, b := range map[string][]byte{"no root in sight": endless.bytes(), "cut short": endless.bytes()[:recordData]} {
		if w, _, err := parseRecord(b, 0); err == nil {
			t.Errorf("%s: %+v, want an error", name, w)
		}
	}
}
