package sysfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

// space is config space with words put into it.
func space(size int, words map[int]uint32) string {
	c := make([]byte, size)
	for at, word := range words {
		binary.LittleEndian.PutUint32(c[at:], word)
	}
	return string(c)
}

// header is the header of an extended capability.
func header(capability, next uint32) uint32 { return next<<20 | 1<<16 | capability }

func TestSerialNumber(t *testing.T) {
	const dsn, aer, listed = 0x0003, 0x0001, 1 << 20
	number := map[int]uint32{0x104: 0x55667788, 0x108: 0x11223344}
	with := func(words map[int]uint32, at int, word uint32) map[int]uint32 {
		all := map[int]uint32{at: word}
		for k, v := range words {
			all[k] = v
		}
		return all
	}
	for _, test := range []struct {
		name   string
		config string
		want   uint64
		fault  string // what the error says, "" for none
	}{
		{"the first capability", space(4096, with(number, 0x100, header(dsn, 0))), 0x1122334455667788, ""},
		{"a later capability", space(4096, map[int]uint32{
			0x100: header(aer, 0x148), 0x148: header(dsn, 0x158), 0x14c: 1, 0x158: header(aer, 0),
		}), 1, ""},
		{"a chain that goes back before it comes to it", space(4096, map[int]uint32{
			0x100: header(aer, 0x200), 0x200: header(aer, 0x150), 0x150: header(dsn, 0), 0x154: 7,
		}), 7, ""},
		{"none in the chain", space(4096, map[int]uint32{0x100: header(aer, 0x148), 0x148: header(aer, 0)}), 0, ""},
		{"no extended capabilities", space(4096, nil), 0, ""},
		{"no extended capabilities, said in words of the specification", space(4096, map[int]uint32{0x100: 0xffff}), 0, ""},
		{"config of an unprivileged reader", space(64, nil), 0, "ends at 64 bytes for who lacks CAP_SYS_ADMIN"},
		{"the same of a CardBus bridge", space(128, nil), 0, "ends at 128 bytes"},
		{"empty config", "", 0, "ends at 0 bytes"},
		{"config of a conventional device", space(256, nil), 0, ""},
		{"the same with a list of capabilities", space(256, map[int]uint32{4: listed, 0x34: 0x40, 0x40: 0x5001, 0x50: 0x0005}), 0, ""},
		{"the same with a list that never ends", space(256, map[int]uint32{4: listed, 0x34: 0x40, 0x40: 0x4001}), 0, ""},
		{"a PCI Express device of which the machine reaches 256 bytes", space(256, map[int]uint32{4: listed, 0x34: 0x40, 0x40: 0x5001, 0x50: 0x0010}), 0,
			"no further than the first 256 bytes"},
		{"config of a device that is off or dead: all ones", strings.Repeat("\xff", 4096), 0, "does not answer"},
		{"the same where the machine reaches 256 bytes", strings.Repeat("\xff", 256), 0, "does not answer"},
		{"one that dies meanwhile", space(4096, map[int]uint32{0x100: header(aer, 0x148), 0x148: 0xffffffff}), 0, "does not answer"},
		{"a chain that ends in itself", space(4096, map[int]uint32{0x100: header(aer, 0x100)}), 0, ""},
		{"a chain of two that never ends", space(4096, map[int]uint32{0x100: header(aer, 0x148), 0x148: header(aer, 0x100)}), 0, ""},
		{"a chain into the standard header", space(4096, with(map[int]uint32{0x40: header(dsn, 0), 0x44: 9}, 0x100, header(aer, 0x40))), 0, ""},
		{"a chain past what can be read", space(0x200, map[int]uint32{0x100: header(aer, 0x200)}), 0, "ends at 512 bytes"},
		{"a number that is cut off", space(0x10b, map[int]uint32{0x100: header(dsn, 0), 0x104: 5}), 0, "ends at 267 bytes"},
		{"a number at the very end", space(0x10c, with(number, 0x100, header(dsn, 0))), 0x1122334455667788, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := serialNumber(test.config)
			if got != test.want {
				t.Errorf("serial number is %#x, want %#x", got, test.want)
			}
			if said := fmt.Sprint(err); (err != nil) != (test.fault != "") || !strings.Contains(said, test.fault) && err != nil {
				t.Errorf("the error is %v, want %q", err, test.fault)
			}
			if errors.Is(err, fs.ErrPermission) != strings.Contains(test.fault, "ends at") {
				t.Errorf("the error is %v: is it for want of a right?", err)
			}
		})
	}
}
